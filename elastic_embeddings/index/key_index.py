"""From int64 keys to entries in one pass: find or insert, count, stamp and deduplicate.

Entries are numbered densely in order of first occurrence. Arrays by entry hold the key (8 bytes)
and its slab row, count, last step and field (16 bytes, together). The lookup of a batch can be
undone, so batches that were prepared but not trained on leave no trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.memory import LAZY_MEMORY, committed_bytes, release, reserved
from elastic_embeddings.core.threads import split_rows
from elastic_embeddings.errors import InputError
from elastic_embeddings.index import kernels
from elastic_embeddings.index.grouping import DistinctKeys, distinct_keys
from elastic_embeddings.index.hash_slots import HashSlots

# Address space, not memory: 6 GiB for entries, 16 GiB for slots. Four slots per entry are twice
# the widest capacity that so many entries need.
# Without lazy memory a reservation would be committed at once: start small, and copy to grow.
_RESERVE = 2**28 if LAZY_MEMORY else 2**16
_SLOTS_PER_ENTRY = 4
_INT32_MAX = 2**31 - 1
_KEYS_PER_THREAD = 16_384
_NO_FIELDS = np.empty(0, np.int16)


@dataclass(frozen=True)
class KeyLookup:
    """One batch of keys in terms of entries, U of them distinct.

    Attributes:
        entries: int32 [U], the distinct entries in order of first occurrence.
        inverse: int32 [n], position of each key in `entries`.
        times: int32 [U], what was added to each count: the occurrences, limited by 2³¹ - 1.
        seen_before: int32 [U], the entry's last step before this one; 0 for a new entry.
        new: int32 [k], the entries that this call inserted, ascending.
        rows, counts, fields: int32 [U], those of the entries, this call included.
        step: the step of the call.
    """

    entries: NDArray[np.int32]
    inverse: NDArray[np.int32]
    times: NDArray[np.int32]
    seen_before: NDArray[np.int32]
    new: NDArray[np.int32]
    rows: NDArray[np.int32]
    counts: NDArray[np.int32]
    fields: NDArray[np.int32]
    step: int


class FreeRows:
    """The slab rows that are free: freed rows, the last one first, then rows that were never used.

    Rows are numbered from 1.

    Args:
        limit: rows 1 to limit are in use.

    Attributes:
        limit: the highest row that was ever allocated.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self._rows = np.empty(16, np.int32)  # a stack of `_count` rows
        self._count = 0
        self._highest_freed = 0

    def __len__(self) -> int:
        """Return the number of free rows below `limit`."""
        return self._count

    def allocate(self, count: int) -> NDArray[np.int32]:
        """Return free rows, int32 [count]."""
        reused = min(count, self._count)
        self._count -= reused
        # Starts so that the places after the reused rows hold limit + 1, limit + 2, and so on.
        first = self.limit + 1 - reused
        rows = np.arange(first, first + count, dtype=np.int32)
        rows[:reused] = self._rows[self._count : self._count + reused][::-1]
        self.limit += count - reused
        return rows

    def deallocate(self, rows: NDArray[np.int32]) -> None:
        """Undo the call of `allocate` that returned these rows; the newest call first."""
        # The rows that were new in that call are at the limit, and above all rows that were freed.
        backwards = rows[::-1]
        new = (backwards == self.limit - np.arange(len(rows))) & (backwards > self._highest_freed)
        count = int(np.logical_and.accumulate(new).sum())
        self.limit -= count
        self._push(backwards[count:])

    def free(self, rows: NDArray[np.int32]) -> None:
        """Add rows int32 [k]; the last one is allocated first."""
        self._highest_freed = max(self._highest_freed, int(rows.max(initial=0)))
        self._push(rows)

    def nbytes(self) -> int:
        """Return the allocated bytes."""
        return self._rows.nbytes

    def _push(self, rows: NDArray[np.int32]) -> None:
        needed = self._count + len(rows)
        if needed > len(self._rows):
            longer = np.empty(max(needed, 2 * len(self._rows)), np.int32)
            longer[: self._count] = self._rows[: self._count]
            self._rows = longer
        self._rows[self._count : needed] = rows
        self._count = needed


