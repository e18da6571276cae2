"""FarmHash64 of strings without TensorFlow.

`keys` equals `features.keys.keys`; a test compares the two for strings of every length class of
the algorithm. Training and the exported graph use TensorFlow's own operation; this module is for
code that needs nothing else of TensorFlow.

The algorithm is `farmhashna::Hash64` (G. Pike, FarmHash 1.1, MIT licence), which TensorFlow's
`Fingerprint` operation calls `farmhash64`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit
from numpy.typing import NDArray

from features.canonical import NULL, NULL_MARK, SEPARATOR

Text = NDArray[np.uint8]

# The constants of FarmHash. Everything below stays uint64: Numba promotes an operation of uint64
# and int64 to float64, which would lose the low bits.
_K0 = np.uint64(0xC3A5C85C97CB3127)
_K1 = np.uint64(0xB492B66FBE98F273)
_K2 = np.uint64(0x9AE16A3B2F90404F)


def keys(vocabulary: str, tokens: pa.Array) -> NDArray[np.int64]:
    """Return the keys, int64 [n], of tokens, an Arrow array of n strings without nulls.

    `""` is the null value.

    Example:
        >>> keys("city", pa.array(["Oslo", ""])).tolist()
        [-2388181361236476783, 5592325092578977970]
    """
    texts = pc.if_else(
        pc.equal(tokens, NULL),
        vocabulary + NULL_MARK,
        pc.binary_join_element_wise(vocabulary, tokens, SEPARATOR),
    )
    return fingerprint64(texts)


def fingerprint64(strings: pa.Array) -> NDArray[np.int64]:
    """Return the FarmHash64, int64 [n], of each string or binary value; there must be no nulls."""
    # Concatenating copies a slice, so that the array starts at the start of its buffers.
    flat = pa.concat_arrays([strings.cast(pa.large_binary())])
    _, offsets, data = flat.buffers()
    text = np.frombuffer(data or b"", np.uint8)
    bounds = np.frombuffer(offsets, np.int64)[: len(flat) + 1] if offsets else np.zeros(1, np.int64)
    return _fingerprints(text, bounds).view(np.int64)


# Byte by byte, because the text has any alignment.
@njit(cache=True)
def _fetch(text: Text, at: int, count: int = 8) -> np.uint64:
    """`count` bytes as a little-endian number."""
    value = np.uint64(0)
    for i in range(count):
        value |= np.uint64(text[at + i]) << np.uint64(8 * i)
    return value


@njit(cache=True)
def _rotate(value: np.uint64, by: int) -> np.uint64:
    return (value >> np.uint64(by)) | (value << np.uint64(64 - by))


@njit(cache=True)
def _shift_mix(value: np.uint64) -> np.uint64:
    return value ^ (value >> np.uint64(47))


@njit(cache=True)
def _hash_16(low: np.uint64, high: np.uint64, factor: np.uint64) -> np.uint64:
    a = _shift_mix((low ^ high) * factor)
    return _shift_mix((high ^ a) * factor) * factor


@njit(cache=True)
def _hash_32_bytes(text: Text, at: int, a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Hash 32 bytes and two seeds to two numbers (`WeakHashLen32WithSeeds`)."""
    first, last = _fetch(text, at), _fetch(text, at + 24)
    a += first
    b = _rotate(b + a + last, 21)
    seed = a
    a += _fetch(text, at + 8) + _fetch(text, at + 16)
    return a + last, b + _rotate(a, 44) + seed


@njit(cache=True)
def _hash(text: Text) -> np.uint64:
    """Return the FarmHash64 of bytes; each range of lengths has its own formula."""
    size = len(text)
    length = np.uint64(size)
    if size == 0:
        return _K2
    if size < 4:
        first = np.uint64(text[0]) + (np.uint64(text[size >> 1]) << np.uint64(8))
        second = length + (np.uint64(text[size - 1]) << np.uint64(2))
        return _shift_mix(first * _K2 ^ second * _K0) * _K2
    factor = _K2 + length * np.uint64(2)
    if size < 8:
        return _hash_16(
            length + (_fetch(text, 0, 4) << np.uint64(3)), _fetch(text, size - 4, 4), factor
        )
    if size <= 16:
        a, b = _fetch(text, 0) + _K2, _fetch(text, size - 8)
        return _hash_16(_rotate(b, 37) * factor + a, (_rotate(a, 25) + b) * factor, factor)
    if size <= 32:
        a, b = _fetch(text, 0) * _K1, _fetch(text, 8)
        c, d = _fetch(text, size - 8) * factor, _fetch(text, size - 16) * _K2
        low = _rotate(a + b, 43) + _rotate(c, 30) + d
        return _hash_16(low, a + _rotate(b + _K2, 18) + c, factor)
    if size <= 64:
        return _hash_to_64(text, size, factor)
    return _hash_blocks(text, size)


