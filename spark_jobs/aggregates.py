"""The day's aggregates: what validation judges, computed where the data lies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from features.canonical import NULL
from features.schema import ColumnField, MultiValued, Numeric, Schema
from spark_jobs.values import number, quoted

DAY = ""
"""The `field` of a metric of the whole day."""

_TABLE = pa.schema([("field", pa.string()), ("metric", pa.string()), ("value", pa.float64())])


@dataclass(frozen=True)
class Metric:
    """One figure of the day; None where it has no meaning (the mean of no values)."""

    field: str
    metric: str
    value: float | None


def aggregates(frame: DataFrame, schema: Schema) -> Iterator[Metric]:
    """Yield the metrics of an `impressions` frame: those of the day that follow from kept records, then each field's.

    Two passes: one of plain aggregates, one over the distinct values.
    """
    plan = list(_plan(schema))
    row = frame.agg(*(expression.alias(f"m{i}") for i, (_, _, expression) in enumerate(plan))).first()
    rows = frame.count() if row is None else row[0]
    yield from (Metric(field, metric, rounded(value)) for (field, metric, _), value in zip(plan, row or (), strict=True))
    values = {found["field"]: found for found in _distinct(frame, schema).collect()}
    for name, metric in (("user", "users"), ("item", "items")):
        yield Metric(DAY, metric, float(values[name]["distinct"]) if name in values else 0.0)
    for field in schema.column_fields():
        found = values.get(field.name)
        yield Metric(field.name, "distinct", float(found["distinct"]) if found else 0.0)
        yield Metric(field.name, "top_share", (found["top"] / rows if found else 0.0) if rows else None)


def write_metrics(metrics: Iterable[Metric], path: Path) -> None:
    """Write metrics as one Parquet file, sorted by field and metric."""
    ordered = sorted(metrics, key=lambda metric: (metric.field, metric.metric))
    columns = zip(*((m.field, m.metric, m.value) for m in ordered), strict=True)
    pq.write_table(pa.table([pa.array(c, f.type) for c, f in zip(columns, _TABLE, strict=True)], schema=_TABLE), path)


def counts(values: Mapping[str, int]) -> Iterator[Metric]:
    """Yield counts of the whole day as metrics."""
    return (Metric(DAY, name, float(value)) for name, value in values.items())


def rounded(value: float | int | None) -> float | None:
    """Return a figure to 12 significant digits: sums of floats differ in the last bits from one order to another."""
    return None if value is None else float(f"{value:.12g}")


def _plan(schema: Schema) -> Iterator[tuple[str, str, Column]]:
    yield DAY, "rows_kept", F.count("*")
    yield DAY, "clicks", F.coalesce(F.sum("label"), F.lit(0))
    yield DAY, "ctr", F.avg("label")
    yield DAY, "min_timestamp_ms", F.min("timestamp_ms")
    yield DAY, "max_timestamp_ms", F.max("timestamp_ms")
    for field in schema.column_fields():
        yield field.name, "null_share", F.avg(_is_null(field).cast("int"))
        if isinstance(field, Numeric):
            yield from _number_plan(field.name)


def _number_plan(name: str) -> Iterator[tuple[str, str, Column]]:
    text = quoted(name)
    value = number(text)
    for metric, aggregate in (("mean", F.avg), ("std", F.stddev_pop), ("min", F.min), ("max", F.max)):
        yield name, metric, aggregate(value)
    yield name, "unreadable_share", F.avg((value.isNull() & (text != NULL)).cast("int"))


def _is_null(field: ColumnField) -> Column:
    return F.size(quoted(field.name)) == 0 if isinstance(field, MultiValued) else quoted(field.name) == NULL


def _distinct(frame: DataFrame, schema: Schema) -> DataFrame:
    """Per field the number of distinct values and the count of the most frequent one, nulls left out."""
    singles = ["user", "item", *(f.name for f in schema.column_fields() if not isinstance(f, MultiValued))]
    lists = [f.name for f in schema.column_fields() if isinstance(f, MultiValued)]
    pairs = [F.array(*(_pair(name, quoted(name)) for name in singles))]
    pairs += [_pairs(name) for name in lists]
    long = frame.select(F.explode(F.concat(*pairs)).alias("p")).select("p.field", "p.value").where(F.col("value") != NULL)
    sizes = long.groupBy("field", "value").agg(F.count("*").alias("n"))
    return sizes.groupBy("field").agg(F.count("*").alias("distinct"), F.max("n").alias("top"))


def _pair(name: str, value: Column) -> Column:
    return F.struct(F.lit(name).alias("field"), value.alias("value"))


def _pairs(name: str) -> Column:
    return F.transform(F.array_distinct(quoted(name)), lambda value: _pair(name, value))
