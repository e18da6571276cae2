"""Validate the rows of a file that has just arrived, by the rules that ingest applies to a day.

`features.ingest_rules` holds the rules; this module interprets them without Spark.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.canonical import NULL, NUMBER, canonical, python_pattern
from features.errors import InputError
from features.ingest_rules import LABELS, IngestMode, RecordCheck, ingest_rules
from features.schema import ColumnField, MultiValued, Numeric, Schema
from features.times import epoch_ms
from pipelines.follow.raw_rows import (
    RawFile,
    join_side_tables,
    raw_list,
    raw_string,
    read_bytes,
    read_file,
    read_side_table,
)
from spark_jobs.settings import SideTable, Source

if TYPE_CHECKING:
    import pandas as pd

Texts = NDArray[np.object_]
Quarantined = list[tuple[str, str]]
"""Reason and raw record (JSON, or the text of a malformed line) of rows that cannot be used."""

_UNREADABLE = "unreadable"
DELIVERED_TWICE = "delivered_twice"
"""Reason of a file whose content was processed under another name."""

_RULES = ingest_rules(IngestMode.FOLLOW)
_MALFORMED = next(rule.reason for rule in _RULES if rule.check is RecordCheck.PARSED)
_SEPARATOR = "\x00"
_LOST = "\ufffd"

_TYPES = {
    "record_id": pa.int64(),
    "label": pa.int8(),
    "timestamp_ms": pa.int64(),
    "user": pa.string(),
    "item": pa.string(),
}
"""Columns of an `impressions` artifact that do not depend on the schema's fields."""


@dataclass(frozen=True)
class ValidatedFile:
    """The rows of a file: `rows_in = kept rows + quarantined rows`.

    Attributes:
        kept: columns as in an `impressions` artifact, in the order of the file.
        quarantined: the other rows. A file that cannot be read counts as one row.
    """

    kept: pa.Table
    quarantined: Quarantined

    @property
    def rows_in(self) -> int:
        """Number of rows of the file."""
        return int(self.kept.num_rows) + len(self.quarantined)


