"""A partition's columns, dictionary-encoded once, so that each distinct value is hashed once and not each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.errors import InputError
from features.schema import ColumnField, MultiValued, Schema

RECORD_COLUMNS = ("record_id", "label", "timestamp_ms", "user")
"""Columns beside the fields that training reads."""


class AbsentFields(Enum):
    """What to do about a field that the partition has no column for."""

    REFUSE = "refuse"
    NULL = "null"


@dataclass(frozen=True)
class Coded:
    """A column as codes into its distinct values: codes int64 [n], values string [distinct] (objects)."""

    codes: NDArray[np.int64]
    values: NDArray[np.object_]


@dataclass(frozen=True)
class CodedList:
    """A list column: offsets int64 [n + 1] into the codes of all its elements, one list after the other."""

    offsets: NDArray[np.int64]
    elements: Coded


def read_impressions(
    folder: Path,
    schema: Schema,
    absent: AbsentFields = AbsentFields.REFUSE,
    extras: Sequence[str] = (),
) -> pa.Table:
    """Read an `impressions` artifact, memory-mapped, its files one after the other in the order of their names.

    Args:
        folder: the artifact, which holds `impressions/part-*.parquet`.
        schema: names the columns to read.
        absent: whether a field without a column is an error or null in every row; an extra is then left out.
        extras: further columns to read, as the log has them.

    Raises:
        InputError: no file, an unreadable one, or a missing column.
    """
    files = sorted((folder / "impressions").glob("part-*.parquet"))
    if not files:
        raise InputError(
            f"{folder / 'impressions'}: no part-*.parquet; run `ingest` for this day first"
        )
    return pa.concat_tables([_read(path, schema, absent, extras) for path in files])


def coded(table: pa.Table, name: str) -> Coded:
    """Dictionary-encode a string column; a null counts as `""`."""
    return _encode(pc.fill_null(table[name].combine_chunks(), ""))


def coded_list(table: pa.Table, name: str) -> CodedList:
    """Dictionary-encode the elements of a list<string> column; a null list counts as empty, nulls inside are left out."""
    column = table[name].combine_chunks()
    lengths = (
        pc.fill_null(pc.list_value_length(column), 0)
        .to_numpy(zero_copy_only=False)
        .astype(np.int64)
    )
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return CodedList(offsets, _encode(pc.fill_null(pc.list_flatten(column), "")))


def distinct_pairs(
    left: NDArray[np.int64], right: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Number the distinct pairs of two code columns, int64 [n] each, in order of first occurrence.

    Returns:
        `(codes, lefts, rights)`: int64 [n] into int64 [distinct] and int64 [distinct].
    """
    width = int(right.max(initial=0)) + 1
    codes, pairs = pd.factorize(left * width + right)
    return codes.astype(np.int64), pairs // width, pairs % width


def _read(path: Path, schema: Schema, absent: AbsentFields, extras: Sequence[str]) -> pa.Table:
    try:
        file = pq.ParquetFile(path, memory_map=True)
        there = set(file.schema_arrow.names)
        missing = [f for f in schema.column_fields() if f.name not in there]
        asked = [*(f.name for f in schema.column_fields()), *extras]
        _refuse_missing(
            path, [*RECORD_COLUMNS, *(asked if absent is AbsentFields.REFUSE else ())], there
        )
        wanted = [*RECORD_COLUMNS, *(name for name in asked if name in there)]
        return _with_nulls(file.read(columns=wanted), missing)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            f"{path}: not a readable Parquet file ({error}); run `ingest` for this day again"
        ) from error


def _refuse_missing(path: Path, needed: Sequence[str], there: set[str]) -> None:
    missing = [name for name in needed if name not in there]
    if missing:
        raise InputError(
            f"{path}: no column {missing} (there are {sorted(there)}); run `ingest` again with this schema"
        )


def _with_nulls(table: pa.Table, missing: Sequence[ColumnField]) -> pa.Table:
    for field in missing:
        kind = pa.list_(pa.string()) if isinstance(field, MultiValued) else pa.string()
        table = table.append_column(field.name, pa.nulls(table.num_rows, kind))
    return table


def _encode(column: pa.Array) -> Coded:
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return Coded(codes, encoded.dictionary.to_numpy(zero_copy_only=False).astype(object))
