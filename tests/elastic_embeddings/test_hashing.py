"""The published values of splitmix64, uniforms from it, and compilation without a cache."""

import numpy as np
import pytest

from elastic_embeddings.core.hashing import mix64, uniform
from elastic_embeddings.core.native import compiled


def test_mix64_gives_the_published_splitmix64_sequence():
    """The first outputs of splitmix64 seeded with 1234567, as listed by Rosetta Code."""
    golden = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + i * golden) % 2**64 for i in range(3)], np.uint64)
    assert mix64(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def mixed(bits):
    """splitmix64's finaliser of a Python int."""
    bits = (bits + 0x9E3779B97F4A7C15) % 2**64
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB % 2**64
    return bits ^ bits >> 31


@pytest.mark.parametrize("seed", [0, 17, -1, 2**63 - 1, 2**70 + 5])
def test_uniforms_are_the_upper_24_bits_of_the_key_s_own_stream(seed):
    keys = [0, -1, 5, -(2**63), 2**63 - 1]
    streams = [mixed(key % 2**64 ^ mixed(seed % 2**64)) for key in keys]
    expected = [
        [(mixed((s + j * 0x9E3779B97F4A7C15) % 2**64) >> 40) * 2.0**-24 for j in range(7)]
        for s in streams
    ]
    assert uniform(np.array(keys, np.int64), 7, seed).tolist() == expected


def test_uniforms_can_be_written_into_a_given_array():
    keys, out = np.arange(6, dtype=np.int64), np.full((6, 3), 9, np.float32)
    assert uniform(keys, 3, 1, out=out) is out
    np.testing.assert_array_equal(out, uniform(keys, 3, 1))


def test_uniforms_fill_the_unit_interval_evenly():
    numbers = uniform(np.arange(20_000, dtype=np.int64), 4, seed=3)
    assert numbers.dtype == np.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    expected = numbers.size / 20
    assert (
        (counts - expected) ** 2 / expected
    ).sum() < 45  # χ² of 19 degrees of freedom, p about 0.001
    assert np.abs(np.corrcoef(numbers.T) - np.eye(4)).max() < 0.03


def test_uniforms_depend_on_key_seed_and_column_alone():
    keys = np.array([5, -1, 2**62], np.int64)
    numbers = uniform(keys, 8, seed=1)
    np.testing.assert_array_equal(uniform(keys[::-1].copy(), 8, seed=1), numbers[::-1])
    np.testing.assert_array_equal(uniform(keys, 3, seed=1), numbers[:, :3])
    assert (uniform(keys, 8, seed=2) != numbers).mean() > 0.9
    assert len(np.unique(numbers)) == numbers.size


def test_negative_and_large_seeds_are_seeds():
    keys = np.array([1], np.int64)
    assert not np.array_equal(uniform(keys, 4, -1), uniform(keys, 4, 2**63 - 1))


def test_a_function_that_cannot_be_cached_is_compiled_all_the_same():
    """Code without a file has no folder for a cache, like a read-only installation."""
    namespace = {}
    exec("def double(x):\n    return 2 * x", namespace)
    assert compiled(namespace["double"])(21) == 42