class RecordValidator:
    """Reads and validates files of one log. Side tables are read once.

    Args:
        source: how the log is read.
        schema: which columns are label, ids, time and features.
        weight: the column of sample weights, if the training has one.

    Raises:
        InputError: a side table cannot be used, or the log has clicks only: other impressions can
            be drawn from a whole day, but not from a few seconds.
    """

    def __init__(self, source: Source, schema: Schema, weight: str | None = None) -> None:
        if source.negatives is not None:
            raise InputError(
                "source.negatives is configured: follow mode needs a log with all impressions, "
                "because negatives cannot be drawn from a few seconds of clicks"
            )
        self._source, self._schema, self._weight = source, schema, weight
        self._side_tables: list[tuple[SideTable, pd.DataFrame]] = [
            (table, read_side_table(table)) for table in source.side_tables
        ]
        features = {schema.source_column(field) for field in schema.column_fields()}
        self._value_columns = features | ({weight} if weight else set())

    def validate(
        self, path: Path, data: bytes | None = None, latest_ms: float = np.inf
    ) -> ValidatedFile:
        """Return the rows of a file, each either kept or quarantined with a reason.

        Args:
            path: the file.
            data: its bytes, if they were read already.
            latest_ms: rows of a later moment, in epoch milliseconds, are quarantined.

        Raises:
            OSError: the system cannot read the file now.
            MemoryError: there is not enough memory for it now.
        """
        try:
            data = read_bytes(path) if data is None else data
            return self._validate(path, data, latest_ms)
        except (OSError, MemoryError):
            raise
        except Exception as error:
            # Whatever a file holds costs this file only. Libraries raise many types.
            return self.rejected(path, str(error) or repr(error))

    def rejected(self, path: Path, why: str, reason: str = _UNREADABLE) -> ValidatedFile:
        """Return a file of which no row can be used; it counts as one row."""
        record = json.dumps({"file": path.name, "error": why})
        return ValidatedFile(self._empty_table(), [(reason, record)])

    def _validate(self, path: Path, data: bytes, latest_ms: float) -> ValidatedFile:
        raw = read_file(path, self._source, data)
        malformed = [(_MALFORMED, line) for line in raw.malformed]
        missing = self._missing_columns(raw.rows)
        if missing and raw.rows.empty:
            return self.rejected(path, f"the header lacks the columns {missing}")
        if missing:
            reason = f"columns {missing}"
            lost = [(reason, record) for record in _json_records(raw.rows)]
            return ValidatedFile(self._empty_table(), lost + malformed)
        kept, lost = self._validate_rows(raw, latest_ms)
        return ValidatedFile(kept, lost + malformed)

    def _missing_columns(self, rows: pd.DataFrame) -> list[str]:
        schema = self._schema
        joined = {name for _, side in self._side_tables for name in side.columns}
        wanted = {schema.label, schema.user, schema.item, schema.timestamp.column}
        wanted |= {table.key for table, _ in self._side_tables}
        return sorted((wanted | self._value_columns) - set(rows.columns) - joined)

    def _validate_rows(self, raw: RawFile, latest_ms: float) -> tuple[pa.Table, Quarantined]:
        schema = self._schema
        rows = join_side_tables(raw.rows, self._side_tables)

        # 1. Read what the rules check.
        roles = {
            "timestamp": schema.timestamp.column,
            "label": schema.label,
            "user": schema.user,
            "item": schema.item,
            **({"weight": self._weight} if self._weight else {}),
        }
        values = {role: _canonical_values(rows[column]) for role, column in roles.items()}
        moments, readable = _epoch_ms(values["timestamp"], schema)
        labels, known = self._labels(values["label"])
        ids, first = _record_ids(raw.rows)
        passed = {
            RecordCheck.READABLE_TIME: readable,
            RecordCheck.NOT_FUTURE: moments <= latest_ms,
            RecordCheck.KNOWN_LABEL: known,
            **self._check_cells(raw.rows),
        }
        if self._source.deduplicate:
            passed[RecordCheck.FIRST_COPY] = first

        # 2. Find the reason of each row. Rules are applied in reverse: the first one counts.
        reasons = np.full(len(rows), NULL, object)
        for rule in reversed(_RULES):
            if rule.check is RecordCheck.NOT_NULL and rule.role:
                reasons[values[rule.role] == NULL] = rule.reason
            elif rule.check is RecordCheck.NOT_NEGATIVE and rule.role in values:
                # NaN, which stands for what is no number, is not at least 0.
                reasons[~(_numbers(values[rule.role]) >= 0)] = rule.reason
            elif rule.check in passed:
                reasons[~passed[rule.check]] = rule.reason

        # 3. Split the rows.
        kept = np.flatnonzero(reasons == NULL)
        columns: dict[str, Any] = {
            "record_id": ids,
            "label": labels,
            "timestamp_ms": moments,
            "user": values["user"],
            "item": values["item"],
        }
        table = self._table(rows.iloc[kept], {name: each[kept] for name, each in columns.items()})
        records = _json_records(raw.rows)
        lost = [(str(reasons[row]), records[row]) for row in np.flatnonzero(reasons != NULL)]
        return table, lost

    def _check_cells(self, rows: pd.DataFrame) -> dict[RecordCheck, NDArray[np.bool_]]:
        """Return the checks of all values of a record, bool [n] each."""
        decoded, sized, finite = (np.ones(len(rows), bool) for _ in range(3))
        numeric = {field.source for field in self._schema.fields if isinstance(field, Numeric)}
        pattern = re.compile(python_pattern(NUMBER))

        def is_finite(text: str) -> bool:
            return text not in ("inf", "-inf") and not (
                pattern.match(text) and np.isinf(float(text))
            )

        for name in rows.columns:
            cells = [raw_string(value) for value in rows[name]]
            decoded &= np.array([_LOST not in cell for cell in cells], bool)
            sizes = [_bytes_of(*each) for each in zip(rows[name], cells, strict=True)]
            sized &= np.array(sizes, int) <= self._source.max_cell_bytes
            if name in numeric:
                finite &= np.array([is_finite(cell) for cell in cells], bool)
        return {
            RecordCheck.DECODED: decoded,
            RecordCheck.CELL_SIZE: sized,
            RecordCheck.FINITE: finite,
        }

    def _labels(self, values: Texts) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        """Return labels int8 [n] and whether each is known, bool [n]."""
        least = self._schema.label_at_least
        if least is not None:
            numbers = _numbers(values)
            return (numbers >= least).astype(np.int8), np.isfinite(numbers)
        labels = _by_distinct(values, lambda value: LABELS.get(value, -1)).astype(np.int8)
        return labels, labels >= 0

    def _table(self, rows: pd.DataFrame, columns: dict[str, Any]) -> pa.Table:
        typed = {name: pa.array(column, _TYPES[name]) for name, column in columns.items()}
        for field in self._schema.column_fields():
            typed[field.name] = _field_values(rows[self._schema.source_column(field)], field)
        if self._weight:
            typed[self._weight] = _numbers(_canonical_values(rows[self._weight]))
        return pa.table(typed)

    def _empty_table(self) -> pa.Table:
        import pandas as pd

        rows = pd.DataFrame({name: [] for name in self._value_columns}, dtype=object)
        return self._table(rows, {name: [] for name in _TYPES})


