"""How rows are stored: float32, or bfloat16 and float16 as uint16 bits. Arithmetic is float32.

16-bit numbers are written with stochastic rounding: a number between two representable ones is
rounded up with a probability equal to its distance from the lower one, so its expectation is
unchanged. The small steps of an optimizer then add up; rounding to nearest would lose them.
The random bits are a function of (seed, step, key, column), not of threads or of row numbers,
which change when a table is restored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np
from numba import literally
from numpy.typing import NDArray

from elastic_embeddings.core.hashing import GOLDEN, mix, mix64
from elastic_embeddings.core.native import copy_vector, inlined

Storage = Literal["float32", "bfloat16", "float16"]

_16_BIT_TYPES: dict[Storage, Any] = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}

# Kernels use unsigned constants of one width: numba would widen mixed ones to int64 or float64.
_ONE, _3, _13, _15, _16, _31 = (np.uint32(number) for number in (1, 3, 13, 15, 16, 31))
_MAGNITUDE, _SIGN, _INFINITY = np.uint32(0x7FFFFFFF), np.uint32(0x80000000), np.uint32(0x7F800000)
_HALF_MAGNITUDE, _HALF_LARGEST = np.uint32(0x7FFF), np.uint32(0x7BFF)
_HALF_INFINITY, _HALF_NAN = np.uint32(0x7C00), np.uint32(0x7E00)
_BFLOAT_LARGEST, _BFLOAT_QUIET = np.uint32(0x7F7F), np.uint32(0x0040)
_REBIAS = np.uint32((127 - 15) << 10)  # from float32's exponent to float16's, at float16's place
_NORMAL = np.uint32((127 - 14) << 23)  # float32 bits of 2^-14, float16's smallest normal number
# Subnormal float16 numbers are multiples of 2^-24.
_HALF_STEPS, _HALF_STEP = np.float32(2.0**24), np.float32(2.0**-24)
_DRAWS = np.float32(2.0**16)
_DRAW_BITS, _DRAWS_PER_HASH, _DRAW_MASK = np.uint64(16), np.uint64(4), np.uint64(0xFFFF)


def storage_dtype(storage: Storage) -> np.dtype[Any]:
    """Return the NumPy dtype of stored arrays: float32, or uint16 for the bits of 16-bit types."""
    return np.dtype(np.float32 if storage == "float32" else np.uint16)


def encode(values: NDArray[np.float32], storage: Storage) -> NDArray[Any]:
    """Return the values as stored, rounded to nearest; finite values stay finite."""
    if storage == "float32":
        return np.asarray(values, np.float32)
    dtype = np.dtype(_16_BIT_TYPES[storage])
    largest = np.float32(ml_dtypes.finfo(dtype).max)
    # Rounding to nearest would turn numbers above the largest one into infinity.
    bounded = np.where(np.isfinite(values), np.clip(values, -largest, largest), values)
    return bounded.astype(np.float32).astype(dtype).view(np.uint16)


def decode(stored: NDArray[Any], storage: Storage) -> NDArray[np.float32]:
    """Return the exact values of a stored array; a float32 array itself."""
    kept = stored if storage == "float32" else stored.view(_16_BIT_TYPES[storage])
    return kept.astype(np.float32, copy=False)


def rounding_salt(seed: int, step: int) -> np.uint64:
    """Return the salt of the random bits of one step."""
    # An array of one: scalars of NumPy would warn about the overflow.
    salts = np.array([seed & (2**64 - 1)], np.uint64)
    return np.uint64(mix64(mix64(salts) ^ np.uint64(step))[0])


# Everything below runs in compiled code.


@inlined
def key_stream(salt: np.uint64, key: np.int64) -> np.uint64:
    """Return the stream of random bits of one key's row in one step."""
    return mix(salt ^ np.uint64(key))


