"""A partition's columns, dictionary-encoded, so that a value is hashed once and not in each row."""

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
from features.schema import MultiValued, Schema

RECORD_COLUMNS = ("record_id", "label", "timestamp_ms", "user")
"""Columns that training reads in addition to the fields."""


class AbsentFields(Enum):
    """What to do about a field that the partition has no column for."""

    REFUSE = "refuse"
    NULL = "null"


@dataclass(frozen=True)
class DictionaryColumn:
    """A column as codes int64 [n] into its distinct values, string [distinct] (objects)."""

    codes: NDArray[np.int64]
    values: NDArray[np.object_]


@dataclass(frozen=True)
class DictionaryListColumn:
    """A list column: list i has the elements `offsets[i]` to `offsets[i + 1]`; int64 [n + 1]."""

    offsets: NDArray[np.int64]
    elements: DictionaryColumn


def read_impressions(
    folder: Path,
    schema: Schema,
    absent: AbsentFields = AbsentFields.REFUSE,
    extras: Sequence[str] = (),
) -> pa.Table:
    """Read an `impressions` artifact, memory-mapped, its files in the order of their names.

    Args:
        folder: the artifact, which holds `impressions/part-*.parquet`.
        schema: names the columns to read.
        absent: whether a field without a column is an error, or null in every row; in the latter
            case an extra without a column is left out.
        extras: further columns to read, as the log has them.

    Raises:
        InputError: there is no file, an unreadable one, or a missing column.
    """
    files = sorted((folder / "impressions").glob("part-*.parquet"))
    if not files:
        raise InputError(
            f"{folder / 'impressions'}: no part-*.parquet; run `ingest` for this day first"
        )
    return pa.concat_tables([_read(path, schema, absent, extras) for path in files])


def dictionary_column(table: pa.Table, name: str) -> DictionaryColumn:
    """Dictionary-encode a string column; a null counts as `""`."""
    return _encode(pc.fill_null(table[name].combine_chunks(), ""))


def dictionary_list_column(table: pa.Table, name: str) -> DictionaryListColumn:
    """Dictionary-encode the elements of a list<string> column.

    A null list counts as empty, a null element as `""`.
    """
    column = table[name].combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths.astype(np.int64))])
    return DictionaryListColumn(offsets, _encode(pc.fill_null(pc.list_flatten(column), "")))


def distinct_pairs(
    left: NDArray[np.int64], right: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Number the distinct pairs of two code columns, int64 [n] each, in order of occurrence.

    Returns:
        `(codes, lefts, rights)`: int64 [n], and the pairs that they number, int64 [distinct] each.
    """
    # One number per pair. Codes are below the number of rows, so the product fits int64.
    width = int(right.max(initial=0)) + 1
    codes, pairs = pd.factorize(left * width + right)
    return codes.astype(np.int64), pairs // width, pairs % width


def _read(path: Path, schema: Schema, absent: AbsentFields, extras: Sequence[str]) -> pa.Table:
    fields = schema.column_fields()
    requested = [*(f.name for f in fields), *extras]
    try:
        # Memory-mapped, so that columns that are not requested are not loaded.
        file = pq.ParquetFile(path, memory_map=True)
        available = set(file.schema_arrow.names)
        needed = [*RECORD_COLUMNS, *(requested if absent is AbsentFields.REFUSE else ())]
        missing = [name for name in needed if name not in available]
        if missing:
            raise InputError(
                f"{path}: no column {missing} (there are {sorted(available)}); run `ingest` again "
                "with this schema"
            )
        present = [name for name in requested if name in available]
        table = file.read(columns=[*RECORD_COLUMNS, *present])
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            f"{path}: not a readable Parquet file ({error}); run `ingest` for this day again"
        ) from error
    for field in (f for f in fields if f.name not in available):
        kind = pa.list_(pa.string()) if isinstance(field, MultiValued) else pa.string()
        table = table.append_column(field.name, pa.nulls(table.num_rows, kind))
    return table


def _encode(column: pa.Array) -> DictionaryColumn:
    # Arrow reads a column as a dictionary if it was written as one.
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return DictionaryColumn(codes, encoded.dictionary.to_numpy(zero_copy_only=False).astype(object))