@njit(cache=True)
def _hash_to_64(text: Text, size: int, factor: np.uint64) -> np.uint64:
    """Return the FarmHash64 of 33 to 64 bytes."""
    a, b = _fetch(text, 0) * _K2, _fetch(text, 8)
    c, d = _fetch(text, size - 8) * factor, _fetch(text, size - 16) * _K2
    y = _rotate(a + b, 43) + _rotate(c, 30) + d
    z = _hash_16(y, a + _rotate(b + _K2, 18) + c, factor)
    e, f = _fetch(text, 16) * factor, _fetch(text, 24)
    g, h = (y + _fetch(text, size - 32)) * factor, (z + _fetch(text, size - 24)) * factor
    low = _rotate(e + f, 43) + _rotate(g, 30) + h
    return _hash_16(low, e + _rotate(f + a, 18) + g, factor)


@njit(cache=True)
def _hash_blocks(text: Text, size: int) -> np.uint64:
    """Return the FarmHash64 of more than 64 bytes."""
    # 1. The state: x, y, z and two pairs (v0, v1), (w0, w1); 81 is the seed of the reference.
    seed = np.uint64(81)
    x = seed * _K2 + _fetch(text, 0)
    y = seed * _K1 + np.uint64(113)
    z = _shift_mix(y * _K2 + np.uint64(113)) * _K2
    v0 = v1 = w0 = w1 = np.uint64(0)

    # 2. Mix in every block of 64 bytes but the last, which may be incomplete.
    for at in range(0, (size - 1) // 64 * 64, 64):
        x = _rotate(x + y + v0 + _fetch(text, at + 8), 37) * _K1
        y = _rotate(y + v1 + _fetch(text, at + 48), 42) * _K1
        x ^= w1
        y += v0 + _fetch(text, at + 40)
        z = _rotate(z + w0, 33) * _K1
        v0, v1 = _hash_32_bytes(text, at, v1 * _K1, x + w0)
        w0, w1 = _hash_32_bytes(text, at + 32, z + w1, y + _fetch(text, at + 16))
        z, x = x, z

    # 3. Mix in the last 64 bytes, which may overlap the block before, with another factor.
    factor = _K1 + ((z & np.uint64(0xFF)) << np.uint64(1))
    at, nine = size - 64, np.uint64(9)
    w0 += np.uint64((size - 1) & 63)
    v0 += w0
    w0 += v0
    x = _rotate(x + y + v0 + _fetch(text, at + 8), 37) * factor
    y = _rotate(y + v1 + _fetch(text, at + 48), 42) * factor
    x ^= w1 * nine
    y += v0 * nine + _fetch(text, at + 40)
    z = _rotate(z + w0, 33) * factor
    v0, v1 = _hash_32_bytes(text, at, v1 * factor, x + w0)
    w0, w1 = _hash_32_bytes(text, at + 32, z + w1, y + _fetch(text, at + 16))
    z, x = x, z

    # 4. Reduce the state to 64 bits.
    low = _hash_16(v0, w0, factor) + _shift_mix(y) * _K0 + z
    return _hash_16(low, _hash_16(v1, w1, factor) + x, factor)


# Compiled eagerly for read-only arrays, which views of Arrow buffers are.
@njit(
    "uint64[::1](Array(uint8, 1, 'C', readonly=True), Array(int64, 1, 'C', readonly=True))",
    cache=True,
)
def _fingerprints(text: Text, bounds: NDArray[np.int64]) -> NDArray[np.uint64]:
    result = np.empty(len(bounds) - 1, np.uint64)
    for row in range(len(result)):
        result[row] = _hash(text[bounds[row] : bounds[row + 1]])
    return result
