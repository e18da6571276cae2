"""Derived keys: the same bits in NumPy and TensorFlow, distinct for tables and vocabularies."""

import hashlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings as given_time
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from elastic_embeddings.core.hashing import mix64
from training.models.multi_hash.keys import (
    derived_keys,
    derived_keys_graph,
    mixed,
    mixed_graph,
    weight_keys,
)
from training.models.multi_hash.settings import MultiHashSettings

INT64 = st.integers(-(2**63), 2**63 - 1)
EXTREMES = np.array([0, 1, -1, 2**63 - 1, -(2**63), 2**62, -(2**62), 2**31, -(2**31)], np.int64)
SETTINGS = [
    MultiHashSettings(rows=10, hashes=1),
    MultiHashSettings(rows=1000, hashes=3),
    MultiHashSettings(rows=2**40 + 1, hashes=2, shared=True),
    MultiHashSettings(rows=64, hashes=4, combine="concat"),
    MultiHashSettings(rows=50, hashes=2, combine="weighted", shared=True, weight_rows=333),
    MultiHashSettings(rows=50, hashes=2, combine="weighted", ids=10**6),
    MultiHashSettings(kind="remainders", ids=6040, hashes=2),
    MultiHashSettings(kind="remainders", ids=10**12, hashes=3, combine="concat"),
    MultiHashSettings(kind="remainders", ids=5000, hashes=4, combine="concat"),
]


def ids(count):
    return np.arange(count, dtype=np.int64)


@given_time(deadline=None)
@given(keys=arrays(np.int64, st.integers(0, 20), elements=INT64), salt=st.integers(0, 2**64 - 1))
def test_mixing_in_tensorflow_is_mixing_in_numpy(keys, salt):
    np.testing.assert_array_equal(mixed_graph(tf.constant(keys), salt), mixed(keys, salt))


def test_mixing_is_the_function_of_the_elastic_table():
    expected = [int(mix64(np.full(1, int(key) % 2**64 ^ 77, np.uint64))[0]) for key in EXTREMES]
    np.testing.assert_array_equal(
        mixed(EXTREMES, 77).view(np.uint64), np.array(expected, np.uint64)
    )


@pytest.mark.parametrize("settings", SETTINGS)
@given_time(deadline=None)
@given(keys=arrays(np.int64, st.integers(0, 20), elements=INT64))
def test_the_exported_graph_derives_the_same_keys(settings, keys):
    keys = np.concatenate([keys, EXTREMES])
    np.testing.assert_array_equal(
        derived_keys_graph(tf.constant(keys), settings, "v"), derived_keys(keys, settings, "v")
    )


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_compiled_function_derives_the_same_keys_and_nothing_fails_on_an_empty_batch(settings):
    graph = tf.function(
        lambda keys: derived_keys_graph(keys, settings, "v"),
        input_signature=[tf.TensorSpec([None], tf.int64)],
    )
    np.testing.assert_array_equal(
        graph(tf.constant(EXTREMES)), derived_keys(EXTREMES, settings, "v")
    )
    assert graph(tf.zeros([0], tf.int64)).shape == (0, settings.hashes)
    assert derived_keys(ids(0), settings, "v").shape == (0, settings.hashes)


def test_the_transformation_never_changes():
    """Keys are in checkpoints: another value for the same id would lose what was learned."""
    got = derived_keys(np.array([42], np.int64), MultiHashSettings(rows=1000, hashes=2), "video_id")
    np.testing.assert_array_equal(got, [[8012538452807749566, 3402772405386600739]])
    assert got[0].tolist() == [spelled_out(42, "video_id", table, 500) for table in (0, 1)]


def spelled_out(key, vocabulary, table, rows):
    """The definition in whole numbers of Python."""
    hashed, placed = (salt(f"{vocabulary}\x1f{role}\x1f{table}") for role in ("hash", "table"))
    row = (splitmix(key ^ hashed) & (2**63 - 1)) % rows
    bits = splitmix(row ^ placed)
    return bits - 2**64 if bits >> 63 else bits


