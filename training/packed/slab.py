"""The rows of a slab as bands, one after the other, each of its own width and form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError
from training.data.arrays import Arrays
from training.packed.matrix import Form, Matrix
from training.packed.product import PRODUCT, Product


@dataclass(frozen=True)
class Band:
    """Neighbouring rows of a slab.

    Attributes:
        matrix: [n, r], what is stored of each row.
        projection: float32 [r, d] that makes rows of the slab's width of it; None: r is that width.
    """

    matrix: Matrix | Product
    projection: NDArray[np.float32] | None = None

    def rows(self) -> NDArray[np.float32]:
        """Return float32 [n, d]."""
        stored = self.matrix.rows()
        return stored if self.projection is None else stored @ self.projection

    @property
    def width(self) -> int:
        """Width of the rows, d."""
        return self.matrix.width if self.projection is None else self.projection.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.matrix.nbytes + (0 if self.projection is None else self.projection.nbytes)


@dataclass(frozen=True)
class PackedSlab:
    """All rows of a slab: its bands' rows in order, of one width.

    Attributes:
        bands: one or more.
    """

    bands: tuple[Band, ...]

    @classmethod
    def of(cls, rows: NDArray[np.float32], form: Form = Form.FLOAT32) -> Self:
        """Store rows float32 [N, d] as one band."""
        return cls((Band(Matrix.of(rows, form)),))

    @property
    def width(self) -> int:
        """Width of a row, d."""
        return self.bands[0].width

    def __len__(self) -> int:
        return sum(len(band.matrix) for band in self.bands)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(band.nbytes for band in self.bands)

    def rows(self) -> NDArray[np.float32]:
        """Return float32 [N, d]."""
        return np.concatenate([band.rows() for band in self.bands])

    def take(self, kept: NDArray[np.bool_]) -> Self:
        """Return the slab of the rows where `kept` bool [N] is true."""
        ends = np.cumsum([0, *(len(band.matrix) for band in self.bands)])
        parts = (kept[start:end] for start, end in pairwise(ends))
        return type(self)(
            tuple(
                Band(b.matrix.take(p), b.projection) for b, p in zip(self.bands, parts, strict=True)
            )
        )

    def only_matrix(self) -> Matrix:
        """Return what a slab of one band without projection and codebook is stored in."""
        (band,) = self.bands
        assert isinstance(band.matrix, Matrix)
        return band.matrix

    def is_plain(self) -> bool:
        """Whether it is one band of float32 rows as they are."""
        return (
            len(self.bands) == 1
            and self.bands[0].projection is None
            and self.bands[0].matrix.form is Form.FLOAT32
        )

    def arrays(self) -> Arrays:
        """Return plain arrays by name, from which `from_arrays` makes the slab again."""
        named: Arrays = {}
        for number, band in enumerate(self.bands):
            named |= {f"{number}/{name}": array for name, array in band.matrix.arrays().items()}
            named |= {} if band.projection is None else {f"{number}/projection": band.projection}
        return named

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Make a slab of what `arrays` returned.

        Raises:
            InputError: an array is missing or does not fit the others.
        """
        count = len({name.partition("/")[0] for name in arrays})
        try:
            bands = tuple(_band(arrays, f"{number}/") for number in range(count))
        except (KeyError, ValueError) as error:
            raise InputError(
                f"packed rows without a readable {error}; compress this day again"
            ) from error
        if not bands or len({band.width for band in bands}) > 1:
            raise InputError(
                f"packed rows of widths {[band.width for band in bands]}, one is needed; compress this day again"
            )
        return cls(bands)


def _band(arrays: Mapping[str, NDArray[Any]], prefix: str) -> Band:
    kind = Product if str(arrays[f"{prefix}form"]) == PRODUCT else Matrix
    matrix = kind.from_arrays(arrays, prefix)
    projection = arrays.get(f"{prefix}projection")
    if projection is not None and projection.shape[:1] != (matrix.width,):
        raise ValueError(f"projection of shape {projection.shape} for rows of {matrix.width}")
    return Band(matrix, projection)
