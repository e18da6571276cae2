"""Pseudo-random properties of ids: functions of (seed, property, id), so that no table is kept.

The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]
Floats = NDArray[np.floating]

# `elastic_embeddings.core.hashing` has the same constants, but importing it loads Numba.
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_MASK = 2**64 - 1


def salt(*parts: int) -> int:
    """Return a 64-bit number for a sequence of integers, such as (seed, property)."""
    state = 0
    for part in parts:
        state = int(mix(np.array([part & _MASK], np.uint64), state)[0])
    return state


def mix(ids: Ints, salted: int) -> NDArray[np.uint64]:
    """Return a hash of each id, uint64 [n], that depends on a number of `salt`."""
    z = ids.astype(np.uint64)
    # Added in Python's integers and masked: NumPy warns when a scalar overflows.
    z += np.uint64((salted + _GOLDEN) & _MASK)
    z ^= z >> np.uint64(30)
    z *= _FIRST
    z ^= z >> np.uint64(27)
    z *= _SECOND
    z ^= z >> np.uint64(31)
    return z


def uniform(ids: Ints, salted: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each id, float64 [n]."""
    # A float64 holds 53 bits exactly.
    return (mix(ids, salted) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def phases(ids: Ints, salted: int, count: int) -> NDArray[np.uint16]:
    """Return `count` independent numbers for each id, uint16 [count, n]."""
    # Each hash has four numbers of 16 bits.
    words = [mix(ids, salt(salted, word)) for word in range(-(-count // 4))]
    shifts = [np.uint64(16 * (i % 4)) for i in range(count)]
    return np.stack([(words[i // 4] >> shifts[i]).astype(np.uint16) for i in range(count)])
