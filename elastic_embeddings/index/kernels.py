"""The compiled loops over the entries of the key index. `KeyIndex` owns the arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.native import compiled, prefetch
from elastic_embeddings.index.hash_slots import (
    AHEAD,
    ONE,
    RING_MASK,
    TWO,
    Pairs,
    SlotLayout,
    home,
    locate,
    vacate,
)

ROW, COUNT, LAST_SEEN, FIELD = 0, 1, 2, 3
HOLE = -1  # row of a removed entry
COUNT_LIMIT = 2**31 - 1
_FOUR = np.uint64(4)

Int32s = NDArray[np.int32]


class IndexArrays(NamedTuple):
    """The arrays of an index.

    Attributes:
        pairs, layout: the hash table, of `elastic_embeddings.index.hash_slots`.
        keys: int64 [entries].
        meta: int32 [entries, 4], the columns ROW to FIELD: four entries per cache line.
    """

    pairs: Pairs
    layout: SlotLayout
    keys: NDArray[np.int64]
    meta: Int32s


@compiled
def find_or_insert(
    index: IndexArrays,
    size: int,
    max_size: int,
    distinct: NDArray[np.uint64],
    firsts: Int32s,
    fields: NDArray[np.int16],
    start: int,
    entries: Int32s,
) -> tuple[int, int]:
    """Find or insert `distinct[start:]`, until done or `max_size` entries are in use.

    Writes `entries` int32 [U].

    Returns:
        the position of the first key that is not done, and the number of entries in use.
    """
    pairs, layout, keys, meta = index
    # The homes of the next keys wait in a ring while their cache lines are fetched.
    flat, ring = pairs.reshape(-1), np.empty(AHEAD, np.uint64)
    for u in range(start, min(start + AHEAD, len(distinct))):
        ring[np.uint64(u) & RING_MASK] = home(distinct[u], layout)
        prefetch(flat, ring[np.uint64(u) & RING_MASK] * TWO)
    for u in range(start, len(distinct)):
        key, turn = distinct[u], np.uint64(u) & RING_MASK
        slot = locate(pairs, key, ring[turn])
        if pairs[slot, 1] == 0:
            # No space left: the caller grows the arrays and continues with this key.
            if size == max_size:
                return u, size
            keys[size] = np.int64(key)
            meta[size, ROW] = meta[size, COUNT] = meta[size, LAST_SEEN] = 0
            meta[size, FIELD] = fields[firsts[u]] if len(fields) else np.int16(0)
            size += 1
            pairs[slot, 0], pairs[slot, 1] = key, np.uint64(size)
        entries[u] = pairs[slot, 1] - ONE
        if u + AHEAD < len(distinct):
            ring[turn] = home(distinct[u + AHEAD], layout)
            prefetch(flat, ring[turn] * TWO)
    return len(distinct), size


@compiled
def stamp(
    entries: Int32s, times: Int32s, meta: Int32s, step: int, seen_before: Int32s, known: Int32s
) -> None:
    """Add `times` int32 [U] to the counts of distinct entries int32 [U], and set their last step.

    Limits `times` to what the count can hold. Writes the previous last steps int32 [U], and rows,
    counts and fields int32 [3, U].
    """
    flat = meta.reshape(-1)
    for u in range(len(entries)):
        if u + AHEAD < len(entries):
            prefetch(flat, np.uint64(entries[u + AHEAD]) * _FOUR)
        entry = np.uint64(entries[u])
        # Counts stop at 2³¹ - 1. What was really added is kept, for `unstamp` to subtract.
        times[u] = min(times[u], COUNT_LIMIT - meta[entry, COUNT])
        seen_before[u] = meta[entry, LAST_SEEN]
        meta[entry, COUNT] += times[u]
        meta[entry, LAST_SEEN] = step
        known[0, u] = meta[entry, ROW]
        known[1, u] = meta[entry, COUNT]
        known[2, u] = meta[entry, FIELD]


@compiled
def unstamp(meta: Int32s, step: int, entries: Int32s, times: Int32s, seen_before: Int32s) -> None:
    """Undo `stamp`, except for entries that were removed since."""
    for u in range(len(entries)):
        entry = np.uint64(entries[u])
        if meta[entry, ROW] == HOLE:
            continue
        meta[entry, COUNT] -= times[u]
        if meta[entry, LAST_SEEN] == step:  # else a later batch has seen the key
            meta[entry, LAST_SEEN] = seen_before[u]


@compiled
def to_rows(meta: Int32s, entries: Int32s) -> None:
    """Replace entries int32 [n] by their rows, and -1 by row 0."""
    flat = meta.reshape(-1)
    for i in range(len(entries)):
        if i + AHEAD < len(entries) and entries[i + AHEAD] >= 0:
            prefetch(flat, np.uint64(entries[i + AHEAD]) * _FOUR)
        entries[i] = meta[np.uint64(entries[i]), ROW] if entries[i] >= 0 else 0


@compiled
def remove(index: IndexArrays, entries: Int32s, freed: Int32s) -> tuple[int, int]:
    """Make holes of entries; holes among them are skipped. Writes their rows to `freed`.

    Returns:
        the number of new holes, and the number of freed rows.
    """
    pairs, layout, keys, meta = index
    flat, holes, rows = pairs.reshape(-1), 0, 0
    for i in range(len(entries)):
        if i + AHEAD < len(entries):
            prefetch(flat, home(np.uint64(keys[entries[i + AHEAD]]), layout) * TWO)
        entry = entries[i]
        if meta[entry, ROW] == HOLE:
            continue
        if meta[entry, ROW] > 0:
            freed[rows] = meta[entry, ROW]
            rows += 1
        key = np.uint64(keys[entry])
        vacate(pairs, layout, locate(pairs, key, home(key, layout)))
        keys[entry] = 0
        meta[entry, ROW] = HOLE
        meta[entry, COUNT] = meta[entry, LAST_SEEN] = meta[entry, FIELD] = 0
        holes += 1
    return holes, rows


@compiled
def close_holes(keys: NDArray[np.int64], meta: Int32s, size: int) -> int:
    """Move the entries that are not holes to the front, in order; return their number."""
    kept = 0
    for entry in range(size):
        if meta[entry, ROW] == HOLE:
            continue
        # In place: `kept` is never above `entry`, so nothing is overwritten before it is read.
        keys[kept] = keys[entry]
        meta[kept] = meta[entry]
        kept += 1
    return kept


@compiled
def trim(meta: Int32s, size: int) -> int:
    """Return the number of entries without the holes at the end."""
    while size > 0 and meta[size - 1, ROW] == HOLE:
        size -= 1
    return size


@compiled
def entries_by_row(meta: Int32s, size: int, by_row: Int32s) -> None:
    """Write entry + 1 of each row to `by_row` int32 [highest row + 1], which starts as zeros."""
    for entry in range(size):
        if meta[entry, ROW] > 0:
            by_row[np.uint64(meta[entry, ROW])] = entry + 1
