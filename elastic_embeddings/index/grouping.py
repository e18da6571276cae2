"""The keys of one batch: which are distinct, and the positions of each.

Most keys of click traffic repeat within their batch. The hash table of the whole index is in main
memory, while one for a single batch fits the second-level cache. So each key is looked up in a
small table first, and only the distinct ones, a third or less, in the large one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.hashing import GOLDEN
from elastic_embeddings.core.native import compiled

# uint64, because numba computes a uint64 with a signed integer in float64.
_ONE, _32 = np.uint64(1), np.uint64(32)


class DistinctKeys(NamedTuple):
    """The U distinct keys of a batch, in order of first occurrence.

    Attributes:
        keys: uint64 [U].
        firsts: int32 [U], position of each one's first occurrence.
        times: int32 [U], number of occurrences.
        inverse: int32 [n], position of each key of the batch in `keys`.
    """

    keys: NDArray[np.uint64]
    firsts: NDArray[np.int32]
    times: NDArray[np.int32]
    inverse: NDArray[np.int32]


def distinct_keys(batch: NDArray[np.uint64]) -> DistinctKeys:
    """Return the distinct keys of a batch, uint64 [n]."""
    n = len(batch)
    bits = max(4, n.bit_length())  # more slots than keys, or a search would not end
    slots, shift = np.zeros(1 << bits, np.int32), np.uint64(64 - bits)
    keys, times = np.empty(n, np.uint64), np.zeros(n, np.int32)
    firsts, inverse = np.empty(n, np.int32), np.empty(n, np.int32)
    count = _number(batch, slots, shift, keys, firsts, times, inverse)
    return DistinctKeys(keys[:count], firsts[:count], times[:count], inverse)


@compiled
def _number(
    batch: NDArray[np.uint64],
    slots: NDArray[np.int32],
    shift: np.uint64,
    keys: NDArray[np.uint64],
    firsts: NDArray[np.int32],
    times: NDArray[np.int32],
    inverse: NDArray[np.int32],
) -> int:
    """Number and count the keys by first occurrence; return the number of distinct ones.

    `slots` is a table with linear probing of numbers + 1, 0 if empty.
    """
    mask, count = np.uint64(len(slots) - 1), np.uint64(0)
    for i in range(len(batch)):
        key = batch[i]
        slot = ((key ^ (key >> _32)) * GOLDEN) >> shift  # Fibonacci hashing, Knuth vol. 3, 6.4
        number = np.uint64(slots[slot])
        while number != 0 and keys[number - _ONE] != key:
            slot = (slot + _ONE) & mask
            number = np.uint64(slots[slot])
        if number == 0:
            keys[count], firsts[count] = key, i
            count += _ONE
            slots[slot] = number = count
        times[number - _ONE] += 1
        inverse[i] = number - _ONE
    return int(count)


@compiled
def group(inverse: NDArray[np.int32], distinct: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Sort the positions of a batch by their distinct key: a stable counting sort.

    Args:
        inverse: int32 [n], values in 0 to distinct - 1.
        distinct: number of distinct keys, U.

    Returns:
        order int32 [n] and offsets int32 [U + 1]: the positions of the u-th key are
        order[offsets[u] : offsets[u + 1]].
    """
    offsets, order = np.zeros(distinct + 1, np.int32), np.empty(len(inverse), np.int32)
    for i in range(len(inverse)):
        offsets[np.uint64(inverse[i])] += 1
    # The counts become ends. Filling backwards moves each end to its start, and keeps the order.
    total = 0
    for u in range(distinct + 1):
        total += offsets[u]
        offsets[u] = total
    for i in range(len(inverse) - 1, -1, -1):
        key = np.uint64(inverse[i])
        offsets[key] -= 1
        order[np.uint64(offsets[key])] = i
    return order, offsets
