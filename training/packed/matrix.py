"""A matrix of rows in one of four forms, and back.

Integer forms are row-wise quantization: FBGEMM's n-bit rows with scale and offset in half precision
(`FusedNBitRowwiseSBHalf`; Khudia et al., arXiv 2101.05615). Per row: offset = fp16(min), scale =
fp16((max - offset) / (2ⁿ - 1)), or 1 where that is 0 or its inverse overflows;
q = clamp(rint((x - offset) / scale), 0, 2ⁿ - 1); x' = q · scale + offset. A zero row has offset 0
and q 0, so it stays exactly zero. The error is at most scale / 2 plus the rounding of offset and
scale to 11 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError
from training.data.arrays import Arrays

Codes = NDArray[np.uint8]
Scales = NDArray[np.float16]


class Form(StrEnum):
    """How a value is stored; `int8` and `int4` have a float16 scale and offset per row."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    INT4 = "int4"


_BITS = {Form.INT8: 8, Form.INT4: 4}
_DTYPES: dict[Form, Any] = {Form.FLOAT32: np.float32, Form.FLOAT16: np.float16}

# The least positive half: dividing by it is what overflow means for a scale.
_TINY = np.float16(6e-8)


@dataclass(frozen=True)
class Matrix:
    """Rows of one width in one form.

    Attributes:
        form: of the values.
        width: values of a row, d.
        values: float32 or float16 [N, d]; uint8 [N, d]; of `int4` uint8 [N, ⌈d / 2⌉].
        scales: float16 [N, 2], scale and offset of each row; [N, 0] if the form has none.

    Raises:
        InputError: the arrays do not fit the form.
    """

    form: Form
    width: int
    values: NDArray[Any]
    scales: NDArray[np.float16]

    def __post_init__(self) -> None:
        columns = -(-self.width // 2) if self.form is Form.INT4 else self.width
        scales = (len(self.values), 2 if self.form in _BITS else 0)
        dtype = _DTYPES.get(self.form, np.uint8)
        fits = self.values.shape[1:] == (columns,) and self.scales.shape == scales
        if not fits or self.values.dtype != dtype:
            raise InputError(
                f"rows of {self.width} values as {self.form}: values {self.values.dtype} "
                f"{self.values.shape} and scales {self.scales.shape} do not fit; compress this day "
                "again"
            )

    @classmethod
    def of(cls, rows: NDArray[np.float32], form: Form) -> Self:
        """Store rows float32 [N, d]; raises ValueError as `quantize` does."""
        width = rows.shape[1]
        if form not in _BITS:
            # A value that float16 cannot hold raises FloatingPointError instead of becoming inf.
            with np.errstate(over="raise"):
                return cls(form, width, rows.astype(_DTYPES[form]), np.zeros((len(rows), 0), "f2"))
        codes, scales = quantize(rows, _BITS[form])
        return cls(form, width, pack_nibbles(codes) if form is Form.INT4 else codes, scales)

    def rows(self) -> NDArray[np.float32]:
        """Return float32 [N, d]."""
        if self.form not in _BITS:
            return self.values.astype(np.float32, copy=False)
        codes = unpack_nibbles(self.values, self.width) if self.form is Form.INT4 else self.values
        return dequantize(codes, self.scales)

    def take(self, rows: NDArray[Any]) -> Self:
        """Return the rows at positions int [n], or where bool [N] is true."""
        return type(self)(self.form, self.width, self.values[rows], self.scales[rows])

    def arrays(self) -> Arrays:
        """Return plain arrays by name, for `from_arrays`."""
        header = {"form": np.array(str(self.form)), "width": np.array(self.width)}
        return {**header, "values": self.values, "scales": self.scales}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> Self:
        """Read a matrix from `arrays()` behind a prefix; raises KeyError or ValueError."""
        form, width, values, scales = (
            arrays[prefix + name] for name in ("form", "width", "values", "scales")
        )
        return cls(Form(str(form)), int(width), values, scales)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def nbytes(self) -> int:
        """Bytes of values and scales."""
        return self.values.nbytes + self.scales.nbytes


def quantize(rows: NDArray[np.float32], bits: int) -> tuple[Codes, Scales]:
    """Return codes uint8 [N, d] from 0 to 2^bits - 1, and float16 [N, 2]: scale and offset.

    Args:
        rows: float32 [N, d]; raises ValueError if a value is not finite or beyond ±65,504.
        bits: 1 to 8.
    """
    if not np.all(np.abs(rows) <= np.finfo(np.float16).max):
        raise ValueError(
            "rows hold values that are not finite or beyond ±65504, which half precision cannot "
            "hold"
        )
    most = (1 << bits) - 1
    # The scale is computed from the rounded offset, with which rows are restored.
    low = rows.min(axis=1, keepdims=True, initial=np.inf).astype(np.float16).astype(np.float32)
    high = rows.max(axis=1, keepdims=True, initial=-np.inf)
    scale = ((high - low) / np.float32(most)).astype(np.float16)
    unusable = (scale <= 0) | np.isinf(np.float32(1) / np.maximum(scale, _TINY))
    scale = np.where(unusable, np.float16(1), scale)
    codes = np.clip(np.rint((rows - low) / scale.astype(np.float32)), 0, most).astype(np.uint8)
    return codes, np.concatenate([scale, low.astype(np.float16)], axis=1)


def dequantize(codes: Codes, scales: Scales) -> NDArray[np.float32]:
    """Return the rows float32 [N, d] of codes [N, d] and scales [N, 2]."""
    wide = scales.astype(np.float32)
    rows: NDArray[np.float32] = codes.astype(np.float32) * wide[:, :1] + wide[:, 1:]
    return rows


def pack_nibbles(codes: Codes) -> Codes:
    """Pack 4-bit codes [N, d] into bytes [N, ⌈d / 2⌉], the first of two codes in the low bits."""
    even = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    return (even[:, 0::2] | (even[:, 1::2] << np.uint8(4))).astype(np.uint8, copy=False)


def unpack_nibbles(packed: Codes, width: int) -> Codes:
    """Return the 4-bit codes [N, width] that `pack_nibbles` packed."""
    codes = np.stack([packed & 15, packed >> 4], axis=2)
    return codes.reshape(len(packed), 2 * packed.shape[1])[:, :width]
