"""Hashed properties of ids: known answers, uniformity, independence."""

import numpy as np

from simulator.hashing import mix, phases, salt, uniform


def test_the_first_outputs_of_splitmix64_seeded_with_zero():
    # Published sequence of SplitMix64 with seed 0: the state grows by the golden ratio.
    golden = 0x9E3779B97F4A7C15
    outputs = [int(mix(np.array([n * golden & (2**64 - 1)], np.uint64), 0)[0]) for n in range(3)]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_sequential_ids_are_uniform_on_the_unit_interval():
    values = uniform(np.arange(100_000), salt(1, 2))
    counts, _ = np.histogram(values, bins=20, range=(0, 1))
    assert values.min() >= 0
    assert values.max() < 1
    assert np.abs(counts - 5_000).max() < 5 * np.sqrt(5_000)


def test_phases_of_one_id_are_independent_of_each_other_and_of_the_neighbour():
    centred = phases(np.arange(50_000), salt(3), 6) / 2**16 - 0.5
    correlations = np.corrcoef(centred)
    assert np.abs(correlations[~np.eye(6, dtype=bool)]).max() < 5 / np.sqrt(50_000)
    assert abs(np.corrcoef(centred[0, :-1], centred[0, 1:])[0, 1]) < 5 / np.sqrt(50_000)


def test_more_phases_keep_the_first_ones():
    ids = np.arange(100)
    np.testing.assert_array_equal(phases(ids, 7, 9)[:5], phases(ids, 7, 5))


def test_a_salt_depends_on_every_part_and_on_their_order():
    assert len({salt(1, 2), salt(2, 1), salt(1, 3), salt(1), salt(1, 2, 0)}) == 5


def test_ids_are_not_changed_by_hashing_them():
    ids = np.arange(5, dtype=np.uint64)
    mix(ids, 3)
    np.testing.assert_array_equal(ids, np.arange(5))
