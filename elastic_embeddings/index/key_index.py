"""From int64 keys to entries in one pass: find or insert, count, stamp and deduplicate.

Entries are numbered densely in the order of first occurrence. What is known of a key (its slab row, its count, when it was
last seen, its field) lies by entry, 16 bytes together, beside its 8 bytes of key and its slot in the hash table.
A batch can be taken back: prepared but unlearned batches leave no trace. Kernels run without the GIL.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.native import (
    LAZY_MEMORY,
    committed_bytes,
    release,
    reserved,
    split_rows,
)
from elastic_embeddings.errors import InputError
from elastic_embeddings.index import kernels, upkeep
from elastic_embeddings.index.distinct import Distinct, distinct
from elastic_embeddings.index.free_rows import FreeRows
from elastic_embeddings.index.hash_slots import HashSlots

_RESERVE = (
    2**28 if LAZY_MEMORY else 2**16
)  # address space, no memory: 6 GiB for entries, 16 GiB for slots
_SLOTS_AN_ENTRY = (
    4  # address space again: enough for the widest capacity that so many entries ask for, twice
)
_MOST = 2**31 - 1
_KEYS_A_THREAD = 16_384
_NO_FIELDS = np.empty(0, np.int16)


@dataclass(frozen=True)
class Assigned:
    """One batch in terms of entries, U of them distinct.

    Attributes:
        entries: int32 [U], the distinct entries in order of first occurrence.
        inverse: int32 [n], for each key its place in `entries`.
        times: int32 [U], what was added to each count: its occurrences, less where the count is full (2³¹ - 1).
        seen_before: int32 [U], the entry's last step before this one; 0 for a new entry.
        new: int32 [k], the entries made by this call, ascending.
        rows, counts, fields: int32 [U] each, what the index has of the entries, this call included.
        step: the step given.
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


