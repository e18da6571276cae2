"""Row-wise quantization in NumPy: FBGEMM's n-bit rows with scale and offset in half precision (`FusedNBitRowwiseSBHalf`).

Per row: offset = fp16(min), scale = fp16((max - offset) / (2ⁿ - 1)), or 1 where that is 0 or its inverse overflows;
q = clamp(rint((x - offset) / scale), 0, 2ⁿ - 1); x' = q · scale + offset. A zero row has offset 0 and q 0: it stays zero to the
bit. Error: at most scale / 2 + what rounding offset and scale to 11 bits costs (Khudia et al., FBGEMM, arXiv 2101.05615).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8]
Scales = NDArray[np.float16]


def quantize(rows: NDArray[np.float32], bits: int) -> tuple[Codes, Scales]:
    """Return codes uint8 [N, d] from 0 to 2^bits - 1, and float16 [N, 2]: each row's scale and offset.

    Args:
        rows: float32 [N, d], finite and within ±65,504.
        bits: 1 to 8.

    Raises:
        ValueError: a value is not finite or too large for half precision: such a model is unsound.
    """
    if not np.all(np.abs(rows) <= np.finfo(np.float16).max):
        raise ValueError(
            "rows hold values that are not finite or beyond ±65504, which half precision cannot hold"
        )
    most = (1 << bits) - 1
    low = rows.min(axis=1, keepdims=True, initial=np.inf).astype(np.float16).astype(np.float32)
    scale = ((rows.max(axis=1, keepdims=True, initial=-np.inf) - low) / np.float32(most)).astype(
        np.float16
    )
    scale = np.where(
        (scale <= 0) | np.isinf(np.float32(1) / np.maximum(scale, _TINY)), np.float16(1), scale
    )
    codes = np.clip(np.rint((rows - low) / scale.astype(np.float32)), 0, most).astype(np.uint8)
    return codes, np.concatenate([scale, low.astype(np.float16)], axis=1)


def dequantize(codes: Codes, scales: Scales) -> NDArray[np.float32]:
    """Return the rows float32 [N, d] that codes [N, d] and scales [N, 2] stand for."""
    wide = scales.astype(np.float32)
    rows: NDArray[np.float32] = codes.astype(np.float32) * wide[:, :1] + wide[:, 1:]
    return rows


def two_a_byte(codes: Codes) -> Codes:
    """Return 4-bit codes [N, d] as bytes [N, ⌈d / 2⌉], the first of two values in the low bits."""
    even = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    return (even[:, 0::2] | (even[:, 1::2] << np.uint8(4))).astype(np.uint8, copy=False)


def one_a_byte(packed: Codes, width: int) -> Codes:
    """Return the 4-bit codes [N, width] that `two_a_byte` packed."""
    return np.stack([packed & 15, packed >> 4], axis=2).reshape(len(packed), 2 * packed.shape[1])[
        :, :width
    ]


_TINY = np.float16(6e-8)  # the least positive half: dividing by it is what overflow means here
