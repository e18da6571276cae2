"""The splitmix64 hash of a key, in NumPy and in compiled code, and uniform numbers from it.

Source: Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.native import compiled
from elastic_embeddings.core.threads import split_rows

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""The increment of splitmix64: 2^64 divided by the golden ratio."""

MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
"""The two multipliers of splitmix64, in the order of their use."""

_MULTIPLIER_1, _MULTIPLIER_2 = MULTIPLIERS
_27, _30, _31, _40 = (np.uint64(shift) for shift in (27, 30, 31, 40))
_UNIT = np.float32(2.0**-24)  # 24 bits fit the mantissa of a float32, so every uniform is exact
_ROWS_PER_THREAD = 4_096

Bits = TypeVar("Bits", np.uint64, NDArray[np.uint64])


def mix64(bits: Bits) -> Bits:
    """Return the first output of splitmix64 from the state `bits`, uint64: a bijection."""
    bits = bits + GOLDEN
    bits = (bits ^ (bits >> _30)) * _MULTIPLIER_1
    bits = (bits ^ (bits >> _27)) * _MULTIPLIER_2
    return bits ^ (bits >> _31)


mix = compiled(mix64)
"""`mix64` for compiled code."""


def uniform(
    keys: NDArray[np.int64], columns: int, seed: int, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return float32 [n, columns], uniform on [0, 1), a function of (key, seed, column) alone.

    Args:
        keys: int64 [n].
        columns: width of the result.
        seed: any integer; its low 64 bits are used.
        out: float32 [n, columns] to write to and return, instead of a new array.
    """
    out = np.empty((len(keys), columns), np.float32) if out is None else out
    bits = np.ascontiguousarray(keys).view(np.uint64)
    # An array of one: scalars of NumPy would warn about the overflow.
    salt = mix64(np.full(1, seed & (2**64 - 1), np.uint64))[0]
    split_rows(_uniform, len(keys), bits, salt, out, at_least=_ROWS_PER_THREAD)
    return out


@compiled
def _uniform(
    bits: NDArray[np.uint64], salt: np.uint64, out: NDArray[np.float32], begin: int, end: int
) -> None:
    for i in range(begin, end):
        stream = mix(bits[i] ^ salt)
        for column in range(out.shape[1]):
            word = mix(stream + np.uint64(column) * GOLDEN)
            out[i, column] = np.float32(word >> _40) * _UNIT