class KeyIndex:
    """Entries of int64 keys. One writer at a time; readers must not run beside it (the table holds the lock).

    An entry that was forgotten leaves a hole until `squeeze`: row -1, key, count, last_seen and field 0.

    Args:
        reserve: entries for which address space is set aside; when outgrown it is doubled, at the price of one copy.
    """

    def __init__(self, reserve: int = _RESERVE) -> None:
        self._slots = HashSlots(_SLOTS_AN_ENTRY * reserve)
        self._keys: NDArray[np.int64] = reserved((reserve,), np.int64)
        self._meta: NDArray[np.int32] = reserved((reserve, 4), np.int32)
        self._size = 0
        self._live = 0
        self._free = FreeRows()

    def __len__(self) -> int:
        """Return how many keys are in the index."""
        return self._live

    @property
    def holes(self) -> int:
        """How many entry numbers below the highest one in use are not in use."""
        return self._size - self._live

    @property
    def row_count(self) -> int:
        """How many entries have a row."""
        return self._free.limit - len(self._free)

    @property
    def row_limit(self) -> int:
        """The highest row handed out since the last `compact_rows`; slabs need one row more."""
        return self._free.limit

    @property
    def keys(self) -> NDArray[np.int64]:
        """A view of the keys by entry, int64 [len + holes]."""
        return self._keys[: self._size]

    @property
    def rows(self) -> NDArray[np.int32]:
        """A view of the slab rows by entry, int32 [len + holes]; 0 is not admitted, -1 a hole."""
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

    def assign(
        self, keys: NDArray[np.int64], step: int, fields: NDArray[np.integer] | None = None
    ) -> Assigned:
        """Find or insert the keys, add to their counts and stamp them.

        Args:
            keys: int64 [n], any values, repeated or not.
            step: written to `last_seen` of each key; 0 … 2³¹ - 1.
            fields: int16 [n], or other integers within its range, the field of each key, kept with new entries; 0 where left out.

        Raises:
            InputError: an argument is not as said, or there are more than 2³¹ - 1 keys.
        """
        bits = as_keys(keys).view(np.uint64)
        fields = _as_fields(fields, len(bits))
        if not 0 <= step <= _MOST:
            raise InputError(f"step {step} does not fit: steps are 0 … {_MOST}")
        first, once = self._size, distinct(bits)
        entries = self._entries(once, fields)
        times, seen_before, known = (
            once.times,
            np.empty_like(entries),
            np.empty((3, len(entries)), np.int32),
        )
        kernels.stamp(entries, times, self._meta, step, seen_before, known)
        new = np.arange(first, self._size, dtype=np.int32)
        return Assigned(
            entries, once.inverse, times, seen_before, new, known[0], known[1], known[2], step
        )

    def undo(self, assigned: Assigned) -> None:
        """Take back what `assign` did, the newest call first; rows given since are taken first, by `take_rows`.

        Counts and stamps become what they were; entries made by that call are forgotten. Entries that were forgotten in
        the meantime stay so.
        """
        kernels.unstamp(
            self._meta, assigned.step, assigned.entries, assigned.times, assigned.seen_before
        )
        self.forget(assigned.new[self._meta[assigned.new, kernels.COUNT] == 0])

    def find(self, keys: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the entries int32 [n] of keys int64 [n], -1 where a key is unknown. Changes nothing."""
        return _search(keys, self._slots.find)

    def find_rows(self, keys: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the rows int32 [n] of keys int64 [n], 0 where a key is unknown or not admitted. Changes nothing."""
        return _search(keys, self._find_rows)

    def give_rows(self, entries: NDArray[np.int32]) -> NDArray[np.int32]:
        """Give free rows to entries int32 [k] that have none: the last freed first, then new ones; return them int32 [k]."""
        rows = self._free.give(len(entries))
        self._meta[entries, kernels.ROW] = rows
        return rows

    def take_rows(self, entries: NDArray[np.int32]) -> None:
        """Undo `give_rows` of the same entries, the newest call first."""
        self._free.take(self._meta[entries, kernels.ROW])
        self._meta[entries, kernels.ROW] = 0

    def forget(self, entries: NDArray[np.int32]) -> None:
        """Delete entries int32 [k]; their rows become free, in the order given.

        Numbers of other entries stay as they are. The numbers of the newest entries, where they are deleted, are used again.
        """
        freed = np.empty(len(entries), np.int32)
        made, rows = upkeep.forget(
            self._slots.pairs, self._slots.layout, self._keys, self._meta, entries, freed
        )
        self._free.free(freed[:rows])
        self._live -= made
        self._size = upkeep.trim(self._meta, self._size)

    def live(self) -> NDArray[np.int32]:
        """Return the entries in use, int32 [len], ascending: in the order of first occurrence."""
        return np.flatnonzero(self.rows != kernels.HOLE).astype(np.int32)

    def squeeze(self) -> None:
        """Renumber the entries 0 … len - 1, in their order, and give memory back. Rows stay."""
        self._size = upkeep.close_holes(self._keys, self._meta, self._size)
        release(self._keys, self._size)
        release(self._meta, self._size)
        self._slots.rebuild(self.keys)

    def compact_rows(self) -> NDArray[np.int32]:
        """Renumber the rows 1 … row_count, in their order.

        Returns:
            int32 [row_count], ascending: what is now row i + 1 was the i-th.
        """
        by_row = self._entries_by_row()
        old_rows = np.flatnonzero(by_row).astype(np.int32)
        self._meta[by_row[old_rows] - 1, kernels.ROW] = np.arange(
            1, len(old_rows) + 1, dtype=np.int32
        )
        self._free = FreeRows(len(old_rows))
        return old_rows

    def keys_by_row(self) -> NDArray[np.int64]:
        """Return the admitted keys int64 [row_count] in ascending order of their rows."""
        by_row = self._entries_by_row()
        return self._keys[by_row[by_row > 0] - 1]

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
        """Return the index whose properties of these names equal the arguments; rows are 1 … in the order of entries.

        Args:
            keys: int64 [n], distinct.
            counts, last_seen, fields: [n], any integers within int32.
            has_row: bool [n], whether the entry has a row.

        Raises:
            InputError: a key is there twice.
        """
        index = cls()
        index._reserve(len(keys))
        index._size = index._live = len(keys)
        index.keys[:] = keys
        index.counts[:], index.last_seen[:], index.fields[:] = counts, last_seen, fields
        index.rows[:] = np.cumsum(has_row, dtype=np.int32) * has_row
        index._free = FreeRows(int(np.count_nonzero(has_row)))
        if not index._slots.rebuild(index.keys):
            raise InputError(
                "the keys of an index must be distinct: this checkpoint was not written by this program"
            )
        return index

    def _entries(self, once: Distinct, fields: NDArray[np.int16]) -> NDArray[np.int32]:
        """Find or insert distinct keys, making room where needed; return their entries int32 [U]."""
        entries, done = np.empty(len(once.keys), np.int32), 0
        while True:
            stop = min(self._size + self._slots.room(self._live), len(self._keys))
            tables = (
                self._slots.pairs,
                self._slots.layout,
                self._keys,
                self._meta,
                self._size,
                stop,
            )
            done, size = kernels.assign(*tables, once.keys, once.firsts, fields, done, entries)
            self._live += size - self._size
            self._size = size
            if done == len(entries):
                return entries
            self._make_room()

    def _find_rows(self, bits: NDArray[np.uint64], out: NDArray[np.int32]) -> None:
        self._slots.find(bits, out)
        kernels.to_rows(self._meta, out)

    def _make_room(self) -> None:
        if self._size == len(self._keys):
            self._reserve(self._size + 1)
        if self._slots.room(self._live) == 0:
            self._slots.make_room(self._live)

    def _reserve(self, entries: int) -> None:
        if entries > _MOST:
            raise InputError(
                f"an index holds at most {_MOST} keys: evict, squeeze or split the table"
            )
        if entries > len(self._keys):
            length = min(max(entries, 2 * len(self._keys)), _MOST)
            self._keys, self._meta = (
                _longer(self._keys, length, self._size),
                _longer(self._meta, length, self._size),
            )

    def _entries_by_row(self) -> NDArray[np.int32]:
        by_row = np.zeros(self._free.limit + 1, np.int32)
        upkeep.entries_by_row(self._meta, self._size, by_row)
        return by_row


def as_keys(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the keys as a contiguous array.

    Raises:
        InputError: not one-dimensional, not int64, or more than 2³¹ - 1 of them.
    """
    keys = np.asarray(keys)
    if keys.dtype != np.int64 or keys.ndim != 1 or len(keys) > _MOST:
        raise InputError(
            f"keys are {keys.dtype} of shape {keys.shape}: give one-dimensional int64, at most {_MOST} at once"
        )
    return np.ascontiguousarray(keys)


def _as_fields(fields: NDArray[np.integer] | None, count: int) -> NDArray[np.int16]:
    if fields is None:
        return _NO_FIELDS
    codes = np.ascontiguousarray(fields, np.int16)
    if codes.shape != (count,) or not np.array_equal(codes, fields):
        raise InputError(
            f"fields of shape {np.shape(fields)}: give whole numbers within int16, one for each of {count} keys"
        )
    return codes


def _search(
    keys: NDArray[np.int64], find: Callable[[NDArray[np.uint64], NDArray[np.int32]], None]
) -> NDArray[np.int32]:
    """Fill int32 [n] from keys int64 [n], on several threads."""
    bits = as_keys(keys).view(np.uint64)
    found = np.empty(len(bits), np.int32)
    split_rows(lambda lo, hi: find(bits[lo:hi], found[lo:hi]), len(bits), at_least=_KEYS_A_THREAD)
    return found


def _longer(array: NDArray, length: int, used: int) -> NDArray:
    longer = reserved((length, *array.shape[1:]), array.dtype)
    longer[:used] = array[:used]
    return longer
