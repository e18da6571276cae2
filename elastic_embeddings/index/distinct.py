"""The distinct keys of a batch, before the index is asked: most keys of click traffic repeat within their batch.

The slots of the whole index lie in main memory, those of one batch fit the second cache. So each key is looked up in a
small table that lives for one batch, and only the distinct ones, a third of them or fewer, in the large one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.native import compiled

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ONE, _S32 = np.uint64(1), np.uint64(32)


class Distinct(NamedTuple):
    """The U distinct keys of a batch, in order of first occurrence.

    Attributes:
        keys: uint64 [U].
        firsts: int32 [U], where each occurs first.
        times: int32 [U], how often it occurs.
        inverse: int32 [n], for each key of the batch its place among the distinct ones.
    """

    keys: NDArray[np.uint64]
    firsts: NDArray[np.int32]
    times: NDArray[np.int32]
    inverse: NDArray[np.int32]


def distinct(batch: NDArray[np.uint64]) -> Distinct:
    """Return the distinct keys of a batch, uint64 [n]."""
    n = len(batch)
    bits = max(4, n.bit_length())
    keys, firsts, inverse = np.empty(n, np.uint64), np.empty(n, np.int32), np.empty(n, np.int32)
    found = _number(
        batch, np.zeros(1 << bits, np.int32), np.uint64(64 - bits), keys, firsts, inverse
    )
    times = np.zeros(found, np.int32)
    _count(inverse, times)
    return Distinct(keys[:found], firsts[:found], times, inverse)


@compiled
def _number(
    batch: NDArray[np.uint64],
    slots: NDArray[np.int32],
    shift: np.uint64,
    keys: NDArray[np.uint64],
    firsts: NDArray[np.int32],
    inverse: NDArray[np.int32],
) -> int:
    """Number the keys by first occurrence; return how many distinct ones there are.

    `slots` holds places + 1, 0 where empty; `shift` is 64 less the bits of its length.
    """
    mask, found = np.uint64(len(slots) - 1), np.uint64(0)
    for i in range(len(batch)):
        key = batch[i]
        at = ((key ^ (key >> _S32)) * _GOLDEN) >> shift  # Fibonacci hashing, Knuth vol. 3, 6.4
        held = np.uint64(slots[at])
        while held != 0 and keys[held - _ONE] != key:
            at = (at + _ONE) & mask
            held = np.uint64(slots[at])
        if held == 0:
            keys[found], firsts[found] = key, i
            found += _ONE
            slots[at] = held = found
        inverse[i] = held - _ONE
    return int(found)


@compiled
def _count(inverse: NDArray[np.int32], times: NDArray[np.int32]) -> None:
    for i in range(len(inverse)):
        times[np.uint64(inverse[i])] += 1
