"""The compiled loops of the key index, over plain arrays; `KeyIndex` and `HashSlots` own the arrays and say what they mean.

Arrays, everywhere the same:
    pairs: uint64 [slots, 2], the key and its entry + 1, 0 where the slot is empty.
    layout: three uint64, the capacity, the capacity the table is growing to, and the boundary between the two (`home`).
    keys: int64 [entries]; meta: int32 [entries, 4], the columns ROW … FIELD.

Indices are unsigned, or numba would test each for a Python-like negative index.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.hashing import mix
from elastic_embeddings.core.native import compiled, prefetch

Layout = tuple[np.uint64, np.uint64, np.uint64]

ROW, COUNT, LAST_SEEN, FIELD = 0, 1, 2, 3
HOLE = -1  # the row of an entry that was forgotten, also of one beyond the last in use
COUNT_LIMIT = 2**31 - 1

AHEAD = 32  # so many memory accesses are under way at once
_RING = np.uint64(AHEAD - 1)
SALT = np.uint64(
    0xD6E8FEB86659FD93
)  # arbitrary: keys that were sampled or sharded by their `mix64` spread all the same
ONE, TWO, _FOUR, _S32 = (np.uint64(value) for value in (1, 2, 4, 32))


@compiled
def home(key: np.uint64, layout: Layout) -> np.uint64:
    """The slot at which the search for a key begins.

    The hash is scaled to the capacity (Lemire: Fast Random Integer Generation in an Interval), so a larger capacity keeps
    the order of slots. While the table grows, slots from `boundary` on have moved to where the wider capacity puts them.
    """
    capacity, wider, boundary = layout
    high = mix(key ^ SALT) >> _S32
    at = (high * capacity) >> _S32
    return at if at < boundary else (high * wider) >> _S32


@compiled
def locate(pairs: NDArray[np.uint64], key: np.uint64, at: np.uint64) -> np.uint64:
    """The slot of the key, or the empty slot where it belongs, searching from its home; the last slots are always empty."""
    while pairs[at, 1] != 0 and pairs[at, 0] != key:
        at += ONE
    return at


@compiled
def assign(
    pairs: NDArray[np.uint64],
    layout: Layout,
    keys: NDArray[np.int64],
    meta: NDArray[np.int32],
    size: int,
    stop: int,
    distinct: NDArray[np.uint64],
    firsts: NDArray[np.int32],
    fields: NDArray[np.int16],
    start: int,
    entries: NDArray[np.int32],
) -> tuple[int, int]:
    """Find or insert `distinct[start:]`, until done or `stop` entries are in use; fills `entries` int32 [U].

    Returns:
        how far it came, and the entries in use.
    """
    flat, ring = pairs.reshape(-1), np.empty(AHEAD, np.uint64)
    for u in range(start, min(start + AHEAD, len(distinct))):
        ring[np.uint64(u) & _RING] = home(distinct[u], layout)
        prefetch(flat, ring[np.uint64(u) & _RING] * TWO)
    for u in range(start, len(distinct)):
        key, turn = distinct[u], np.uint64(u) & _RING
        at = locate(pairs, key, ring[turn])
        if pairs[at, 1] == 0:
            if size == stop:
                return u, size
            _insert(
                pairs, keys, meta, at, key, size, fields[firsts[u]] if len(fields) else np.int16(0)
            )
            size += 1
        entries[u] = pairs[at, 1] - ONE
        if u + AHEAD < len(distinct):
            ring[turn] = home(distinct[u + AHEAD], layout)
            prefetch(flat, ring[turn] * TWO)
    return len(distinct), size


@compiled
def _insert(
    pairs: NDArray[np.uint64],
    keys: NDArray[np.int64],
    meta: NDArray[np.int32],
    at: np.uint64,
    key: np.uint64,
    entry: int,
    field: int,
) -> None:
    keys[entry] = np.int64(key)
    meta[entry, ROW] = meta[entry, COUNT] = meta[entry, LAST_SEEN] = 0
    meta[entry, FIELD] = field
    pairs[at, 0], pairs[at, 1] = key, np.uint64(entry + 1)


@compiled
def stamp(
    entries: NDArray[np.int32],
    times: NDArray[np.int32],
    meta: NDArray[np.int32],
    step: int,
    seen_before: NDArray[np.int32],
    known: NDArray[np.int32],
) -> None:
    """Count and stamp distinct entries int32 [U] that occur so many times.

    Cuts `times` int32 [U] to what could be counted; fills int32 [U] with the older stamps and int32 [3, U] with rows,
    counts and fields.
    """
    flat = meta.reshape(-1)
    for u in range(len(entries)):
        if u + AHEAD < len(entries):
            prefetch(flat, np.uint64(entries[u + AHEAD]) * _FOUR)
        entry = np.uint64(entries[u])
        times[u] = min(times[u], COUNT_LIMIT - meta[entry, COUNT])
        seen_before[u] = meta[entry, LAST_SEEN]
        meta[entry, COUNT] += times[u]
        meta[entry, LAST_SEEN] = step
        known[0, u], known[1, u], known[2, u] = (
            meta[entry, ROW],
            meta[entry, COUNT],
            meta[entry, FIELD],
        )


@compiled
def unstamp(
    meta: NDArray[np.int32],
    step: int,
    entries: NDArray[np.int32],
    times: NDArray[np.int32],
    seen_before: NDArray[np.int32],
) -> None:
    """Take `stamp` back; entries that were forgotten since are left alone."""
    for u in range(len(entries)):
        entry = np.uint64(entries[u])
        if meta[entry, ROW] == HOLE:
            continue
        meta[entry, COUNT] -= times[u]
        if meta[entry, LAST_SEEN] == step:
            meta[entry, LAST_SEEN] = seen_before[u]


@compiled
def find(
    pairs: NDArray[np.uint64], layout: Layout, batch: NDArray[np.uint64], entries: NDArray[np.int32]
) -> None:
    """Fill `entries` int32 [n] with those of `batch`, -1 where there is none."""
    flat, ring = pairs.reshape(-1), np.empty(AHEAD, np.uint64)
    for i in range(min(AHEAD, len(batch))):
        ring[np.uint64(i) & _RING] = home(batch[i], layout)
        prefetch(flat, ring[np.uint64(i) & _RING] * TWO)
    for i in range(len(entries)):
        turn = np.uint64(i) & _RING
        entries[i] = np.int64(pairs[locate(pairs, batch[i], ring[turn]), 1]) - 1
        if i + AHEAD < len(entries):
            ring[turn] = home(batch[i + AHEAD], layout)
            prefetch(flat, ring[turn] * TWO)


@compiled
def to_rows(meta: NDArray[np.int32], entries: NDArray[np.int32]) -> None:
    """Replace entries int32 [n] by their rows, -1 by row 0."""
    flat = meta.reshape(-1)
    for i in range(len(entries)):
        if i + AHEAD < len(entries) and entries[i + AHEAD] >= 0:
            prefetch(flat, np.uint64(entries[i + AHEAD]) * _FOUR)
        entries[i] = meta[np.uint64(entries[i]), ROW] if entries[i] >= 0 else 0


@compiled
def group(inverse: NDArray[np.int32], distinct: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Sort the positions of a batch by their distinct entry, keeping their order within one: a counting sort.

    Args:
        inverse: int32 [n], values in 0 … distinct - 1.
        distinct: how many distinct entries there are, U.

    Returns:
        order int32 [n] and offsets int32 [U + 1]: the positions of the u-th entry are order[offsets[u] : offsets[u + 1]].
    """
    offsets, order = np.zeros(distinct + 1, np.int32), np.empty(len(inverse), np.int32)
    for i in range(len(inverse)):
        offsets[np.uint64(inverse[i])] += 1
    total = 0
    for u in range(
        distinct + 1
    ):  # offsets become the ends; filling backwards turns them into the starts
        total += offsets[u]
        offsets[u] = total
    for i in range(len(inverse) - 1, -1, -1):
        place = np.uint64(inverse[i])
        offsets[place] -= 1
        order[np.uint64(offsets[place])] = i
    return order, offsets
