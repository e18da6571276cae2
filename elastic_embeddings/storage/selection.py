"""A table on disk made of entries of other tables on disk: what folding deltas and cutting into shards have in common.

Source arrays are mapped, not loaded, and what is chosen of them goes out in chunks. In memory are 6 bytes for each entry and
each row of the result, and 5 for each entry of the sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.errors import InputError
from elastic_embeddings.storage.array_files import ArrayStream, rows_per_chunk
from elastic_embeddings.storage.checkpoint import (
    ENTRY_ARRAYS,
    TableHeader,
    open_array,
    read_header,
    row_arrays,
    verify,
)


@dataclass(frozen=True)
class SavedTable:
    """A table's or a delta's folder, every checksum of which was right when it was opened."""

    folder: Path
    header: TableHeader

    @classmethod
    def open(cls, folder: Path) -> SavedTable:
        """Verify a folder.

        Raises:
            InputError: a file is missing or damaged.
        """
        header = read_header(folder)
        verify(folder, header)
        return cls(folder, header)

    def __len__(self) -> int:
        """Return how many entries it holds."""
        return self.header.arrays["keys"].shape[0]

    def array(self, name: str) -> NDArray[Any]:
        """Return an array, mapped and read-only."""
        return open_array(self.folder, self.header, name)


@dataclass(frozen=True)
class Selection:
    """Rows out of several arrays, in the order in which they are wanted.

    Attributes:
        source: int16 [n], number of the array.
        place: int32 [n], row in it.
    """

    source: NDArray[np.int16]
    place: NDArray[np.int32]

    def __len__(self) -> int:
        """Return how many rows are wanted."""
        return len(self.source)

    @classmethod
    def whole(cls, number: int, length: int) -> Selection:
        """Return all rows of one array, in their order."""
        return cls(np.full(length, number, np.int16), np.arange(length, dtype=np.int32))

    def only(self, chosen: NDArray[Any] | slice) -> Selection:
        """Return the part that a mask bool [n], positions int [k] or a slice choose."""
        return Selection(self.source[chosen], self.place[chosen])

    def then(self, other: Selection) -> Selection:
        """Return this one followed by another."""
        return Selection(
            np.concatenate([self.source, other.source]), np.concatenate([self.place, other.place])
        )

    def take(self, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Return the rows, [n, ...]; the arrays have one dtype and width."""
        out = np.empty((len(self), *arrays[0].shape[1:]), arrays[0].dtype)
        for number, array in enumerate(arrays):
            mine = self.source == number
            out[mine] = array[self.place[mine]]
        return out

    def stream(self, arrays: Sequence[NDArray[Any]]) -> ArrayStream:
        """Return the rows, [n, ...], to be taken in chunks."""
        first = arrays[0]
        return ArrayStream((len(self), *first.shape[1:]), first.dtype, self._chunks(arrays))

    def _chunks(self, arrays: Sequence[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        step = rows_per_chunk(arrays[0].shape, arrays[0].dtype)
        for start in range(0, len(self), step):
            yield self.only(slice(start, start + step)).take(arrays)


def selected_arrays(tables: Sequence[SavedTable], entries: Selection) -> dict[str, ArrayStream]:
    """Return the entry and row arrays of the table that consists of the selected entries, in their order.

    Raises:
        InputError: the tables have other slabs, slots or dtypes.
    """
    refuse_unlike(tables)
    rows = _rows_of(tables, entries)
    streams = {
        name: entries.stream([table.array(name) for table in tables]) for name in ENTRY_ARRAYS
    }
    for name in row_arrays(tables[0].header):
        streams[name] = rows.stream([table.array(name) for table in tables])
    return streams


def refuse_unlike(tables: Sequence[SavedTable]) -> None:
    """Raise InputError unless the tables have the same slabs, slots and dtypes."""
    first = tables[0]
    for table in tables[1:]:
        here, there = _form(first.header), _form(table.header)
        if here != there:
            raise InputError(
                f"{first.folder} holds {here}, {table.folder} holds {there}: save both with the same slabs and slots"
            )


def _form(header: TableHeader) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What must be equal: dtype and width of every entry and row array."""
    names = (*ENTRY_ARRAYS, *sorted(row_arrays(header)))
    return {name: (header.arrays[name].dtype, header.arrays[name].shape[1:]) for name in names}


def _rows_of(tables: Sequence[SavedTable], entries: Selection) -> Selection:
    """The rows of the selected entries that have one."""
    admitted = [np.asarray(table.array("admitted")) for table in tables]
    rows = [np.cumsum(mask, dtype=np.int32) - np.int32(1) for mask in admitted]
    chosen = entries.only(entries.take(admitted))
    return Selection(chosen.source, chosen.take(rows))
