"""Requests as a server gets them: the raw strings of logged impressions, in a portable file.

The file is a `.npz` of bytes and offsets: `<field>.bytes` uint8, `<field>.ends` int64 [values], and
for a multi-valued field `<field>.lists` int64 [requests], the end of each request's list of values.
Pickle is unsafe, and fixed-width text cuts trailing NULs and pads every value to the longest one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.canonical import NULL
from features.errors import InputError
from features.schema import MultiValued, Schema


@dataclass(frozen=True)
class RawRequests:
    """Raw values by field: columns of strings, and of lists of strings for multi-valued fields."""

    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @classmethod
    def of(cls, schema: Schema, columns: Mapping[str, Sequence[object]]) -> RawRequests:
        """Make requests from strings or None, and lists of strings for multi-valued fields."""
        arrays = {}
        for field in schema.column_fields():
            dtype = pa.list_(pa.string()) if isinstance(field, MultiValued) else pa.string()
            arrays[field.name] = pa.array(columns[field.name], dtype)
        return cls(pa.table(arrays))

    def save(self, path: Path) -> None:
        """Write the file that the worker reads."""
        arrays: dict[str, NDArray[np.generic]] = {}
        for name in self.table.column_names:
            column = self.table.column(name)
            # An empty table has no chunks, and Arrow does not concatenate none.
            values = pa.concat_arrays(column.chunks or [pa.array([], column.type)])
            if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
                lengths = pc.fill_null(pc.list_value_length(values), 0)
                ends = np.cumsum(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)
                arrays[f"{name}.lists"] = ends
                values = pc.list_flatten(values)
            # large_string has 64-bit offsets: a day's values of a field may exceed 2 GiB.
            filled = pc.fill_null(values.cast(pa.large_string()), NULL)
            lengths = pc.binary_length(filled).to_numpy(zero_copy_only=False)
            text = b"".join(pc.cast(filled, pa.large_binary()).to_pylist())
            arrays[f"{name}.bytes"] = np.frombuffer(text, np.uint8)
            arrays[f"{name}.ends"] = np.cumsum(lengths, dtype=np.int64)
        np.savez(path, allow_pickle=False, **arrays)


def read_requests(
    partition: Path, schema: Schema, record_ids: NDArray[np.int64] | None = None
) -> RawRequests:
    """Read the requests of logged impressions.

    Args:
        partition: an `impressions` artifact folder.
        schema: its column fields become the requests' fields.
        record_ids: which impressions, in this order; None: all.

    Raises:
        InputError: a column is missing from the partition, or a record is not in it.
    """
    names = [field.name for field in schema.column_fields()]
    try:
        table = pq.read_table(partition / "impressions", columns=["record_id", *names])
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{partition}: cannot read the impressions ({error}); run `ingest` for that day again"
        ) from error
    missing = sorted(set(names) - set(table.column_names))
    if missing:
        raise InputError(
            f"{partition}: the fields {missing} are not in the partition; run `ingest` with this "
            "schema"
        )
    if record_ids is not None:
        wanted = pa.array(record_ids, pa.int64())
        positions = pc.index_in(wanted, value_set=table.column("record_id"))
        if positions.null_count:
            raise InputError(
                f"{partition}: {positions.null_count} of {len(record_ids)} records are not in the "
                "partition: wrong day or version"
            )
        table = table.take(positions)
    return RawRequests(table.select(names))
