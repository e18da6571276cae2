"""16-bit storage: bfloat16 and float16 kept as uint16 bits, written with stochastic rounding. Arithmetic stays float32.

A number between two representable ones is rounded up with a probability equal to how far along it lies, so that its
expectation is itself: an optimizer's small steps add up, where rounding to nearest would lose them all. The draw is a
function of (salt, row, column) alone, and the salt of (seed, step): threads and the order of rows do not matter.
"""

from __future__ import annotations

from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.hashing import mix, mix64
from elastic_embeddings.optimizers.elementwise import inlined

Storage = Literal["float32", "bfloat16", "float16"]

_ONE, _S3, _S13, _S15, _S16, _S31 = (np.uint32(number) for number in (1, 3, 13, 15, 16, 31))
_MAGNITUDE, _SIGN, _INFINITY = np.uint32(0x7FFFFFFF), np.uint32(0x80000000), np.uint32(0x7F800000)
_HALF_MAGNITUDE, _HALF_LARGEST = np.uint32(0x7FFF), np.uint32(0x7BFF)
_HALF_INFINITY, _HALF_NAN = np.uint32(0x7C00), np.uint32(0x7E00)
_BFLOAT_LARGEST, _BFLOAT_QUIET = np.uint32(0x7F7F), np.uint32(0x0040)
_REBIAS = np.uint32((127 - 15) << 10)  # from float32's exponent to float16's, at float16's place
_NORMAL = np.uint32((127 - 14) << 23)  # float32 bits of 2^-14, float16's smallest normal number
_HALF_STEPS, _HALF_STEP = (
    np.float32(2.0**24),
    np.float32(2.0**-24),
)  # float16's subnormal numbers are multiples of 2^-24
_DRAWS = np.float32(2.0**16)
_LANE_BITS, _LANES = np.uint64(16), np.uint64(4)
_GOLDEN, _LANE_MASK = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xFFFF)


def storage_dtype(storage: Storage) -> np.dtype[Any]:
    """Return the NumPy dtype of stored arrays: float32, or uint16 for the bits of 16-bit kinds."""
    return np.dtype(np.float32 if storage == "float32" else np.uint16)


def encode(values: NDArray[np.float32], storage: Storage) -> NDArray[Any]:
    """Return the values as stored, rounded to nearest; finite ones stay finite."""
    if storage == "float32":
        return np.asarray(values, np.float32)
    kind = np.dtype(_KINDS[storage])
    largest = np.float32(ml_dtypes.finfo(kind).max)
    bounded = np.where(np.isfinite(values), np.clip(values, -largest, largest), values)
    return bounded.astype(np.float32).astype(kind).view(np.uint16)


def decode(stored: NDArray[Any], storage: Storage) -> NDArray[np.float32]:
    """Return what the stored array stands for, exactly; a float32 array as it is."""
    return stored if storage == "float32" else stored.view(_KINDS[storage]).astype(np.float32)


_KINDS: dict[Storage, Any] = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def rounding_salt(seed: int, step: int) -> np.uint64:
    """Return the salt of one step's draws."""
    salts = np.array([seed & (2**64 - 1)], np.uint64)
    return np.uint64(mix64(mix64(salts) ^ np.uint64(step))[0])


@inlined
def row_stream(salt: np.uint64, row: int) -> np.uint64:
    """Return the stream of draws of one row in one step, in compiled code."""
    return mix(salt ^ np.uint64(row))


@inlined
def draw(stream: np.uint64, column: int) -> np.uint32:
    """Return 16 uniform bits for a column of the row, in compiled code; one hash serves four columns."""
    place = np.uint64(column)
    bits = mix(stream + (place // _LANES) * _GOLDEN)
    return np.uint32((bits >> (place % _LANES * _LANE_BITS)) & _LANE_MASK)


@inlined
def widen_bfloat16(bits: np.uint16) -> np.float32:
    """Return the float32 of bfloat16 bits, in compiled code."""
    return _float_of(np.uint32(bits) << _S16)


@inlined
def narrow_bfloat16(value: np.float32, noise: np.uint32) -> np.uint16:
    """Return bfloat16 bits of a float32, rounded by 16 uniform bits, in compiled code. Finite stays finite, NaN NaN."""
    bits = _bits_of(value)
    magnitude = bits & _MAGNITUDE
    if magnitude > _INFINITY:
        return np.uint16(bits >> _S16 | _BFLOAT_QUIET)
    rounded = (magnitude + noise) >> _S16
    if magnitude < _INFINITY:
        rounded = min(rounded, _BFLOAT_LARGEST)
    return np.uint16((bits & _SIGN) >> _S16 | rounded)


@inlined
def widen_float16(bits: np.uint16) -> np.float32:
    """Return the float32 of float16 bits, in compiled code."""
    magnitude = np.uint32(bits) & _HALF_MAGNITUDE
    if magnitude >= _HALF_INFINITY:
        wide = _INFINITY | magnitude << _S13
    elif magnitude < np.uint32(1 << 10):
        wide = _bits_of(np.float32(magnitude) * _HALF_STEP)
    else:
        wide = (magnitude + _REBIAS) << _S13
    return _float_of(wide | (np.uint32(bits) >> _S15) << _S31)


@inlined
def narrow_float16(value: np.float32, noise: np.uint32) -> np.uint16:
    """Return float16 bits of a float32, rounded by 16 uniform bits, in compiled code. Finite stays finite, NaN NaN."""
    bits = _bits_of(value)
    magnitude = bits & _MAGNITUDE
    if magnitude >= _INFINITY:
        rounded = _HALF_INFINITY if magnitude == _INFINITY else _HALF_NAN
    elif magnitude < _NORMAL:
        rounded = _subnormal(magnitude, noise)
    else:
        rounded = min(((magnitude + (noise >> _S3)) >> _S13) - _REBIAS, _HALF_LARGEST)
    return np.uint16((bits & _SIGN) >> _S16 | rounded)


@inlined
def _subnormal(magnitude: np.uint32, noise: np.uint32) -> np.uint32:
    steps = _float_of(magnitude) * _HALF_STEPS
    whole = np.uint32(steps)
    return whole + (
        _ONE if np.float32(noise) < (steps - np.float32(whole)) * _DRAWS else np.uint32(0)
    )


@inlined
def _bits_of(value: np.float32) -> np.uint32:
    return np.float32(value).view(np.uint32)


@inlined
def _float_of(bits: np.uint32) -> np.float32:
    return np.uint32(bits).view(np.float32)  # numba computes in 64 bits
