"""A saved table that consists of entries of other saved tables: for folding deltas and resharding.

Source arrays are mapped, not loaded, and the selected entries are written in chunks. The memory is
6 bytes for each entry and each row of the result, and 5 for each entry of the sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.errors import InputError
from elastic_embeddings.storage.checkpoint import (
    ENTRY_ARRAYS,
    open_array,
    read_header,
    row_arrays,
    verify,
)
from elastic_embeddings.storage.files import ArrayStream, rows_per_chunk
from elastic_embeddings.storage.header import TableHeader


@dataclass(frozen=True)
class SavedTable:
    """A verified folder of a full table or a delta."""

    folder: Path
    header: TableHeader

    @classmethod
    def open(cls, folder: Path) -> SavedTable:
        """Verify a folder."""
        header = read_header(folder)
        verify(folder, header)
        return cls(folder, header)

    def __len__(self) -> int:
        """Return the number of entries."""
        return self.header.arrays["keys"].shape[0]

    def array(self, name: str) -> NDArray[Any]:
        """Return an array, mapped and read-only."""
        return open_array(self.folder, self.header, name)


@dataclass(frozen=True)
class RowSelection:
    """Rows of several arrays, in the order of the result.

    Attributes:
        source: int16 [n], number of the array.
        position: int32 [n], row in it.
    """

    source: NDArray[np.int16]
    position: NDArray[np.int32]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.source)

    @classmethod
    def whole(cls, number: int, length: int) -> RowSelection:
        """Return all rows of one array, in their order."""
        return cls(np.full(length, number, np.int16), np.arange(length, dtype=np.int32))

    def only(self, chosen: NDArray[Any] | slice) -> RowSelection:
        """Return the part that a mask bool [n], positions int [k] or a slice choose."""
        return RowSelection(self.source[chosen], self.position[chosen])

    def then(self, other: RowSelection) -> RowSelection:
        """Return this one followed by another."""
        source = np.concatenate([self.source, other.source])
        return RowSelection(source, np.concatenate([self.position, other.position]))

    def read(self, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Return the rows, [n, ...]; the arrays have one dtype and width."""
        out = np.empty((len(self), *arrays[0].shape[1:]), arrays[0].dtype)
        # One source at a time: NumPy cannot index several arrays in one call.
        for number, array in enumerate(arrays):
            from_this = self.source == number
            out[from_this] = array[self.position[from_this]]
        return out

    def stream(self, arrays: Sequence[NDArray[Any]]) -> ArrayStream:
        """Return the rows, [n, ...], read in chunks."""
        first = arrays[0]
        step = rows_per_chunk(first.shape, first.dtype)
        chunks = (
            self.only(slice(start, start + step)).read(arrays)
            for start in range(0, len(self), step)
        )
        return ArrayStream((len(self), *first.shape[1:]), first.dtype, chunks)


def selected_arrays(tables: Sequence[SavedTable], entries: RowSelection) -> dict[str, ArrayStream]:
    """Return the entry and row arrays of the table of the selected entries, in their order.

    Raises:
        InputError: the tables have other slabs, slots or dtypes.
    """
    check_same_arrays(tables)
    streams = {
        name: entries.stream([table.array(name) for table in tables]) for name in ENTRY_ARRAYS
    }
    # The row of an admitted entry is the number of admitted entries before it.
    admitted = [np.asarray(table.array("admitted")) for table in tables]
    row_of = [np.cumsum(mask, dtype=np.int32) - np.int32(1) for mask in admitted]
    with_row = entries.only(entries.read(admitted))
    rows = RowSelection(with_row.source, with_row.read(row_of))
    for name in row_arrays(tables[0].header):
        streams[name] = rows.stream([table.array(name) for table in tables])
    return streams


def check_same_arrays(tables: Sequence[SavedTable]) -> None:
    """Raise InputError unless the tables have the same slabs, slots, dtypes and rules."""
    layouts = []
    for table in tables:
        header = table.header
        names = (*ENTRY_ARRAYS, *sorted(row_arrays(header)))
        layouts.append({n: (header.arrays[n].dtype, header.arrays[n].shape[1:]) for n in names})
        if layouts[0] != layouts[-1]:
            raise InputError(
                f"{tables[0].folder} holds {layouts[0]}, {table.folder} holds {layouts[-1]}: "
                "save both with the same slabs and slots"
            )
        rules = [
            {n: (s.optimizer, s.parameters) for n, s in t.header.slabs.items()}
            for t in (tables[0], table)
        ]
        # Optimizer state is in units of its rule's parameters, such as the learning rate.
        if rules[0] != rules[1]:
            raise InputError(
                f"{tables[0].folder} was trained with {rules[0]}, {table.folder} with {rules[1]}: "
                "restore the first in a table and apply the others there, which converts the state"
            )