@inlined
def random_bits(stream: np.uint64, column: int) -> np.uint32:
    """Return 16 uniform bits for a column of the row; one hash serves four columns."""
    position = np.uint64(column)
    bits = mix(stream + (position // _DRAWS_PER_HASH) * GOLDEN)
    return np.uint32((bits >> (position % _DRAWS_PER_HASH * _DRAW_BITS)) & _DRAW_MASK)


@inlined
def widen_bfloat16(bits: np.uint16) -> np.float32:
    """Return the float32 of bfloat16 bits."""
    return _float_of(np.uint32(bits) << _16)


@inlined
def narrow_bfloat16(value: np.float32, noise: np.uint32) -> np.uint16:
    """Return the bfloat16 bits of a float32, rounded by 16 uniform bits.

    Finite numbers stay finite, NaN stays NaN.
    """
    bits = _bits_of(value)
    magnitude = bits & _MAGNITUDE
    if magnitude > _INFINITY:
        # A NaN whose only set bits are in the lower half would become infinity without this bit.
        return np.uint16(bits >> _16 | _BFLOAT_QUIET)
    # The noise carries into the upper half with the probability that the lower half stands for.
    rounded = (magnitude + noise) >> _16
    if magnitude < _INFINITY:
        # The carry of a number close to the largest one would reach infinity.
        rounded = min(rounded, _BFLOAT_LARGEST)
    return np.uint16((bits & _SIGN) >> _16 | rounded)


@inlined
def widen_float16(bits: np.uint16) -> np.float32:
    """Return the float32 of float16 bits."""
    magnitude = np.uint32(bits) & _HALF_MAGNITUDE
    if magnitude >= _HALF_INFINITY:
        wide = _INFINITY | magnitude << _13
    elif magnitude < np.uint32(1 << 10):  # subnormal
        wide = _bits_of(np.float32(magnitude) * _HALF_STEP)
    else:
        wide = (magnitude + _REBIAS) << _13
    return _float_of(wide | (np.uint32(bits) >> _15) << _31)


@inlined
def narrow_float16(value: np.float32, noise: np.uint32) -> np.uint16:
    """Return the float16 bits of a float32, rounded by 16 uniform bits.

    Finite numbers stay finite, NaN stays NaN.
    """
    bits = _bits_of(value)
    magnitude = bits & _MAGNITUDE
    if magnitude >= _INFINITY:
        rounded = _HALF_INFINITY if magnitude == _INFINITY else _HALF_NAN
    elif magnitude < _NORMAL:
        # Subnormal: the whole steps, and one more with the probability of the rest.
        steps = _float_of(magnitude) * _HALF_STEPS
        whole = np.uint32(steps)
        up = np.float32(noise) < (steps - np.float32(whole)) * _DRAWS
        rounded = whole + (_ONE if up else np.uint32(0))
    else:
        # 13 bits are dropped, so the upper 13 of the 16 uniform bits are added.
        rounded = min(((magnitude + (noise >> _3)) >> _13) - _REBIAS, _HALF_LARGEST)
    return np.uint16((bits & _SIGN) >> _16 | rounded)


@inlined
def _bits_of(value: np.float32) -> np.uint32:
    return np.float32(value).view(np.uint32)


@inlined
def _float_of(bits: np.uint32) -> np.float32:
    return np.uint32(bits).view(np.float32)  # the cast: numba computes in 64 bits


Block = NDArray[np.float32]  # scratch memory
Stored = NDArray[Any]  # float32, or uint16 bits


class RowStorage(NamedTuple):
    """How a run of `width` numbers is copied between a slab and scratch memory.

    Attributes:
        read: (scratch, i, stored, j, width, lanes): fill `scratch` from i with the numbers that
            are stored from j on.
        write: (stored, j, scratch, i, width, lanes, stream, draw): the reverse; `draw` is the
            column of the first number in the row's stream of random bits.
    """

    read: Callable[..., None]
    write: Callable[..., None]


@inlined
def _read_float32(scratch: Block, i: int, stored: Stored, j: int, width: int, lanes: int) -> None:
    for c in range(0, width, lanes):
        copy_vector(scratch, i + c, stored, j + c, literally(lanes))


@inlined
def _write_float32(
    stored: Stored,
    j: int,
    scratch: Block,
    i: int,
    width: int,
    lanes: int,
    stream: np.uint64,
    draw: int,
) -> None:
    for c in range(0, width, lanes):
        copy_vector(stored, j + c, scratch, i + c, literally(lanes))


@inlined
def _read_bfloat16(scratch: Block, i: int, stored: Stored, j: int, width: int, lanes: int) -> None:
    for c in range(width):
        scratch[i + c] = widen_bfloat16(stored[j + c])


@inlined
def _write_bfloat16(
    stored: Stored,
    j: int,
    scratch: Block,
    i: int,
    width: int,
    lanes: int,
    stream: np.uint64,
    draw: int,
) -> None:
    for c in range(width):
        stored[j + c] = narrow_bfloat16(scratch[i + c], random_bits(stream, draw + c))


@inlined
def _read_float16(scratch: Block, i: int, stored: Stored, j: int, width: int, lanes: int) -> None:
    for c in range(width):
        scratch[i + c] = widen_float16(stored[j + c])


@inlined
def _write_float16(
    stored: Stored,
    j: int,
    scratch: Block,
    i: int,
    width: int,
    lanes: int,
    stream: np.uint64,
    draw: int,
) -> None:
    for c in range(width):
        stored[j + c] = narrow_float16(scratch[i + c], random_bits(stream, draw + c))


ROW_STORAGE: dict[Storage, RowStorage] = {
    "float32": RowStorage(_read_float32, _write_float32),
    "bfloat16": RowStorage(_read_bfloat16, _write_bfloat16),
    "float16": RowStorage(_read_float16, _write_float16),
}
