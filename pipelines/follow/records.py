"""Raw rows to what training reads, without Spark: the rules of `spark_jobs.records`, for a file that has just landed."""

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
from features.schema import ColumnField, MultiValued, Schema
from features.times import epoch_ms
from pipelines.follow.raw_files import RawFile, read_file
from pipelines.follow.raw_rows import join, side_columns, text, values
from spark_jobs.settings import SideTable, Source

if TYPE_CHECKING:
    import pandas as pd

Texts = NDArray[np.object_]
Quarantined = list[tuple[str, str]]
"""Reason and raw record (JSON, or the line as it is) of rows that cannot be used."""

_MARK = "\x00"


@dataclass(frozen=True)
class Judged:
    """What a file came to: `rows_in = rows kept + rows quarantined`.

    Attributes:
        kept: columns as in an `impressions` artifact, in the order of the file.
        quarantined: the others; of a file that cannot be read it is the file that counts, as one.
    """

    kept: pa.Table
    quarantined: Quarantined

    @property
    def rows_in(self) -> int:
        """Rows of the file."""
        return int(self.kept.num_rows) + len(self.quarantined)


class Judge:
    """Reads files of one source by one schema; side tables are read once.

    Args:
        source: how the log is read.
        schema: which columns are label, ids, time, features.
        weight: the column that weighs impressions, if training has one.

    Raises:
        InputError: a side table cannot be used, or the log has clicks only, whose impressions are drawn from the day's.
    """

    def __init__(self, source: Source, schema: Schema, weight: str | None = None) -> None:
        if source.negatives is not None:
            raise InputError(
                "source.negatives: follow needs a log with its non-clicks, they cannot be drawn from a few seconds"
            )
        self._source, self._schema, self._weight = source, schema, weight
        self._sides: list[tuple[SideTable, pd.DataFrame]] = [
            (table, side_columns(table)) for table in source.side_tables
        ]

    def judge(self, path: Path) -> Judged:
        """Return a file's rows, kept or quarantined with a reason."""
        try:
            raw = read_file(path, self._source)
        except InputError as error:
            return Judged(
                self._none(), [("unreadable", json.dumps({"file": path.name, "error": str(error)}))]
            )
        missing = self._missing(raw.rows)
        if missing:
            lost = [(f"columns {missing}", record) for record in _records(raw.rows)]
            return Judged(self._none(), lost + _malformed(raw))
        return self._judged(raw)

    def _judged(self, raw: RawFile) -> Judged:
        rows = join(raw.rows, self._sides)
        moments, readable = _moments(_spelled(rows[self._schema.timestamp.column]), self._schema)
        labels, known = self._labels(_spelled(rows[self._schema.label]))
        user, item = (_spelled(rows[name]) for name in (self._schema.user, self._schema.item))
        ids, first = _identities(raw.rows)
        faults = [
            ("timestamp", ~readable),
            ("label", ~known),
            ("user", user == NULL),
            ("item", item == NULL),
        ]
        faults += [("weight", ~_weighs(rows[self._weight]))] if self._weight else []
        faults += [("duplicate", ~first)] if self._source.deduplicate else []
        reasons = _first_reason(faults, len(rows))
        kept = np.flatnonzero(reasons == NULL)
        columns: dict[str, Any] = {
            "record_id": ids,
            "label": labels,
            "timestamp_ms": moments,
            "user": user,
            "item": item,
        }
        table = self._table(
            rows.iloc[kept], {name: column[kept] for name, column in columns.items()}
        )
        records = _records(raw.rows)
        lost = [(str(reasons[row]), records[row]) for row in np.flatnonzero(reasons != NULL)]
        return Judged(table, lost + _malformed(raw))

    def _table(self, rows: pd.DataFrame, columns: dict[str, Any]) -> pa.Table:
        fields = {
            f.name: _field(rows[self._schema.source_column(f)], f)
            for f in self._schema.column_fields()
        }
        weight = {self._weight: _numbers(rows[self._weight])} if self._weight else {}
        types = {"label": pa.int8(), "user": pa.string(), "item": pa.string()}
        typed = {
            name: pa.array(column, types.get(name, pa.int64())) for name, column in columns.items()
        }
        return pa.table({**typed, **fields, **weight})

    def _none(self) -> pa.Table:
        import pandas as pd

        none: dict[str, Any] = {
            name: [] for name in ("record_id", "label", "timestamp_ms", "user", "item")
        }
        return self._table(
            pd.DataFrame({name: [] for name in self._read_columns()}, dtype=object), none
        )

    def _read_columns(self) -> set[str]:
        features = {self._schema.source_column(field) for field in self._schema.column_fields()}
        return features | ({self._weight} if self._weight else set())

    def _missing(self, rows: pd.DataFrame) -> list[str]:
        schema, joined = self._schema, {name for _, side in self._sides for name in side.columns}
        wanted = {
            schema.label,
            schema.user,
            schema.item,
            schema.timestamp.column,
            *(table.key for table, _ in self._sides),
        }
        return sorted((wanted | self._read_columns()) - set(rows.columns) - joined)

    def _labels(self, spelled: Texts) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        least = self._schema.label_at_least
        if least is not None:
            numbers = _numbers(spelled)
            return (numbers >= least).astype(np.int8), np.isfinite(numbers)
        ones = np.isin(spelled, ["1", "true"])
        return ones.astype(np.int8), ones | np.isin(spelled, ["0", "false"])


