"""The compiled loops that keep the key index in shape: growth, deletion, closing holes, over the arrays of `kernels`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.native import compiled, prefetch
from elastic_embeddings.index.kernels import (
    AHEAD,
    COUNT,
    FIELD,
    HOLE,
    LAST_SEEN,
    ONE,
    ROW,
    TWO,
    Layout,
    home,
    locate,
)


@compiled
def migrate(pairs: NDArray[np.uint64], layout: Layout, slots: int) -> int:
    """Move the last `slots` slots below the boundary to where the wider capacity puts them; return the new boundary.

    What is taken out ends at an empty slot, so the search for a key that stays never passes through it.
    """
    end = np.int64(layout[2])
    start = max(end - slots, np.int64(0))
    while pairs[end, 1] != 0:
        end += 1
    block = pairs[start:end].copy()
    pairs[start:end] = 0
    moved = (layout[0], layout[1], np.uint64(start))
    for i in range(len(block)):
        if block[i, 1] != 0:
            at = locate(pairs, block[i, 0], home(block[i, 0], moved))
            pairs[at, 0], pairs[at, 1] = block[i, 0], block[i, 1]
    return int(start)


@compiled
def insert_all(pairs: NDArray[np.uint64], layout: Layout, keys: NDArray[np.int64]) -> bool:
    """Enter the i-th key as entry i into empty slots; False where a key is there twice."""
    flat = pairs.reshape(-1)
    for i in range(len(keys)):
        if i + AHEAD < len(keys):
            prefetch(flat, home(np.uint64(keys[i + AHEAD]), layout) * TWO)
        key = np.uint64(keys[i])
        at = locate(pairs, key, home(key, layout))
        if pairs[at, 1] != 0:
            return False
        pairs[at, 0], pairs[at, 1] = key, np.uint64(i + 1)
    return True


@compiled
def forget(
    pairs: NDArray[np.uint64],
    layout: Layout,
    keys: NDArray[np.int64],
    meta: NDArray[np.int32],
    entries: NDArray[np.int32],
    freed: NDArray[np.int32],
) -> tuple[int, int]:
    """Make holes of entries, those that are none yet; return how many were made and how many rows are in `freed`."""
    flat, made, rows = pairs.reshape(-1), 0, 0
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
        _vacate(pairs, layout, locate(pairs, key, home(key, layout)))
        keys[entry] = 0
        meta[entry, ROW] = HOLE
        meta[entry, COUNT] = meta[entry, LAST_SEEN] = meta[entry, FIELD] = 0
        made += 1
    return made, rows


@compiled
def _vacate(pairs: NDArray[np.uint64], layout: Layout, at: np.uint64) -> None:
    """Empty a slot, moving later keys back that a search would no longer reach (Knuth 6.4, algorithm R)."""
    other = at + ONE
    while pairs[other, 1] != 0:
        if home(pairs[other, 0], layout) <= at:
            pairs[at, 0], pairs[at, 1] = pairs[other, 0], pairs[other, 1]
            at = other
        other += ONE
    pairs[at, 0] = pairs[at, 1] = 0


@compiled
def close_holes(keys: NDArray[np.int64], meta: NDArray[np.int32], size: int) -> int:
    """Move the entries that are no holes to the front, in order; return how many they are."""
    kept = 0
    for entry in range(size):
        if meta[entry, ROW] == HOLE:
            continue
        keys[kept] = keys[entry]
        meta[kept] = meta[entry]
        kept += 1
    return kept


@compiled
def trim(meta: NDArray[np.int32], size: int) -> int:
    """Return how many entries are left without the holes at the end."""
    while size > 0 and meta[size - 1, ROW] == HOLE:
        size -= 1
    return size


@compiled
def entries_by_row(meta: NDArray[np.int32], size: int, by_row: NDArray[np.int32]) -> None:
    """Write each entry + 1 that has a row at its row into `by_row` int32 [highest row + 1], zeros before."""
    for entry in range(size):
        if meta[entry, ROW] > 0:
            by_row[np.uint64(meta[entry, ROW])] = entry + 1
