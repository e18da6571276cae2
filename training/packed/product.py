"""Rows as codes into codebooks: product quantization (Jégou, Douze and Schmid, IEEE PAMI 2011)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError
from training.data.arrays import Arrays

PRODUCT = "product"


@dataclass(frozen=True)
class Product:
    """Rows of one width, cut into pieces of c values; a piece is a code, the number of an entry of its codebook.

    Attributes:
        width: values of a row, d.
        codes: uint8 [N, m].
        codebook: float16 [m, K, c], m c ≥ d; what is over d is not read. Entry 0 of each piece is zero, so that zero rows are
            exactly zero, and so is the row of codes 0.
    """

    form: ClassVar[str] = PRODUCT

    width: int
    codes: NDArray[np.uint8]
    codebook: NDArray[np.float16]

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit each other.

        Raises:
            InputError: they do not.
        """
        book, codes = self.codebook, self.codes
        if (
            not self._fits()
            or (codes.dtype, book.dtype) != (np.uint8, np.float16)
            or book[:, 0].any()
        ):
            raise InputError(
                f"rows of {self.width} values: codes {codes.dtype} {codes.shape} and codebook {book.dtype} {book.shape} do not "
                "fit; compress this day again"
            )

    def _fits(self) -> bool:
        book, codes = self.codebook, self.codes
        if (
            book.ndim != 3
            or codes.ndim != 2
            or codes.shape[1] != len(book)
            or codes.max(initial=0) >= book.shape[1]
        ):
            return False
        return len(book) * book.shape[2] >= self.width

    def rows(self) -> NDArray[np.float32]:
        """Return float32 [N, d]."""
        found = self.codebook[np.arange(len(self.codebook)), self.codes]
        rows: NDArray[np.float32] = found.reshape(len(self.codes), -1)[:, : self.width].astype(
            np.float32
        )
        return rows

    def take(self, rows: NDArray[Any]) -> Self:
        """Return the rows at positions int [n], or where bool [N] is true, with the same codebook."""
        return type(self)(self.width, self.codes[rows], self.codebook)

    def arrays(self) -> Arrays:
        """Return plain arrays by name, from which `from_arrays` makes the rows again."""
        told = {"form": np.array(self.form), "width": np.array(self.width)}
        return {**told, "codes": self.codes, "codebook": self.codebook}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> Self:
        """Make rows of what `arrays` returned, named behind a prefix; raises KeyError, ValueError or InputError otherwise."""
        width, codes, codebook = (arrays[prefix + name] for name in ("width", "codes", "codebook"))
        return cls(int(width), codes, codebook)

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and codebook."""
        return self.codes.nbytes + self.codebook.nbytes
