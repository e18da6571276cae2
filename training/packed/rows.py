"""The rows of one table in stored form, in memory and on disk.

A slab's rows are stored as bands, each with its own width and form. A folder holds `keys.npy` and,
for each slab, `<slab>.npy` (plain float32 rows) or `<slab>.npz` (`PackedSlab.arrays`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError
from training.data.arrays import Arrays, read_arrays, write_arrays
from training.packed.matrix import Form, Matrix
from training.packed.pq import PRODUCT, Product

_KEYS = "keys"


@dataclass(frozen=True)
class Band:
    """Consecutive rows of a slab.

    Attributes:
        matrix: [n, r], the stored values of each row.
        projection: float32 [r, d], which maps them to rows of the slab's width; None: r is d.
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
    """All rows of a slab: the rows of one or more bands in order, all of one width."""

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
        # `kept` is cut at the ends of the bands.
        ends = np.cumsum([0, *(len(band.matrix) for band in self.bands)])
        bands = [
            Band(band.matrix.take(kept[start:end]), band.projection)
            for band, (start, end) in zip(self.bands, pairwise(ends), strict=True)
        ]
        return type(self)(tuple(bands))

    def only_matrix(self) -> Matrix:
        """Return the matrix of a slab of one band without projection and codebook."""
        (band,) = self.bands
        assert isinstance(band.matrix, Matrix)
        return band.matrix

    def is_plain(self) -> bool:
        """Whether the slab is one band of float32 rows without a projection."""
        first = self.bands[0]
        return (
            len(self.bands) == 1 and first.projection is None and first.matrix.form is Form.FLOAT32
        )

    def arrays(self) -> Arrays:
        """Return plain arrays by name, for `from_arrays`."""
        named: Arrays = {}
        for number, band in enumerate(self.bands):
            named |= {f"{number}/{name}": array for name, array in band.matrix.arrays().items()}
            if band.projection is not None:
                named[f"{number}/projection"] = band.projection
        return named

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Read a slab from `arrays()`; raises InputError if an array is missing or does not fit."""
        count = len({name.partition("/")[0] for name in arrays})
        bands = []
        try:
            for number in range(count):
                kind = Product if str(arrays[f"{number}/form"]) == PRODUCT else Matrix
                matrix = kind.from_arrays(arrays, f"{number}/")
                projection = arrays.get(f"{number}/projection")
                if projection is not None and projection.shape[:1] != (matrix.width,):
                    raise ValueError(
                        f"projection of shape {projection.shape} for rows of {matrix.width}"
                    )
                bands.append(Band(matrix, projection))
        except (KeyError, ValueError) as error:
            raise InputError(
                f"packed rows without a readable {error}; compress this day again"
            ) from error
        widths = [band.width for band in bands]
        if len(set(widths)) != 1:
            raise InputError(
                f"packed rows of widths {widths}, one is needed; compress this day again"
            )
        return cls(tuple(bands))


@dataclass(frozen=True)
class PackedRows:
    """The keys of a table and its slabs in stored form.

    Attributes:
        keys: int64 [N], distinct.
        slabs: by name, N rows each, in the order of the keys.

    Raises:
        InputError: a slab has another number of rows.
    """

    keys: NDArray[np.int64]
    slabs: Mapping[str, PackedSlab]

    def __post_init__(self) -> None:
        wrong = {
            name: len(slab) for name, slab in self.slabs.items() if len(slab) != len(self.keys)
        }
        if wrong:
            raise InputError(f"{len(self.keys)} keys but {wrong} rows; write the folder again")

    def take(self, kept: NDArray[np.bool_]) -> Self:
        """Return the rows where `kept` bool [N] is true."""
        slabs = {name: slab.take(kept) for name, slab in self.slabs.items()}
        return type(self)(self.keys[kept], slabs)

    def vectors(self) -> dict[str, NDArray[np.float32]]:
        """Return float32 [N, width] by slab."""
        return {name: slab.rows() for name, slab in self.slabs.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of keys and rows."""
        return self.keys.nbytes + sum(slab.nbytes for slab in self.slabs.values())


def write_rows(folder: Path, rows: PackedRows) -> None:
    """Write a table's rows into a folder, which is created if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{_KEYS}.npy", rows.keys, allow_pickle=False)
    for name, slab in rows.slabs.items():
        # Plain rows are a `.npy`, which any tool can read.
        if slab.is_plain():
            np.save(folder / f"{name}.npy", slab.rows(), allow_pickle=False)
        else:
            write_arrays(folder / f"{name}.npz", slab.arrays())


def read_rows(folder: Path) -> PackedRows:
    """Read what `write_rows` wrote; raises InputError if a file is missing or damaged."""
    # 1. Keys and plain slabs.
    plain = {}
    for path in sorted(folder.glob("*.npy")):
        try:
            plain[path.stem] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: damaged array ({error}); compress this day again") from error
    if _KEYS not in plain:
        raise InputError(
            f"{folder}: neither the table of a checkpoint (table.json) nor of a compressed model "
            "(keys.npy)"
        )
    keys = plain.pop(_KEYS).astype(np.int64)
    flat = {name: rows.shape for name, rows in plain.items() if rows.ndim != 2}
    if flat:
        raise InputError(
            f"{folder}: {len(keys)} keys but rows of shape {flat}; write the folder again"
        )
    # 2. Packed slabs.
    packed = {path.stem: read_arrays(path) for path in sorted(folder.glob("*.npz"))}
    try:
        slabs = {name: PackedSlab.of(rows) for name, rows in plain.items()}
        slabs |= {name: PackedSlab.from_arrays(arrays) for name, arrays in packed.items()}
        return PackedRows(keys, slabs)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
