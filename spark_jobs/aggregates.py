"""Aggregates of a day's records, and counts of their values: the input of data validation.

The counts are those of the aggregates, so the records are read once. Of a field with many values
`values.parquet` keeps those with the lowest hashes: the same ones every day, whatever their counts.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from features.canonical import NULL
from features.schema import MultiValued, Numeric, Schema, TimePart
from spark_jobs.counting import numbered_values
from spark_jobs.field_figures import Moments
from spark_jobs.files import table_of
from spark_jobs.times import time_part
from spark_jobs.values import numbers_of, quoted

DAY = ""
"""The `field` of a metric of the whole day."""

KEPT_VALUES = 2**14
"""Most values of a field that `values.parquet` keeps."""

_COUNTS = ".counts"
_VALUES = pa.schema({
    "field": pa.string(), "value": pa.string(), "hash": pa.int64(), "impressions": pa.int64(),
    "clicks": pa.int64(),
})  # fmt: skip
_FIRST_KEPT = 2
"""Position of the hour among the counted columns, after user and item; the fields follow."""
_TABLE = pa.schema({"field": pa.string(), "metric": pa.string(), "value": pa.float64()})

Metric = tuple[str, str, float | None]
"""Field, name and value; None where it has no meaning (the mean of no values)."""


def aggregates(frame: DataFrame, schema: Schema, folder: Path) -> Iterator[Metric]:
    """Yield the metrics of a day: first those of all kept records, then each field's.

    `values.parquet` is written into `folder`: records and clicks by value, and under the field `""`
    by hour of the local time. `""` is null.

    Spark counts distinct values, all fields in one query; Arrow adds up the counts.

    Args:
        frame: the `impressions` in `folder`.
        folder: of the artifact; a temporary folder of counts is made in it.
    """
    # 1. The day.
    records = pq.ParquetDataset(folder / "impressions").read(columns=["label", "timestamp_ms"])
    label, stamps = records["label"], pc.min_max(records["timestamp_ms"]).as_py()
    rows = len(label)
    yield DAY, "rows_kept", float(rows)
    yield DAY, "clicks", float(pc.sum(label).as_py() or 0)
    yield DAY, "ctr", _rounded(pc.mean(label).as_py())
    for bound in ("min", "max"):
        yield DAY, f"{bound}_timestamp_ms", _rounded(stamps[bound])
    # 2. Records by value of each column.
    fields = schema.column_fields()
    columns = [(quoted(name), False) for name in ("user", "item")]
    hour = time_part(F.col("timestamp_ms"), TimePart.HOUR_OF_DAY, schema.timezone)
    columns.append((hour.cast("string"), False))
    columns += [(quoted(field.name), isinstance(field, MultiValued)) for field in fields]
    values = [_ColumnValues() for _ in range(3)]
    values += [_ColumnValues(Moments() if isinstance(each, Numeric) else None) for each in fields]
    pairs = frame.select("label", numbered_values(columns).alias("p"))
    counts, sums = folder / _COUNTS, (F.count("*").alias("n"), F.sum("label").alias("clicks"))
    groups = pairs.groupBy("p.number", "p.value").agg(*sums)
    groups.withColumn("hash", F.xxhash64("value")).write.parquet(str(counts))
    for batch in pa.dataset.dataset(counts).to_batches():
        number, n = (batch[name].to_numpy() for name in ("number", "n"))
        for each in np.unique(number).tolist():
            of_column = number == each
            found = batch.filter(pa.array(of_column))
            values[each].add(found["value"], n[of_column])
            if each >= _FIRST_KEPT:
                values[each].keep(found)
    shutil.rmtree(counts)
    names = (DAY, *(field.name for field in fields))
    with pq.ParquetWriter(folder / "values.parquet", _VALUES) as writer:
        for name, kept in sorted(zip(names, values[_FIRST_KEPT:], strict=True), key=itemgetter(0)):
            writer.write_table(kept.table(name))
    # 3. The metrics that follow.
    yield DAY, "users", float(values[0].distinct)
    yield DAY, "items", float(values[1].distinct)
    for field, found in zip(fields, values[_FIRST_KEPT + 1 :], strict=True):
        yield from ((field.name, *metric) for metric in found.metrics(rows))


def write_metrics(metrics: Iterable[Metric], path: Path) -> None:
    """Write metrics as one Parquet file, sorted by field and metric."""
    pq.write_table(table_of(sorted(metrics, key=lambda metric: metric[:2]), _TABLE), path)


def _rounded(value: float | int | None) -> float | None:
    # To 12 significant digits: the last bits of a sum of floats depend on its order.
    return None if value is None else float(f"{value:.12g}")


def _lowest(counts: pa.Table) -> pa.Table:
    """Return null and the values of the lowest hashes."""
    null = pc.equal(counts["value"], NULL)
    others = counts.filter(pc.invert(null)).sort_by("hash").slice(0, KEPT_VALUES)
    return pa.concat_tables([counts.filter(null), others])


@dataclass
class _ColumnValues:
    """The sums of one column over the batches of its values that were added."""

    moments: Moments | None = None
    nulls: int = 0
    distinct: int = 0
    top: int = 0
    unreadable: int = 0
    kept: pa.Table | None = None

    def keep(self, counts: pa.RecordBatch) -> None:
        """Keep these counts if their values are among the lowest hashes."""
        table = pa.Table.from_batches([counts])
        table = table if self.kept is None else pa.concat_tables([self.kept, table])
        if len(table) > 2 * KEPT_VALUES:
            table = _lowest(table)
        self.kept = table

    def table(self, field: str) -> pa.Table:
        """Return the kept counts of a field by value, as `values.parquet` has them."""
        if self.kept is None:
            return _VALUES.empty_table()
        kept = _lowest(self.kept).sort_by("value")
        columns = {"field": pa.repeat(field, len(kept)), "impressions": kept["n"]}
        columns |= {name: kept[name] for name in ("value", "hash", "clicks")}
        return pa.table([columns[name] for name in _VALUES.names], schema=_VALUES)

    def add(self, values: pa.Array, n: NDArray[np.int64]) -> None:
        """Add distinct values [k], and how many records [k] have each."""
        present = pc.not_equal(values, NULL).to_numpy(zero_copy_only=False)
        self.nulls += int(n[~present].sum())
        self.distinct += int(np.count_nonzero(present))
        self.top = max(self.top, int(n[present].max(initial=0)))
        if self.moments is not None:
            x = numbers_of(values)
            self.unreadable += int(n[present & np.isnan(x)].sum())
            self.moments.add(x, n)

    def metrics(self, rows: int) -> Iterator[tuple[str, float | None]]:
        """Yield name and value of the column's metrics; `rows` are the kept records."""
        yield "null_share", _rounded(self.nulls / rows) if rows else None
        if (x := self.moments) is not None:
            figures = {"mean": x.mean, "std": x.std, "min": x.least, "max": x.most}
            for name, figure in figures.items():
                yield name, _rounded(figure) if x.weight else None
            yield "unreadable_share", _rounded(self.unreadable / rows) if rows else None
        yield "distinct", float(self.distinct)
        yield "top_share", self.top / rows if rows else None
