"""Requests as a server gets them: the raw strings of logged impressions, in a file that any process can read.

A `.npz` of bytes and offsets, without pickle and without fixed-width text (which would cut trailing NULs and take the
longest value's room for each): `<field>.bytes` uint8, `<field>.ends` int64 [values], and for a multi-valued field
`<field>.lists` int64 [requests], where each request's list of values ends.
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
from features.schema import ColumnField, MultiValued, Schema


@dataclass(frozen=True)
class RawRequests:
    """Raw values by field: `table` has a string column per single-valued field, list<string> per multi-valued one."""

    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @classmethod
    def of(cls, schema: Schema, columns: Mapping[str, Sequence[object]]) -> RawRequests:
        """Make requests from Python values: strings or None, lists of strings for multi-valued fields."""
        fields = schema.column_fields()
        return cls(pa.table({f.name: pa.array(columns[f.name], _type(f)) for f in fields}))

    def save(self, path: Path) -> None:
        """Write the file that the worker reads."""
        arrays: dict[str, NDArray[np.generic]] = {}
        for name in self.table.column_names:
            arrays |= _encode(
                name,
                pa.concat_arrays(
                    self.table.column(name).chunks or [pa.array([], self.table.field(name).type)]
                ),
            )
        np.savez(path, allow_pickle=False, **arrays)


def read_requests(
    partition: Path, schema: Schema, record_ids: NDArray[np.int64] | None = None
) -> RawRequests:
    """Read the requests behind logged impressions.

    Args:
        partition: an `impressions` artifact folder.
        schema: its column fields become the requests' fields.
        record_ids: which impressions, in which order (for instance those of `heldout.parquet`); None takes all.

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
            f"{partition}: the fields {missing} are not in the partition; run `ingest` with this schema"
        )
    if record_ids is not None:
        table = table.take(_positions(table, record_ids, partition))
    return RawRequests(table.select(names))


def _positions(table: pa.Table, record_ids: NDArray[np.int64], partition: Path) -> pa.Array:
    positions = pc.index_in(pa.array(record_ids, pa.int64()), value_set=table.column("record_id"))
    if positions.null_count:
        raise InputError(
            f"{partition}: {positions.null_count} of {len(record_ids)} records are not in the partition: wrong day or version"
        )
    return positions


def _type(field: ColumnField) -> pa.DataType:
    return pa.list_(pa.string()) if isinstance(field, MultiValued) else pa.string()


def _encode(name: str, column: pa.Array) -> dict[str, NDArray[np.generic]]:
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return _encode_strings(name, column)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return _encode_strings(name, pc.list_flatten(column)) | {
        f"{name}.lists": np.cumsum(lengths, dtype=np.int64)
    }


def _encode_strings(name: str, values: pa.Array) -> dict[str, NDArray[np.generic]]:
    filled = pc.fill_null(values.cast(pa.large_string()), NULL)
    ends = np.cumsum(pc.binary_length(filled).to_numpy(zero_copy_only=False), dtype=np.int64)
    text = b"".join(pc.cast(filled, pa.large_binary()).to_pylist())
    return {f"{name}.bytes": np.frombuffer(text, np.uint8), f"{name}.ends": ends}