class KeyIndex:
    """Entries of int64 keys. One writer at a time, and no readers meanwhile: the table locks.

    A removed entry leaves a hole until `squeeze`: row -1; key, count, last_seen and field 0.

    Args:
        reserve: entries to reserve address space for. An index that outgrows it is copied once to
            twice the address space.
    """

    def __init__(self, reserve: int = _RESERVE) -> None:
        self._slots = HashSlots(_SLOTS_PER_ENTRY * reserve)
        self._keys: NDArray[np.int64] = reserved((reserve,), np.int64)
        self._meta: NDArray[np.int32] = reserved((reserve, 4), np.int32)
        self._size = 0
        self._live = 0
        self._free = FreeRows()

    def __len__(self) -> int:
        """Return the number of keys."""
        return self._live

    @property
    def holes(self) -> int:
        """Number of holes below the highest entry."""
        return self._size - self._live

    @property
    def row_count(self) -> int:
        """Number of entries that have a row."""
        return self._free.limit - len(self._free)

    @property
    def row_limit(self) -> int:
        """The highest row allocated since the last `compact_rows`; slabs need one row more."""
        return self._free.limit

    @property
    def keys(self) -> NDArray[np.int64]:
        """A view of the keys by entry, int64 [len + holes]."""
        return self._keys[: self._size]

    @property
    def rows(self) -> NDArray[np.int32]:
        """A view of the slab rows by entry, int32 [len + holes]; 0: not admitted, -1: a hole."""
        return self._meta[: self._size, kernels.ROW]

    @property
    def counts(self) -> NDArray[np.int32]:
        """A view of the occurrences by entry, int32 [len + holes]; they stop at 2³¹ - 1."""
        return self._meta[: self._size, kernels.COUNT]

    @property
    def last_seen(self) -> NDArray[np.int32]:
        """A view of the step of the last occurrence by entry, int32 [len + holes]."""
        return self._meta[: self._size, kernels.LAST_SEEN]

    @property
    def fields(self) -> NDArray[np.int32]:
        """A view of the field of the first occurrence by entry, int32 [len + holes]."""
        return self._meta[: self._size, kernels.FIELD]

    def find_or_insert(
        self, keys: NDArray[np.int64], step: int, fields: NDArray[np.integer] | None = None
    ) -> KeyLookup:
        """Find or insert the keys, add to their counts and set their last step.

        Args:
            keys: int64 [n], any values, repeated or not.
            step: written to `last_seen` of each key; 0 to 2³¹ - 1.
            fields: integers [n] within int16, the field of each key, stored with new entries;
                None: 0.

        Raises:
            InputError: an argument is invalid, or there are more than 2³¹ - 1 keys.
        """
        bits = _as_keys(keys).view(np.uint64)
        fields = _as_fields(fields, len(bits))
        if not 0 <= step <= _INT32_MAX:
            raise InputError(f"step is {step}: give a step of 0 to {_INT32_MAX}")
        # 1. Find the distinct keys of the batch, and find or insert these.
        first, batch = self._size, distinct_keys(bits)
        entries, times = self._find_or_insert(batch, fields), batch.times
        # 2. Count and stamp them. The kernel returns rows, counts and fields, of the cache lines
        #    that it changes: a later read would have to fetch them again.
        seen_before, known = np.empty_like(entries), np.empty((3, len(entries)), np.int32)
        kernels.stamp(entries, times, self._meta, step, seen_before, known)
        new = np.arange(first, self._size, dtype=np.int32)
        rows, counts, known_fields = known
        return KeyLookup(
            entries, batch.inverse, times, seen_before, new, rows, counts, known_fields, step
        )

    def undo(self, lookup: KeyLookup) -> None:
        """Undo `find_or_insert`; newest call first, after `deallocate_rows` of rows given since.

        Counts and last steps are restored, and entries that the call inserted are removed. Entries
        that were removed since stay removed.
        """
        kernels.unstamp(self._meta, lookup.step, lookup.entries, lookup.times, lookup.seen_before)
        self.remove(lookup.new[self._meta[lookup.new, kernels.COUNT] == 0])

    def find(self, keys: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the entries int32 [n] of keys int64 [n]; -1: unknown."""
        return self._find(keys, rows=False)

    def find_rows(self, keys: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the rows int32 [n] of keys int64 [n]; 0: unknown or not admitted."""
        return self._find(keys, rows=True)

    def allocate_rows(self, entries: NDArray[np.int32]) -> NDArray[np.int32]:
        """Give free rows to entries int32 [k] that have none; return the rows int32 [k]."""
        rows = self._free.allocate(len(entries))
        self._meta[entries, kernels.ROW] = rows
        return rows

    def deallocate_rows(self, entries: NDArray[np.int32]) -> None:
        """Undo `allocate_rows` of the same entries, newest call first."""
        self._free.deallocate(self._meta[entries, kernels.ROW])
        self._meta[entries, kernels.ROW] = 0

    def remove(self, entries: NDArray[np.int32]) -> None:
        """Remove entries int32 [k] and free their rows, in this order.

        Other entries keep their numbers. Numbers at the end of the index are used again.
        """
        freed = np.empty(len(entries), np.int32)
        holes, rows = kernels.remove(self._arrays(), entries, freed)
        self._free.free(freed[:rows])
        self._live -= holes
        # Without holes at the end, undoing a batch also restores the size: the next keys get the
        # same entries as if the batch had never been prepared.
        self._size = kernels.trim(self._meta, self._size)

    def live(self) -> NDArray[np.int32]:
        """Return the entries that are not holes, int32 [len], in order of first occurrence."""
        return np.flatnonzero(self.rows != kernels.HOLE).astype(np.int32)

    def squeeze(self) -> None:
        """Renumber the entries to 0 to len - 1, in order, and free memory. Rows do not change."""
        self._size = kernels.close_holes(self._keys, self._meta, self._size)
        release(self._keys, self._size)
        release(self._meta, self._size)
        # The entries have new numbers, so every slot is out of date.
        self._slots.rebuild(self.keys)

    def compact_rows(self) -> NDArray[np.int32]:
        """Renumber the rows to 1 to row_count, in order.

        Returns:
            the old rows, int32 [row_count], ascending: old_rows[i] is now row i + 1.
        """
        by_row = np.zeros(self._free.limit + 1, np.int32)
        kernels.entries_by_row(self._meta, self._size, by_row)
        old_rows = np.flatnonzero(by_row).astype(np.int32)
        new_rows = np.arange(1, len(old_rows) + 1, dtype=np.int32)
        self._meta[by_row[old_rows] - 1, kernels.ROW] = new_rows
        self._free = FreeRows(len(old_rows))
        return old_rows

    def nbytes(self) -> int:
        """Return the committed bytes of all arrays."""
        entries = committed_bytes(self._keys, self._size) + committed_bytes(self._meta, self._size)
        return entries + self._slots.nbytes() + self._free.nbytes()

    @classmethod
    def from_arrays(
        cls,
        keys: NDArray[np.int64],
        counts: NDArray[np.integer],
        last_seen: NDArray[np.integer],
        has_row: NDArray[np.bool_],
        fields: NDArray[np.integer],
    ) -> KeyIndex:
        """Return an index with these arrays by entry; rows are numbered in order of entries.

        Args:
            keys: int64 [n], distinct.
            counts, last_seen, fields: integers [n] within int32.
            has_row: bool [n], whether the entry has a row.

        Raises:
            InputError: a key is repeated.
        """
        index = cls()
        # 1. Fill the arrays by entry.
        index._reserve(len(keys))
        index._size = index._live = len(keys)
        index.keys[:] = keys
        index.counts[:], index.last_seen[:], index.fields[:] = counts, last_seen, fields
        # 2. Number the rows in the order of the entries: a checkpoint does not store them.
        index.rows[:] = np.cumsum(has_row, dtype=np.int32) * has_row
        index._free = FreeRows(int(np.count_nonzero(has_row)))
        # 3. Make the hash table of the keys. It notices a repeated key, so no sort is needed.
        if not index._slots.rebuild(index.keys):
            raise InputError(
                "the keys of an index must be distinct: "
                "this checkpoint was not written by this program"
            )
        return index

    def _find_or_insert(self, batch: DistinctKeys, fields: NDArray[np.int16]) -> NDArray[np.int32]:
        """Return the entries int32 [U] of distinct keys, growing the arrays when necessary."""
        slots, done = self._slots, 0
        entries = np.empty(len(batch.keys), np.int32)
        while True:
            # The kernel stops where the entries' arrays are full or the slots have to grow.
            max_size = min(self._size + slots.free(self._live), len(self._keys))
            done, size = kernels.find_or_insert(
                self._arrays(),
                self._size,
                max_size,
                batch.keys,
                batch.firsts,
                fields,
                done,
                entries,
            )
            self._live += size - self._size
            self._size = size
            if done == len(entries):
                return entries
            if self._size == len(self._keys):
                self._reserve(self._size + 1)
            if slots.free(self._live) == 0:
                slots.grow(self._live)

    def _arrays(self) -> kernels.IndexArrays:
        slots = self._slots
        return kernels.IndexArrays(slots.pairs, slots.layout, self._keys, self._meta)

    def _find(self, keys: NDArray[np.int64], *, rows: bool) -> NDArray[np.int32]:
        bits = _as_keys(keys).view(np.uint64)
        found = np.empty(len(bits), np.int32)

        def search(begin: int, end: int) -> None:
            self._slots.find(bits[begin:end], found[begin:end])
            if rows:
                kernels.to_rows(self._meta, found[begin:end])

        # Finding changes nothing, so it is split over threads; inserting has one thread.
        split_rows(search, len(bits), at_least=_KEYS_PER_THREAD)
        return found

    def _reserve(self, entries: int) -> None:
        if entries > _INT32_MAX:
            raise InputError(
                f"an index holds at most {_INT32_MAX} keys: evict, squeeze or split the table"
            )
        if entries > len(self._keys):
            # At least doubled, so that copying costs each key a constant time on average.
            length = min(max(entries, 2 * len(self._keys)), _INT32_MAX)
            self._keys = _longer(self._keys, length, self._size)
            self._meta = _longer(self._meta, length, self._size)


def _as_keys(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    keys = np.asarray(keys)
    if keys.dtype != np.int64 or keys.ndim != 1 or len(keys) > _INT32_MAX:
        raise InputError(
            f"keys are {keys.dtype} of shape {keys.shape}: "
            f"give one-dimensional int64, at most {_INT32_MAX} at once"
        )
    return np.ascontiguousarray(keys)


def _as_fields(fields: NDArray[np.integer] | None, count: int) -> NDArray[np.int16]:
    if fields is None:
        return _NO_FIELDS
    codes = np.ascontiguousarray(fields, np.int16)
    if codes.shape != (count,) or not np.array_equal(codes, fields):
        raise InputError(
            f"fields have the shape {np.shape(fields)}: "
            f"give whole numbers within int16, one for each of {count} keys"
        )
    return codes


def _longer(array: NDArray[Any], length: int, used: int) -> NDArray[Any]:
    longer = reserved((length, *array.shape[1:]), array.dtype)
    longer[:used] = array[:used]
    return longer
