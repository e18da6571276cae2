"""The 64-bit mixing function of the index and of initial vectors."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.native import compiled, split_rows

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S40 = (np.uint64(shift) for shift in (27, 30, 31, 40))
_UNIT = np.float32(2.0**-24)  # 24 bits fill a float32's mantissa: every uniform is exact
_ROWS_A_THREAD = 4_096

Bits = TypeVar("Bits", np.uint64, NDArray[np.uint64])


def mix64(bits: Bits) -> Bits:
    """Return the splitmix64 finaliser of `bits`, uint64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators)."""
    bits = bits + _GOLDEN
    bits = (bits ^ (bits >> _S30)) * _FIRST
    bits = (bits ^ (bits >> _S27)) * _SECOND
    return bits ^ (bits >> _S31)


mix = compiled(mix64)


def uniform(
    keys: NDArray[np.int64], columns: int, seed: int, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return float32 [n, columns], uniform on [0, 1): each number is a function of (key, seed, column) alone.

    Args:
        keys: int64 [n].
        columns: width of the result.
        seed: any integer; its low 64 bits count.
        out: float32 [n, columns] to write into and return, instead of a new array.
    """
    out = np.empty((len(keys), columns), np.float32) if out is None else out
    bits = np.ascontiguousarray(keys).view(np.uint64)
    salt = mix64(np.full(1, seed & (2**64 - 1), np.uint64))[0]
    split_rows(lambda lo, hi: _uniform(bits, salt, out, lo, hi), len(keys), at_least=_ROWS_A_THREAD)
    return out


@compiled
def _uniform(
    bits: NDArray[np.uint64], salt: np.uint64, out: NDArray[np.float32], lo: int, hi: int
) -> None:
    for i in range(lo, hi):
        stream = mix(bits[i] ^ salt)
        for j in range(out.shape[1]):
            out[i, j] = np.float32(mix(stream + np.uint64(j) * _GOLDEN) >> _S40) * _UNIT