def salt(text):
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def splitmix(bits):
    bits = (bits + 0x9E3779B97F4A7C15) % 2**64
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB % 2**64
    return bits ^ bits >> 31


@pytest.mark.parametrize("hashes", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 97, 5000])
def test_remainders_are_unique_for_every_index(hashes, count):
    keys = derived_keys(
        ids(count), MultiHashSettings(kind="remainders", ids=count, hashes=hashes), "v"
    )
    assert len(np.unique(keys, axis=0)) == count


def test_remainders_by_hand():
    settings = MultiHashSettings(kind="remainders", ids=10, rows=9)  # mod 4 and mod 3
    keys = derived_keys(ids(10), settings, "v")
    np.testing.assert_array_equal(keys[:6, 0], keys[4:, 0])
    np.testing.assert_array_equal(keys[:7, 1], keys[3:, 1])
    assert [len(np.unique(column)) for column in keys.T] == [4, 3]


def test_an_index_out_of_range_is_wrapped_around():
    settings = MultiHashSettings(kind="remainders", ids=10)
    got = derived_keys(np.array([13, -1], np.int64), settings, "v")
    np.testing.assert_array_equal(got, derived_keys(np.array([3, 9], np.int64), settings, "v"))


def test_no_more_rows_than_the_tables_have_and_all_of_them_are_used():
    keys = derived_keys(ids(20_000), MultiHashSettings(rows=101, hashes=3), "v")
    assert [len(np.unique(column)) for column in keys.T] == [34, 34, 33]
    assert len(np.unique(keys)) == 101
    shared = derived_keys(ids(20_000), MultiHashSettings(rows=101, hashes=3, shared=True), "v")
    assert len(np.unique(shared)) == 101


def test_rows_are_drawn_evenly_and_tables_independently():
    settings, count = MultiHashSettings(rows=20, hashes=2), 100_000
    first, second = (
        np.unique(column, return_inverse=True)[1]
        for column in derived_keys(ids(count), settings, "v").T
    )
    cells = np.bincount(first * 10 + second, minlength=100)
    chi2 = float(np.sum((cells - count / 100) ** 2 / (count / 100)))
    assert chi2 < 99 + 5 * np.sqrt(2 * 99)


def test_vocabularies_share_no_row_and_have_other_collisions():
    settings = MultiHashSettings(rows=1000, hashes=2)
    one, other = (derived_keys(ids(500), settings, name) for name in ("user", "video"))
    assert not set(one.ravel()) & set(other.ravel())
    assert (
        np.unique(one[:, 0], return_inverse=True)[1]
        != np.unique(other[:, 0], return_inverse=True)[1]
    ).any()


def test_frequent_ids_keep_rows_of_their_own():
    settings, keys = MultiHashSettings(rows=6, hashes=2), np.array([11, 12, 13], np.int64)
    own = np.array([False, True, False])
    got = derived_keys(keys, settings, "v", own)
    np.testing.assert_array_equal(got[1], [12, 12])
    np.testing.assert_array_equal(got[[0, 2]], derived_keys(keys, settings, "v")[[0, 2]])


def test_frequent_ids_have_as_many_chunks_of_their_own_as_there_are_hashes():
    settings = MultiHashSettings(rows=8, hashes=4, combine="concat")
    keys = derived_keys(ids(100), settings, "v", np.ones(100, bool))
    assert len(np.unique(keys)) == 400
    assert not set(keys.ravel()) & set(derived_keys(ids(100), settings, "v").ravel())


def test_every_index_has_weights_of_its_own_where_the_table_is_large_enough():
    settings = MultiHashSettings(kind="remainders", ids=50, combine="weighted", weight_rows=50)
    assert len(np.unique(weight_keys(ids(50), settings, "v"))) == 50
    assert (
        len(np.unique(weight_keys(ids(50), settings.model_copy(update={"weight_rows": 49}), "v")))
        < 50
    )
    hashed = MultiHashSettings(rows=4, ids=50, combine="weighted")
    assert len(np.unique(weight_keys(ids(50), hashed, "v"))) == 50
    assert len(np.unique(derived_keys(ids(50), hashed, "v"), axis=0)) == 4
