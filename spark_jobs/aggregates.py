"""The day's aggregates: what validation judges, computed where the data lies."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from features.canonical import NULL
from features.schema import MultiValued, Numeric, Schema
from spark_jobs.counting import distinct_tokens
from spark_jobs.moments import Moments, numbers_of
from spark_jobs.values import quoted

DAY = ""
"""The `field` of a metric of the whole day."""

_COUNTS = ".counts"
_TABLE = pa.schema([("field", pa.string()), ("metric", pa.string()), ("value", pa.float64())])


@dataclass(frozen=True)
class Metric:
    """One figure of the day; None where it has no meaning (the mean of no values)."""

    field: str
    metric: str
    value: float | None


def aggregates(frame: DataFrame, schema: Schema, folder: Path) -> Iterator[Metric]:
    """Yield the metrics of a day: those of the day that follow from kept records, then each field's.

    Spark counts distinct values, all fields in one query; Arrow adds up what it wrote.

    Args:
        frame: the `impressions` that `folder` holds.
        schema: names the fields.
        folder: of the artifact; counted values are put aside in it.
    """
    records = pq.ParquetDataset(folder / "impressions").read(columns=["label", "timestamp_ms"])
    label, stamps = records["label"], pc.min_max(records["timestamp_ms"]).as_py()
    rows = len(label)
    yield Metric(DAY, "rows_kept", float(rows))
    yield Metric(DAY, "clicks", float(pc.sum(label).as_py() or 0))
    yield Metric(DAY, "ctr", rounded(pc.mean(label).as_py()))
    for edge in ("min", "max"):
        yield Metric(DAY, f"{edge}_timestamp_ms", rounded(stamps[edge]))
    names = ["user", "item", *(field.name for field in schema.column_fields())]
    lists = {field.name for field in schema.column_fields() if isinstance(field, MultiValued)}
    numbers = {
        2 + i: Moments()
        for i, field in enumerate(schema.column_fields())
        if isinstance(field, Numeric)
    }
    values = [_Values() for _ in names]
    counts = folder / _COUNTS
    _counted(frame, names, lists).write.parquet(str(counts))
    for batch in pa.dataset.dataset(counts).to_batches():
        field, n = (batch[name].to_numpy() for name in ("field", "n"))
        for number in np.unique(field).tolist():
            of_field = field == number
            values[number].add(
                batch["value"].filter(pa.array(of_field)), n[of_field], numbers.get(number)
            )
    shutil.rmtree(counts)
    yield Metric(DAY, "users", float(values[0].distinct))
    yield Metric(DAY, "items", float(values[1].distinct))
    for number, (name, found) in enumerate(zip(names, values, strict=True)):
        if number < len(("user", "item")):
            continue
        yield Metric(name, "null_share", rounded(found.nulls / rows) if rows else None)
        if number in numbers:
            yield from _number_metrics(name, numbers[number], found, rows)
        yield Metric(name, "distinct", float(found.distinct))
        yield Metric(name, "top_share", found.top / rows if rows else None)


def write_metrics(metrics: Iterable[Metric], path: Path) -> None:
    """Write metrics as one Parquet file, sorted by field and metric."""
    ordered = sorted(metrics, key=lambda metric: (metric.field, metric.metric))
    columns = zip(*((m.field, m.metric, m.value) for m in ordered), strict=True)
    pq.write_table(
        pa.table(
            [pa.array(c, f.type) for c, f in zip(columns, _TABLE, strict=True)], schema=_TABLE
        ),
        path,
    )


def counts(values: Mapping[str, int]) -> Iterator[Metric]:
    """Yield counts of the whole day as metrics."""
    return (Metric(DAY, name, float(value)) for name, value in values.items())


def rounded(value: float | int | None) -> float | None:
    """Return a figure to 12 significant digits: sums of floats differ in the last bits from one order to another."""
    return None if value is None else float(f"{value:.12g}")


@dataclass
class _Values:
    """What is told of one column's values, over as many batches as are added; nulls are no value."""

    nulls: int = 0
    distinct: int = 0
    top: int = 0
    unreadable: int = 0

    def add(self, values: pa.Array, n: NDArray[np.int64], moments: Moments | None) -> None:
        """Add distinct values with how many records have each."""
        present = pc.not_equal(values, NULL).to_numpy(zero_copy_only=False)
        self.nulls += int(n[~present].sum())
        self.distinct += int(np.count_nonzero(present))
        self.top = max(self.top, int(n[present].max(initial=0)))
        if moments is not None:
            x = numbers_of(values)
            self.unreadable += int(n[present & np.isnan(x)].sum())
            moments.add(x, n)


def _number_metrics(name: str, moments: Moments, found: _Values, rows: int) -> Iterator[Metric]:
    figures = {"mean": moments.mean, "std": moments.std, "min": moments.least, "max": moments.most}
    for metric, figure in figures.items():
        yield Metric(name, metric, rounded(figure) if moments.weight else None)
    yield Metric(name, "unreadable_share", rounded(found.unreadable / rows) if rows else None)


def _counted(frame: DataFrame, names: Sequence[str], lists: Set[str]) -> DataFrame:
    """How many records have each value of each column (by its place in `names`); of a list each value once."""
    singles = F.array(
        *(_pair(i, quoted(name)) for i, name in enumerate(names) if name not in lists)
    )
    pairs = [
        F.transform(distinct_tokens(quoted(name)), partial(_pair, i))
        for i, name in enumerate(names)
        if name in lists
    ]
    return (
        frame.select(F.explode(F.concat(singles, *pairs)).alias("p"))
        .groupBy("p.field", "p.value")
        .agg(F.count("*").alias("n"))
    )


def _pair(number: int, value: Column) -> Column:
    return F.struct(F.lit(number).alias("field"), value.alias("value"))
