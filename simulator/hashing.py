"""Pseudo-random properties of ids: a function of (seed, property, id), so that no table of ids is kept.

The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood, `Fast splittable pseudorandom number
generators`, OOPSLA 2014).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


def salt(*parts: int) -> int:
    """Return a 64-bit number that stands for a sequence of integers, such as (seed, property)."""
    state = 0
    for part in parts:
        state = int(mix(np.array([part & _MASK], np.uint64), state)[0])
    return state


def mix(ids: npt.NDArray[np.integer], salted: int) -> npt.NDArray[np.uint64]:
    """Return uint64 [n]: the hash of each id under a salt of `salt`."""
    z = ids.astype(np.uint64)
    z += np.uint64((salted + _GOLDEN) & _MASK)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def uniform(ids: npt.NDArray[np.integer], salted: int) -> npt.NDArray[np.float64]:
    """Return float64 [n] in [0, 1), one number per id."""
    return (mix(ids, salted) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def phases(ids: npt.NDArray[np.integer], salted: int, count: int) -> npt.NDArray[np.uint16]:
    """Return uint16 [count, n]: `count` independent numbers per id, four from each hash."""
    words = [mix(ids, salt(salted, word)) for word in range(-(-count // 4))]
    return np.stack(
        [(words[i // 4] >> np.uint64(16 * (i % 4))).astype(np.uint16) for i in range(count)]
    )
