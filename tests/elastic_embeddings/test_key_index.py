"""The index by hand: entries, counts, stamps, undo, rows, holes, squeezing, what it refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from key_index_reference import EXTREMES, DictIndex, assert_same, keys_by_row

from elastic_embeddings.index.grouping import group
from elastic_embeddings.index.kernels import COUNT_LIMIT
from elastic_embeddings.index.key_index import KeyIndex
from features.errors import InputError

INT64 = st.integers(-(2**63), 2**63 - 1)


def int64(values):
    return np.array(values, np.int64)


def int32(values):
    return np.array(values, np.int32)


def index_of(*keys, step=1):
    index = KeyIndex()
    index.find_or_insert(int64(keys), step)
    return index


@given(st.lists(st.lists(st.one_of(st.integers(-5, 5), INT64), max_size=40), max_size=6))
@settings(max_examples=60, deadline=None)
def test_batches_equal_a_dictionary(batches):
    index, model = KeyIndex(), DictIndex()
    for step, batch in enumerate(batches, start=1):
        assigned = index.find_or_insert(int64(batch), step)
        entries, inverse, times, seen_before, new = model.find_or_insert(
            batch, step, [0] * len(batch)
        )
        assert (assigned.entries.tolist(), assigned.inverse.tolist()) == (entries, inverse)
        assert (assigned.times.tolist(), assigned.seen_before.tolist(), assigned.new.tolist()) == (
            times,
            seen_before,
            new,
        )
    assert_same(index, model)


def test_distinct_entries_come_in_order_of_first_occurrence():
    index = index_of(7, step=1)
    assigned = index.find_or_insert(int64([9, 7, 9, 8, 7]), 2)
    assert assigned.entries.tolist() == [1, 0, 2]
    assert assigned.inverse.tolist() == [0, 1, 0, 2, 1]
    assert assigned.times.tolist() == [2, 2, 1]
    assert assigned.seen_before.tolist() == [0, 1, 0]
    assert assigned.new.tolist() == [1, 2]
    assert {array.dtype for array in vars(assigned).values() if isinstance(array, np.ndarray)} == {
        np.dtype(np.int32)
    }
    assert index.counts.tolist() == [3, 2, 1]
    assert index.last_seen.tolist() == [2, 2, 2]


def test_every_int64_is_a_legal_key():
    index = index_of(*EXTREMES)
    assert index.find(EXTREMES).tolist() == list(range(len(EXTREMES)))
    assert index.find(int64([2, -2])).tolist() == [-1, -1]


def test_find_changes_nothing():
    index = index_of(1, 2, step=3)
    before = index.nbytes()
    assert index.find(int64([2, 5, 1])).tolist() == [1, -1, 0]
    assert (len(index), index.counts.tolist(), index.last_seen.tolist()) == (2, [1, 1], [3, 3])
    assert index.nbytes() == before


def test_places_of_an_earlier_larger_batch_do_not_leak_into_the_next():
    index = index_of(*range(500))
    assigned = index.find_or_insert(int64([499, 3, 499, 0]), 2)
    assert index.keys[assigned.entries].tolist() == [499, 3, 0]
    assert assigned.inverse.tolist() == [0, 1, 0, 2]


def test_an_entry_keeps_the_field_of_its_first_occurrence():
    index = KeyIndex()
    index.find_or_insert(int64([5, 6, 5]), 1, np.array([3, 25, 7], np.int16))
    index.find_or_insert(int64([6, 8]), 2, int64([1, -2]))
    index.find_or_insert(int64([9]), 3)
    assert index.fields.tolist() == [3, 25, -2, 0]


def test_a_count_stops_at_its_limit_and_can_be_undone():
    index = KeyIndex.from_arrays(
        int64([4]), int64([COUNT_LIMIT - 1]), int64([1]), np.array([False]), int64([0])
    )
    assigned = index.find_or_insert(int64([4, 4, 4]), 2)
    assert (assigned.times.tolist(), index.counts.tolist()) == ([1], [COUNT_LIMIT])
    index.undo(assigned)
    assert index.counts.tolist() == [COUNT_LIMIT - 1]


def test_undo_restores_counts_and_stamps_and_forgets_new_keys():
    index = index_of(1, 2, step=5)
    one = index.find_or_insert(int64([2, 3, 3]), 6)
    two = index.find_or_insert(int64([3, 4]), 7)
    index.undo(two)
    assert (index.keys.tolist(), index.counts.tolist(), index.last_seen.tolist()) == (
        [1, 2, 3],
        [1, 2, 2],
        [5, 6, 6],
    )
    index.undo(one)
    assert (index.keys.tolist(), index.counts.tolist(), index.last_seen.tolist()) == (
        [1, 2],
        [1, 1],
        [5, 5],
    )
    assert index.find(int64([3, 4])).tolist() == [-1, -1]


def test_undo_of_an_older_call_keeps_what_a_later_one_saw():
    index = KeyIndex()
    older = index.find_or_insert(int64([1]), 1)
    index.find_or_insert(int64([1]), 2)
    index.undo(older)
    assert (index.counts.tolist(), index.last_seen.tolist()) == ([1], [2])


def test_what_was_forgotten_in_the_meantime_stays_so():
    index = index_of(10, 20, 30)
    assigned = index.find_or_insert(int64([20, 40, 50]), 2)
    index.remove(int32([1, 4]))
    index.undo(assigned)
    assert (index.keys.tolist(), index.rows.tolist()) == ([10, 0, 30], [0, -1, 0])
    assert (index.counts.tolist(), index.last_seen.tolist()) == ([1, 0, 1], [1, 0, 1])


def test_rows_belong_to_the_entries_they_were_given_to():
    index = index_of(10, 20, 30)
    assert index.allocate_rows(int32([2])).tolist() == [1]
    assert index.allocate_rows(int32([0])).tolist() == [2]
    assert index.rows.tolist() == [2, 0, 1]
    assert (index.row_count, index.row_limit) == (2, 2)
    assert index.find_rows(int64([30, 20, 10, 99])).tolist() == [1, 0, 2, 0]
    assert keys_by_row(index) == [30, 10]


def test_freed_rows_are_given_first_the_last_freed_before_the_others():
    index = index_of(*range(6))
    index.allocate_rows(int32([0, 1, 2, 3]))
    index.remove(int32([2, 0]))
    assert (index.row_count, index.row_limit) == (2, 4)
    assert index.allocate_rows(int32([4, 5])).tolist() == [1, 3]
    index.deallocate_rows(int32([4, 5]))
    assert index.allocate_rows(int32([5])).tolist() == [1]


def test_taking_a_reused_highest_row_does_not_lower_the_limit():
    index = index_of(1, 2)
    index.allocate_rows(int32([0]))
    index.remove(int32([0]))
    assert index.allocate_rows(int32([1])).tolist() == [1]
    index.deallocate_rows(int32([1]))
    assert (index.row_limit, index.row_count) == (1, 0)


def test_forgotten_entries_leave_holes_and_the_newest_leave_nothing():
    index = index_of(10, 20, 30, 40)
    index.remove(int32([1, 3]))
    assert (len(index), index.holes, index.live().tolist()) == (2, 1, [0, 2])
    assert index.rows.tolist() == [0, -1, 0]
    assert index.find(int64([10, 20, 30, 40])).tolist() == [0, -1, 2, -1]
    assert index.find_or_insert(int64([20]), 2).entries.tolist() == [3], (
        "a hole is not filled: numbers stay in order of occurrence"
    )


def test_squeeze_closes_holes_and_keeps_rows():
    index = index_of(10, 20, 30)
    index.allocate_rows(int32([2, 0]))
    index.remove(int32([1]))
    index.squeeze()
    assert (index.keys.tolist(), index.rows.tolist(), index.holes) == ([10, 30], [2, 1], 0)
    assert index.find(int64([10, 20, 30])).tolist() == [0, -1, 1]


def test_squeeze_gives_memory_back():
    index = index_of(*range(300_000))
    before = index.nbytes()
    index.remove(np.arange(0, 300_000, 3, dtype=np.int32))
    index.remove(np.arange(1, 300_000, 3, dtype=np.int32))
    index.squeeze()
    assert index.nbytes() < before / 2
    assert index.keys.tolist() == list(range(2, 300_000, 3))


def test_compacting_rows_keeps_their_order_and_forgets_the_free_ones():
    index = index_of(10, 20, 30, 40)
    index.allocate_rows(int32([3, 1, 0]))
    index.remove(int32([1]))
    assert index.compact_rows().tolist() == [1, 3]
    assert index.rows.tolist() == [2, -1, 0, 1]
    assert (index.row_count, index.row_limit) == (2, 2)
    assert index.allocate_rows(int32([2])).tolist() == [3]


def test_an_empty_batch_is_a_batch():
    index = KeyIndex()
    assigned = index.find_or_insert(int64([]), 1)
    assert len(assigned.entries) == len(assigned.inverse) == len(index) == 0
    assert index.find(int64([])).tolist() == index.find_rows(int64([])).tolist() == []
    index.undo(assigned)
    index.squeeze()
    assert index.compact_rows().tolist() == index.live().tolist() == []


@pytest.mark.parametrize(
    "keys", [np.array([1.0]), np.array([1], np.int32), np.zeros((2, 2), np.int64)]
)
def test_what_is_not_one_dimensional_int64_is_refused(keys):
    for call in (lambda: KeyIndex().find_or_insert(keys, 1), lambda: KeyIndex().find(keys)):
        with pytest.raises(InputError, match="one-dimensional int64"):
            call()


@pytest.mark.parametrize("fields", [[1], [1, 40_000], [1, 2, 3], [0.5, 1]])
def test_fields_that_are_no_int16_one_for_each_key_are_refused(fields):
    with pytest.raises(InputError, match="int16"):
        KeyIndex().find_or_insert(int64([1, 2]), 1, np.array(fields))


@pytest.mark.parametrize("step", [-1, 2**31])
def test_a_step_out_of_range_is_refused(step):
    with pytest.raises(InputError, match="give a step of 0 to"):
        KeyIndex().find_or_insert(int64([1]), step)


def test_keys_need_not_be_contiguous():
    index = KeyIndex()
    index.find_or_insert(np.arange(10, dtype=np.int64)[::3], 1)
    assert index.keys.tolist() == [0, 3, 6, 9]


def test_an_index_is_rebuilt_from_its_arrays_with_rows_in_the_order_of_entries():
    rng = np.random.default_rng(1)
    index = KeyIndex()
    for step in range(1, 4):
        index.find_or_insert(rng.integers(0, 5_000, 3_000), step, rng.integers(0, 26, 3_000))
    index.allocate_rows(np.flatnonzero(index.counts >= 2).astype(np.int32)[::-1])
    rebuilt = KeyIndex.from_arrays(
        index.keys, index.counts, index.last_seen, index.rows > 0, index.fields
    )
    for name in ("keys", "counts", "last_seen", "fields"):
        np.testing.assert_array_equal(getattr(rebuilt, name), getattr(index, name))
    np.testing.assert_array_equal(rebuilt.rows[index.rows > 0], np.arange(1, index.row_count + 1))
    assert (rebuilt.row_count, rebuilt.row_limit) == (index.row_count, index.row_count)
    np.testing.assert_array_equal(rebuilt.find(index.keys), np.arange(len(index)))


def test_arrays_with_a_repeated_key_are_refused():
    with pytest.raises(InputError, match="distinct"):
        KeyIndex.from_arrays(
            int64([1, 1]), int64([1, 1]), int64([1, 1]), np.zeros(2, bool), int64([0, 0])
        )


@pytest.mark.slow
@given(st.lists(st.integers(0, 6), max_size=60))
@settings(deadline=None)
def test_group_is_a_stable_sort_of_positions(inverse):
    order, offsets = group(int32(inverse), 8)
    np.testing.assert_array_equal(order, np.argsort(int32(inverse), kind="stable"))
    np.testing.assert_array_equal(
        offsets, np.concatenate([[0], np.cumsum(np.bincount(int32(inverse), minlength=8))])
    )
    assert order.dtype == offsets.dtype == np.int32