def in_order_of_time(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the kept rows of several files by (time, record)."""
    return pa.concat_tables(tables).sort_by(
        [("timestamp_ms", "ascending"), ("record_id", "ascending")]
    )


def _field(column: pd.Series, field: ColumnField) -> pa.Array:
    if not isinstance(field, MultiValued):
        return pa.array(_spelled(column), pa.string())
    lists = [[canonical(value) for value in values(listed, field.separator)] for listed in column]
    return pa.array(
        [[value for value in listed if value != NULL] for listed in lists], pa.list_(pa.string())
    )


def _spelled(column: pd.Series | Texts) -> Texts:
    """Canonical strings of single values, each distinct one spelled once."""
    return _by_distinct(column, canonical)


def _by_distinct(column: Any, made: Callable[[str], Any]) -> NDArray[Any]:
    import pandas as pd

    codes, distinct = pd.factorize(np.array([text(value) for value in column], dtype=object))
    results = np.empty(len(distinct), object)
    results[:] = [made(value) for value in distinct]
    return results[codes]


def _numbers(column: Any) -> NDArray[np.float64]:
    pattern = re.compile(python_pattern(NUMBER))

    def number(spelled: str) -> float:
        """Return the number, NaN for anything else."""
        return float(spelled) if pattern.match(spelled) else np.nan

    found = _by_distinct(_spelled(column), number).astype(np.float64)
    return np.where(np.isfinite(found), found, np.nan)


def _weighs(column: Any) -> NDArray[np.bool_]:
    return _numbers(column) >= 0


def _moments(spelled: Texts, schema: Schema) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    import tensorflow as tf

    moments, readable = epoch_ms(
        tf.constant(spelled, tf.string, shape=[len(spelled)]), schema.timestamp
    )
    return moments.numpy(), readable.numpy()


def _identities(rows: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """A 64-bit hash of each whole record, int64 [n], and whether it is the first of its kind; a repeat's has its number in."""
    seen: dict[str, int] = {}
    ids, first = np.zeros(len(rows), np.int64), np.ones(len(rows), bool)
    for row, record in enumerate(
        zip(*([text(v) for v in rows[name]] for name in sorted(rows.columns)), strict=True)
    ):
        whole = _MARK.join(record)
        number = seen[whole] = seen.get(whole, 0) + 1
        first[row] = number == 1
        ids[row] = _hash(whole if number == 1 else f"{whole}{_MARK}{number}")
    return ids, first


def _hash(record: str) -> int:
    digest = hashlib.blake2b(record.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _first_reason(faults: Sequence[tuple[str, NDArray[np.bool_]]], rows: int) -> Texts:
    reasons = np.full(rows, NULL, object)
    for reason, faulty in reversed(faults):
        reasons[faulty] = reason
    return reasons


def _records(rows: pd.DataFrame) -> list[str]:
    columns = [[text(value) for value in rows[name]] for name in rows.columns]
    return [
        json.dumps(dict(zip(rows.columns, record, strict=True)))
        for record in zip(*columns, strict=True)
    ]


def _malformed(raw: RawFile) -> Quarantined:
    return [("malformed", line) for line in raw.malformed]
