"""The index against a dictionary: entries, counts, stamps, deduplication, growth, any key."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import InputError
from training.elastic import KeyIndex

EXTREMES = np.array([0, -1, 1, -(2**63), 2**63 - 1, 2**32, -(2**32)], np.int64)
INT64 = st.integers(-(2**63), 2**63 - 1)


def int64(values):
    return np.array(values, np.int64)


class DictIndex:
    """What the index must do, in plain Python."""

    def __init__(self):
        self.entries, self.counts, self.last_seen = {}, [], []

    def assign(self, keys, step):
        distinct, inverse = {}, []
        for key in keys.tolist():
            entry = self.entries.setdefault(key, len(self.entries))
            if entry == len(self.counts):
                self.counts.append(0)
                self.last_seen.append(0)
            self.counts[entry] += 1
            self.last_seen[entry] = step
            inverse.append(distinct.setdefault(entry, len(distinct)))
        return list(distinct), inverse


def assert_same(index, model):
    assert index.keys.tolist() == list(model.entries)
    assert index.counts.tolist() == model.counts
    assert index.last_seen.tolist() == model.last_seen


@given(st.lists(st.lists(st.one_of(st.integers(-5, 5), INT64), max_size=40), max_size=6))
@settings(max_examples=60, deadline=None)
def test_batches_equal_a_dictionary(batches):
    index, model = KeyIndex(), DictIndex()
    for step, batch in enumerate(batches, start=1):
        assigned = index.assign(int64(batch), step)
        entries, inverse = model.assign(int64(batch), step)
        assert assigned.entries.tolist() == entries
        assert assigned.inverse.tolist() == inverse
    assert_same(index, model)


def test_distinct_entries_come_in_order_of_first_occurrence():
    index = KeyIndex()
    index.assign(int64([7]), 1)
    assigned = index.assign(int64([9, 7, 9, 8, 7]), 2)
    assert assigned.entries.tolist() == [1, 0, 2]
    assert assigned.inverse.tolist() == [0, 1, 0, 2, 1]
    assert assigned.entries.dtype == assigned.inverse.dtype == np.int32
    assert index.counts.tolist() == [3, 2, 1]


def test_every_int64_is_a_legal_key():
    index = KeyIndex()
    index.assign(EXTREMES, 1)
    assert index.find(EXTREMES).tolist() == list(range(len(EXTREMES)))
    assert index.find(int64([2, -2])).tolist() == [-1, -1]


def test_find_changes_nothing():
    index = KeyIndex()
    index.assign(int64([1, 2]), 3)
    before = index.nbytes()
    assert index.find(int64([2, 5, 1])).tolist() == [1, -1, 0]
    assert len(index) == 2
    assert index.counts.tolist() == [1, 1]
    assert index.last_seen.tolist() == [3, 3]
    assert index.nbytes() == before


@pytest.mark.parametrize("repeat", [1, 3], ids=["distinct", "each key three times"])
def test_growth_in_the_middle_of_a_batch_loses_nothing(repeat):
    """100,000 distinct keys from a first capacity of about 600, so the slots double eight times within one pass."""
    rng = np.random.default_rng(0)
    keys = np.repeat(np.unique(rng.integers(-(2**63), 2**63, 100_000, dtype=np.int64)), repeat)
    rng.shuffle(keys)
    index, model = KeyIndex(), DictIndex()
    assigned = index.assign(keys, 1)
    entries, inverse = model.assign(keys, 1)
    assert assigned.entries.tolist() == entries
    assert assigned.inverse.tolist() == inverse
    assert_same(index, model)


def test_places_of_an_earlier_larger_batch_do_not_leak_into_the_next():
    index = KeyIndex()
    index.assign(np.arange(500, dtype=np.int64), 1)
    assigned = index.assign(int64([499, 3, 499, 0]), 2)
    assert index.keys[assigned.entries].tolist() == [499, 3, 0]
    assert assigned.inverse.tolist() == [0, 1, 0, 2]


def test_keys_that_share_a_slot_are_kept_apart():
    """Keys chosen to fall on one slot of the first capacity."""
    from training.elastic.hashing import mix64

    candidates = np.arange(400_000, dtype=np.int64)
    colliding = candidates[(mix64(candidates.view(np.uint64)) & np.uint64(1023)) == 5][:200]
    index = KeyIndex()
    index.assign(colliding, 1)
    assert len(colliding) == len(index) == 200
    assert index.find(colliding).tolist() == list(range(200))


def test_rows_are_dense_and_belong_to_the_entries_they_were_given_to():
    index = KeyIndex()
    index.assign(int64([10, 20, 30]), 1)
    assert index.give_rows(np.array([2], np.int32)).tolist() == [1]
    assert index.give_rows(np.array([0], np.int32)).tolist() == [2]
    assert index.rows.tolist() == [2, 0, 1]
    assert index.row_count == 2
    assert index.find_rows(int64([30, 20, 10, 99])).tolist() == [1, 0, 2, 0]
    assert index.keys_by_row().tolist() == [30, 10]


def test_an_empty_batch_is_a_batch():
    index = KeyIndex()
    assigned = index.assign(int64([]), 1)
    assert len(assigned.entries) == len(assigned.inverse) == len(index) == 0
    assert index.find(int64([])).tolist() == []


@pytest.mark.parametrize("keys", [np.array([1.0]), np.array([1], np.int32), np.zeros((2, 2), np.int64)])
def test_what_is_not_one_dimensional_int64_is_refused(keys):
    for call in (lambda: KeyIndex().assign(keys, 1), lambda: KeyIndex().find(keys)):
        with pytest.raises(InputError, match="one-dimensional int64"):
            call()


def test_keys_need_not_be_contiguous():
    index = KeyIndex()
    index.assign(np.arange(10, dtype=np.int64)[::3], 1)
    assert index.keys.tolist() == [0, 3, 6, 9]


def test_an_index_is_rebuilt_from_its_arrays():
    rng = np.random.default_rng(1)
    index = KeyIndex()
    for step in range(1, 4):
        index.assign(rng.integers(0, 5_000, 3_000), step)
    index.give_rows(np.flatnonzero(index.counts >= 2).astype(np.int32))
    rebuilt = KeyIndex.from_arrays(index.keys, index.counts, index.last_seen, index.rows)
    for one, other in ((index.keys, rebuilt.keys), (index.counts, rebuilt.counts), (index.rows, rebuilt.rows)):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(index.last_seen, rebuilt.last_seen)
    assert rebuilt.row_count == index.row_count
    np.testing.assert_array_equal(rebuilt.find(index.keys), np.arange(len(index)))


def test_arrays_with_a_repeated_key_are_refused():
    with pytest.raises(InputError, match="distinct"):
        KeyIndex.from_arrays(int64([1, 1]), int64([1, 1]), int64([1, 1]), np.zeros(2, np.int32))
