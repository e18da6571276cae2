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
    """Rows of one width, cut into m pieces of c values; a piece is stored as a codebook entry.

    Attributes:
        width: values of a row, d.
        codes: uint8 [N, m], the number of the entry of each piece.
        codebook: float16 [m, K, c] with m c ≥ d; values beyond d are not read. Entry 0 of each
            piece is zero, so that zero rows, and the row of codes 0, are exactly zero.

    Raises:
        InputError: the arrays do not fit each other.
    """

    form: ClassVar[str] = PRODUCT

    width: int
    codes: NDArray[np.uint8]
    codebook: NDArray[np.float16]

    def __post_init__(self) -> None:
        book, codes = self.codebook, self.codes
        # `fits` is computed in order: later conditions need the shapes that earlier ones check.
        fits = (
            book.ndim == 3
            and codes.ndim == 2
            and codes.shape[1] == len(book)
            and codes.max(initial=0) < book.shape[1]
            and len(book) * book.shape[2] >= self.width
            and (codes.dtype, book.dtype) == (np.uint8, np.float16)
            and not book[:, 0].any()
        )
        if not fits:
            raise InputError(
                f"rows of {self.width} values: codes {codes.dtype} {codes.shape} and codebook "
                f"{book.dtype} {book.shape} do not fit; compress this day again"
            )

    def rows(self) -> NDArray[np.float32]:
        """Return float32 [N, d]."""
        # [N, m, c]: piece p of each row is entry `codes[:, p]` of codebook p.
        pieces = self.codebook[np.arange(len(self.codebook)), self.codes]
        rows: NDArray[np.float32] = pieces.reshape(len(self.codes), -1)[:, : self.width].astype(
            np.float32
        )
        return rows

    def take(self, rows: NDArray[Any]) -> Self:
        """Return the rows at positions int [n], or where bool [N] is true, with all codebooks."""
        return type(self)(self.width, self.codes[rows], self.codebook)

    def arrays(self) -> Arrays:
        """Return plain arrays by name, for `from_arrays`."""
        header = {"form": np.array(self.form), "width": np.array(self.width)}
        return {**header, "codes": self.codes, "codebook": self.codebook}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> Self:
        """Read rows from `arrays()` behind a prefix; raises KeyError or ValueError."""
        width, codes, codebook = (arrays[prefix + name] for name in ("width", "codes", "codebook"))
        return cls(int(width), codes, codebook)

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and codebook."""
        return self.codes.nbytes + self.codebook.nbytes
