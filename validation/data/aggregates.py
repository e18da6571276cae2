"""Read the aggregates that ingest wrote: one number per (field, metric), `""` being the whole day."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import InputError

WHOLE_DAY = ""
"""The field name under which metrics of the day as a whole are kept."""

_COLUMNS = ["field", "metric", "value"]


@dataclass(frozen=True)
class Aggregates:
    """The metrics of one day. A metric that ingest did not write reads as NaN, which no gate accepts."""

    values: Mapping[tuple[str, str], float]

    def day(self, metric: str) -> float:
        """A metric of the whole day."""
        return self.values.get((WHOLE_DAY, metric), math.nan)

    def of(self, field: str, metric: str) -> float:
        """A metric of one field."""
        return self.values.get((field, metric), math.nan)


def read_aggregates(path: Path) -> Aggregates:
    """Read `aggregates.parquet` of an `impressions` artifact.

    Raises:
        InputError: the file is missing, is no Parquet file, lacks a column or repeats a metric.
    """
    try:
        table = pq.read_table(path, columns=_COLUMNS)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise InputError(
            f"{path}: cannot read the day's aggregates ({error}); run `ingest` for that day again"
        ) from error
    if table.num_rows and set(table.column_names) != set(_COLUMNS):
        raise InputError(
            f"{path}: expected the columns {_COLUMNS}, found {table.column_names}; run `ingest` again"
        )
    return Aggregates(_by_metric(table, path))


def _by_metric(table: pa.Table, path: Path) -> dict[tuple[str, str], float]:
    values: dict[tuple[str, str], float] = {}
    for record in table.to_pylist():
        name = (record["field"], record["metric"])
        if name in values:
            raise InputError(
                f"{path}: the metric {name} appears twice; run `ingest` for that day again"
            )
        values[name] = math.nan if record["value"] is None else float(record["value"])
    return values
