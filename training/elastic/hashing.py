"""The 64-bit mixing function of the index and of initial vectors, and the compiler decorator of the index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S40 = (np.uint64(shift) for shift in (27, 30, 31, 40))
_UNIT = 2.0**-24  # 24 bits fill a float32's mantissa: every uniform is exact

Bits = TypeVar("Bits", np.uint64, NDArray[np.uint64])


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba, without the GIL; on disk from the second process on, where a cache can be written."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no writable cache folder: compile in each process instead
        return numba.njit(nogil=True)(function)


def mix64(bits: Bits) -> Bits:
    """Return the splitmix64 finaliser of `bits`, uint64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators)."""
    bits = bits + _GOLDEN
    bits = (bits ^ (bits >> _S30)) * _FIRST
    bits = (bits ^ (bits >> _S27)) * _SECOND
    return bits ^ (bits >> _S31)


def uniform(keys: NDArray[np.int64], columns: int, seed: int) -> NDArray[np.float32]:
    """Return float32 [n, columns], uniform on [0, 1): each number is a function of (key, seed, column) alone.

    Args:
        keys: int64 [n].
        columns: width of the result.
        seed: any integer; its low 64 bits count.
    """
    salt = mix64(np.full(1, seed & (2**64 - 1), np.uint64))
    streams = mix64(keys.view(np.uint64) ^ salt)
    numbers = mix64(streams[:, None] + np.arange(columns, dtype=np.uint64)[None, :] * _GOLDEN)
    return ((numbers >> _S40).astype(np.float32) * np.float32(_UNIT)).astype(np.float32)
