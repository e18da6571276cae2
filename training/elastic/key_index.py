"""From int64 keys to entries in one pass: find or insert, count, stamp and deduplicate.

Open addressing with linear probing over a power-of-two array of `(key, word)` pairs, so a probe touches one cache line and
every int64 is a legal key: the word holds the entry + 1 in its low half, 0 where the place is empty. Its high half holds
the entry's place among a batch's distinct entries: valid where that place exists and holds this entry, so that it need
never be cleared (Briggs, Torczon: An Efficient Representation for Sparse Sets).

Entries are numbered densely in the order of first occurrence; what is known of a key (its count, when it was last seen,
its slab row) lies in NumPy arrays by entry. Kernels run without the GIL.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError
from training.elastic.hashing import compiled, mix64

_FIRST_CAPACITY = 1024
_LOAD_NUMERATOR, _LOAD_DENOMINATOR = 5, 8
_ONE = np.uint64(1)
_LOW = 0xFFFFFFFF
_MAX_BATCH = 2**31 - 1


@dataclass(frozen=True)
class Assigned:
    """One batch in terms of entries.

    Attributes:
        entries: int32 [U], the distinct entries in order of first occurrence.
        inverse: int32 [n], for each key its place in `entries`.
    """

    entries: NDArray[np.int32]
    inverse: NDArray[np.int32]


class KeyIndex:
    """Entries of int64 keys. One writer at a time; readers must not run beside it (the table holds the lock)."""

    def __init__(self) -> None:
        self._slots = np.zeros((_FIRST_CAPACITY, 2), np.int64)
        limit = _limit(_FIRST_CAPACITY)
        self._keys = np.zeros(limit, np.int64)
        self._counts = np.zeros(limit, np.int64)
        self._last_seen = np.zeros(limit, np.int64)
        self._rows = np.zeros(limit, np.int32)
        self._size = 0
        self._row_count = 0

    def __len__(self) -> int:
        """Return how many keys were ever assigned."""
        return self._size

    @property
    def row_count(self) -> int:
        """How many entries have a row; rows are 1 … row_count."""
        return self._row_count

    @property
    def keys(self) -> NDArray[np.int64]:
        """A view of the keys by entry, int64 [len]."""
        return self._keys[: self._size]

    @property
    def counts(self) -> NDArray[np.int64]:
        """A view of the occurrences by entry, int64 [len]."""
        return self._counts[: self._size]

    @property
    def last_seen(self) -> NDArray[np.int64]:
        """A view of the step of the last occurrence by entry, int64 [len]."""
        return self._last_seen[: self._size]

    @property
    def rows(self) -> NDArray[np.int32]:
        """A view of the slab rows by entry, int32 [len]; 0 is not admitted."""
        return self._rows[: self._size]

    def assign(self, keys: NDArray[np.int64], step: int) -> Assigned:
        """Find or insert the keys, add to their counts and stamp them.

        Args:
            keys: int64 [n], any values, repeated or not.
            step: written to `last_seen` of each key.

        Raises:
            InputError: `keys` is not a one-dimensional int64 array.
        """
        keys = as_keys(keys)
        distinct, times, inverse = (np.empty(len(keys), np.int32) for _ in range(3))
        done, found = 0, 0
        while True:
            done, self._size, found = _assign(self._slots, self._keys, self._size, keys, done, distinct, times, inverse, found)
            if done == len(keys):
                break
            self._grow(2 * len(self._slots))
        entries = distinct[:found].copy()
        _stamp(entries, times, self._counts, self._last_seen, step)
        return Assigned(entries, inverse)

    def find(self, keys: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the entries int32 [n] of keys int64 [n], -1 where a key was never assigned. Changes nothing."""
        keys = as_keys(keys)
        entries = np.empty(len(keys), np.int32)
        _find(self._slots, keys, entries)
        return entries

    def find_rows(self, keys: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the rows int32 [n] of keys int64 [n], 0 where a key is unknown or not admitted. Changes nothing."""
        entries = self.find(keys)
        return np.where(entries >= 0, self._rows[entries], np.int32(0))

    def give_rows(self, entries: NDArray[np.int32]) -> NDArray[np.int32]:
        """Give the next free rows to entries int32 [k] that have none, in their order; return the rows int32 [k]."""
        rows = np.arange(self._row_count + 1, self._row_count + 1 + len(entries), dtype=np.int32)
        self._rows[entries] = rows
        self._row_count += len(entries)
        return rows

    def keys_by_row(self) -> NDArray[np.int64]:
        """Return the admitted keys int64 [row_count]; the i-th has row i + 1."""
        admitted = np.flatnonzero(self.rows)
        keys = np.empty(self._row_count, np.int64)
        keys[self._rows[admitted] - 1] = self._keys[admitted]
        return keys

    def nbytes(self) -> int:
        """Return the allocated bytes of all arrays."""
        arrays = (self._slots, self._keys, self._counts, self._last_seen, self._rows)
        return sum(array.nbytes for array in arrays)

    @classmethod
    def from_arrays(
        cls, keys: NDArray[np.int64], counts: NDArray[np.int64], last_seen: NDArray[np.int64], rows: NDArray[np.int32]
    ) -> KeyIndex:
        """Return the index whose properties of these names equal the arguments; the keys must be distinct."""
        index = cls()
        index._grow(_capacity_for(len(keys)))
        if len(index.assign(keys, 0).entries) != len(keys):
            raise InputError("the keys of an index must be distinct: this checkpoint was not written by this program")
        index._counts[: len(keys)] = counts
        index._last_seen[: len(keys)] = last_seen
        index._rows[: len(keys)] = rows
        index._row_count = int(np.count_nonzero(rows))
        return index

    def _grow(self, capacity: int) -> None:
        limit = _limit(capacity)
        self._keys, self._rows = _extended(self._keys, limit), _extended(self._rows, limit)
        self._counts, self._last_seen = _extended(self._counts, limit), _extended(self._last_seen, limit)
        slots = np.zeros((capacity, 2), np.int64)
        _move(self._slots, slots)
        self._slots = slots


def as_keys(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the keys as a contiguous array.

    Raises:
        InputError: not one-dimensional, not int64, or more than 2³¹ - 1 of them.
    """
    keys = np.asarray(keys)
    if keys.dtype != np.int64 or keys.ndim != 1 or len(keys) > _MAX_BATCH:
        raise InputError(f"keys are {keys.dtype} of shape {keys.shape}: give one-dimensional int64, at most {_MAX_BATCH} at once")
    return np.ascontiguousarray(keys)


def _limit(capacity: int) -> int:
    return capacity * _LOAD_NUMERATOR // _LOAD_DENOMINATOR


def _capacity_for(entries: int) -> int:
    needed = max(entries * _LOAD_DENOMINATOR // _LOAD_NUMERATOR + 1, _FIRST_CAPACITY)
    return 1 << (needed - 1).bit_length()


def _extended(array: NDArray, length: int) -> NDArray:
    longer = np.zeros(length, array.dtype)
    longer[: len(array)] = array
    return longer


_mix = compiled(mix64)


@compiled
def _probe(slots: NDArray[np.int64], key: int) -> np.uint64:
    """The place of the key in `slots`, or the empty place where it belongs."""
    mask = np.uint64(len(slots) - 1)
    at = _mix(np.uint64(key)) & mask
    while slots[at, 1] != 0 and slots[at, 0] != key:
        at = (at + _ONE) & mask
    return at


@compiled
def _assign(
    slots: NDArray[np.int64],
    keys: NDArray[np.int64],
    size: int,
    batch: NDArray[np.int64],
    start: int,
    distinct: NDArray[np.int32],
    times: NDArray[np.int32],
    inverse: NDArray[np.int32],
    found: int,
) -> tuple[int, int, int]:
    """Assign `batch[start:]` until done or full; return how far it came, the entries in use and the distinct ones."""
    for i in range(start, len(batch)):
        key = batch[i]
        at = _probe(slots, key)
        word = slots[at, 1]
        if word == 0:
            if size == len(keys):
                return i, size, found
            keys[size] = key
            size += 1
            slots[at, 0], word = key, size
        entry = (word & _LOW) - 1
        place = word >> 32
        if place >= found or distinct[place] != entry:
            place = found
            found += 1
            distinct[place], times[place] = entry, 0
            slots[at, 1] = place << 32 | (entry + 1)
        times[place] += 1
        inverse[i] = place
    return len(batch), size, found


@compiled
def _stamp(
    entries: NDArray[np.int32], times: NDArray[np.int32], counts: NDArray[np.int64], last_seen: NDArray[np.int64], step: int
) -> None:
    for i in range(len(entries)):
        counts[entries[i]] += times[i]
        last_seen[entries[i]] = step


@compiled
def _find(slots: NDArray[np.int64], batch: NDArray[np.int64], entries: NDArray[np.int32]) -> None:
    for i in range(len(batch)):
        entries[i] = (slots[_probe(slots, batch[i]), 1] & _LOW) - 1


@compiled
def _move(old: NDArray[np.int64], new: NDArray[np.int64]) -> None:
    """Copy the pairs of one slot array into a larger empty one, words as they are: growth may fall within a batch."""
    for i in range(len(old)):
        if old[i, 1] != 0:
            at = _probe(new, old[i, 0])
            new[at, 0], new[at, 1] = old[i, 0], old[i, 1]
