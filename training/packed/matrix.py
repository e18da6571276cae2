"""A matrix of rows in one of four forms, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError
from training.data.arrays import Arrays
from training.packed.quantize import dequantize, one_a_byte, quantize, two_a_byte


class Form(StrEnum):
    """How a value is stored; `int8` and `int4` have a scale and an offset of half precision a row."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    INT4 = "int4"


_BITS = {Form.INT8: 8, Form.INT4: 4}
_DTYPES: dict[Form, Any] = {
    Form.FLOAT32: np.float32,
    Form.FLOAT16: np.float16,
    Form.INT8: np.uint8,
    Form.INT4: np.uint8,
}


@dataclass(frozen=True)
class Matrix:
    """Rows of one width in one form.

    Attributes:
        form: of the values.
        width: values of a row, d.
        values: float32 or float16 [N, d]; uint8 [N, d]; of `int4` uint8 [N, ⌈d / 2⌉].
        scales: float16 [N, 2], scale and offset of each row; [N, 0] where the form has none.
    """

    form: Form
    width: int
    values: NDArray[Any]
    scales: NDArray[np.float16]

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit the form.

        Raises:
            InputError: they do not.
        """
        columns = -(-self.width // 2) if self.form is Form.INT4 else self.width
        scales = 2 if self.form in _BITS else 0
        right = self.values.shape[1:] == (columns,) and self.scales.shape == (
            len(self.values),
            scales,
        )
        if not right or self.values.dtype != _DTYPES[self.form]:
            raise InputError(
                f"rows of {self.width} values as {self.form}: values {self.values.dtype} {self.values.shape} and scales "
                f"{self.scales.shape} do not fit; compress this day again"
            )

    @classmethod
    def of(cls, rows: NDArray[np.float32], form: Form) -> Self:
        """Store rows float32 [N, d].

        Raises:
            ValueError: see `training.packed.quantize.quantize`; nothing is refused as float32.
        """
        none = np.zeros((len(rows), 0), np.float16)
        if form not in _BITS:
            with np.errstate(over="raise"):
                return cls(form, rows.shape[1], rows.astype(_DTYPES[form]), none)
        codes, scales = quantize(rows, _BITS[form])
        return cls(form, rows.shape[1], two_a_byte(codes) if form is Form.INT4 else codes, scales)

    def rows(self) -> NDArray[np.float32]:
        """Return float32 [N, d]."""
        if self.form not in _BITS:
            return self.values.astype(np.float32, copy=False)
        codes = one_a_byte(self.values, self.width) if self.form is Form.INT4 else self.values
        return dequantize(codes, self.scales)

    def take(self, rows: NDArray[Any]) -> Self:
        """Return the rows at positions int [n], or where bool [N] is true."""
        return type(self)(self.form, self.width, self.values[rows], self.scales[rows])

    def arrays(self) -> Arrays:
        """Return plain arrays by name, from which `from_arrays` makes the matrix again."""
        told = {"form": np.array(str(self.form)), "width": np.array(self.width)}
        return {**told, "values": self.values, "scales": self.scales}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> Self:
        """Make a matrix of what `arrays` returned, named behind a prefix; raises KeyError, ValueError or InputError otherwise."""
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
