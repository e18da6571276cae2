"""The rows of one table in stored form, in memory and on disk.

A folder holds `keys.npy` and, of each slab, `<slab>.npy` (float32 rows as they are) or `<slab>.npz` (`PackedSlab.arrays`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError
from training.data.arrays import read_arrays, write_arrays
from training.packed.slab import PackedSlab

_KEYS = "keys"


@dataclass(frozen=True)
class PackedRows:
    """Keys and what is stored of them.

    Attributes:
        keys: int64 [N], distinct.
        slabs: by name, N rows each, in the order of the keys.
    """

    keys: NDArray[np.int64]
    slabs: Mapping[str, PackedSlab]

    def __post_init__(self) -> None:
        """Refuse slabs of another number of rows.

        Raises:
            InputError: there are some.
        """
        wrong = {
            name: len(slab) for name, slab in self.slabs.items() if len(slab) != len(self.keys)
        }
        if wrong:
            raise InputError(f"{len(self.keys)} keys but {wrong} rows; write the folder again")

    def take(self, kept: NDArray[np.bool_]) -> Self:
        """Return the rows where `kept` bool [N] is true."""
        return type(self)(
            self.keys[kept], {name: slab.take(kept) for name, slab in self.slabs.items()}
        )

    def vectors(self) -> dict[str, NDArray[np.float32]]:
        """Return float32 [N, width] by slab."""
        return {name: slab.rows() for name, slab in self.slabs.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of keys and rows."""
        return self.keys.nbytes + sum(slab.nbytes for slab in self.slabs.values())


def write_rows(folder: Path, rows: PackedRows) -> None:
    """Write a table's rows into a folder, made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{_KEYS}.npy", rows.keys, allow_pickle=False)
    for name, slab in rows.slabs.items():
        if slab.is_plain():
            np.save(folder / f"{name}.npy", slab.rows(), allow_pickle=False)
        else:
            write_arrays(folder / f"{name}.npz", slab.arrays())


def read_rows(folder: Path) -> PackedRows:
    """Read what `write_rows` wrote.

    Raises:
        InputError: a file is missing, damaged, or does not fit the others.
    """
    plain = {path.stem: _load(path) for path in sorted(folder.glob("*.npy"))}
    if _KEYS not in plain:
        raise InputError(
            f"{folder}: neither the table of a checkpoint (table.json) nor of a compressed model (keys.npy)"
        )
    keys = plain.pop(_KEYS).astype(np.int64)
    flat = {name: rows.shape for name, rows in plain.items() if rows.ndim != 2}
    if flat:
        raise InputError(
            f"{folder}: {len(keys)} keys but rows of shape {flat}; write the folder again"
        )
    packed = {path.stem: read_arrays(path) for path in sorted(folder.glob("*.npz"))}
    try:
        slabs = {name: PackedSlab.of(rows) for name, rows in plain.items()}
        return PackedRows(
            keys, slabs | {name: PackedSlab.from_arrays(arrays) for name, arrays in packed.items()}
        )
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error


def _load(path: Path) -> NDArray[Any]:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: damaged array ({error}); compress this day again") from error