def in_order_of_time(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the kept rows of several files, sorted by time and record id."""
    by = [("timestamp_ms", "ascending"), ("record_id", "ascending")]
    return pa.concat_tables(tables).sort_by(by)


def _field_values(column: pd.Series, field: ColumnField) -> pa.Array:
    if not isinstance(field, MultiValued):
        return pa.array(_canonical_values(column), pa.string())
    lists = [[canonical(each) for each in raw_list(value, field.separator)] for value in column]
    without_nulls = [[each for each in values if each != NULL] for values in lists]
    return pa.array(without_nulls, pa.list_(pa.string()))


def _canonical_values(column: pd.Series) -> Texts:
    """Return canonical strings, objects [n]."""
    return _by_distinct([raw_string(value) for value in column], canonical)


def _by_distinct(texts: Sequence[str] | Texts, function: Callable[[str], Any]) -> NDArray[Any]:
    """Apply a function to each distinct text once; return its results, objects [n]."""
    import pandas as pd

    codes, distinct = pd.factorize(np.array(texts, dtype=object))
    return np.array([function(text) for text in distinct], dtype=object)[codes]


def _numbers(values: Texts) -> NDArray[np.float64]:
    """Return canonical values as finite numbers, float64 [n]; NaN for anything else."""
    pattern = re.compile(python_pattern(NUMBER))
    numbers = _by_distinct(values, lambda text: float(text) if pattern.match(text) else np.nan)
    numbers = numbers.astype(np.float64)
    # The exponent of a text such as 1e999 gives infinity.
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _epoch_ms(values: Texts, schema: Schema) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    # The graph that training and serving share, so that all three read times alike.
    import tensorflow as tf

    texts = tf.constant(values, tf.string, shape=[len(values)])
    moments, readable = epoch_ms(texts, schema.timestamp)
    return moments.numpy(), readable.numpy()


def _record_ids(rows: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return a 64-bit hash of each record and whether it is the first of equal ones, both [n]."""
    counts: dict[str, int] = {}
    ids, first = np.zeros(len(rows), np.int64), np.ones(len(rows), bool)
    # In the order of names: files of one log may order their columns differently.
    columns = ([raw_string(v) for v in rows[name]] for name in sorted(rows.columns))
    for row, record in enumerate(zip(*columns, strict=True)):
        text = _SEPARATOR.join(record)
        number = counts[text] = counts.get(text, 0) + 1
        first[row] = number == 1
        # The number of the copy keeps the ids of equal records apart.
        hashed = text if number == 1 else f"{text}{_SEPARATOR}{number}"
        digest = hashlib.blake2b(hashed.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        ids[row] = int.from_bytes(digest, "big", signed=True)
    return ids, first


def _bytes_of(value: object, text: str) -> int:
    """Return the size of a cell, as ingest measures it."""
    if isinstance(value, list | tuple | np.ndarray):
        return len(value) + sum(len(_utf8(each)) for each in value)
    return len(_utf8(text))


def _utf8(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else b""


def _json_records(rows: pd.DataFrame) -> list[str]:
    columns = [[raw_string(value) for value in rows[name]] for name in rows.columns]
    records = zip(*columns, strict=True)
    return [json.dumps(dict(zip(rows.columns, record, strict=True))) for record in records]
