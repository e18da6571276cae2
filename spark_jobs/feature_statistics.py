"""Feature statistics: impressions and clicks of each value of each field, over a window of days.

A day's own counts (`day.parquet`) are kept: the next window merges them instead of reading the
impressions again. The record of `day.parquet` with an empty field and value counts the whole day.
Values are tokens (`spark_jobs.counting.token`); dense numeric fields count their canonical strings.
`""` is null.

Over the window, with n the impressions of a value and N their sum over a field's values without
null:

* smoothed `ctr` = (clicks + smoothing · prior) / (n + smoothing), the prior being the click rate of
  the window;
* `coverage`: share of impressions that have a value;
* `seen_once_share`: share of values with n = 1;
* `tail_share`: share of N on values with n < 10;
* `entropy` = -Σ n/N · ln(n/N), in nats;
* `new_value_rate`: share of a day's impressions of a field whose value does not occur in the window
  before that day.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from features.canonical import NULL
from features.errors import InputError
from features.partition import HOURS_PER_DAY, Partition, end_h, is_before, start_h
from features.schema import Schema
from spark_jobs.counting import KEY, MEASURES, VALUE_COUNTS, Measure, merged, value_counts
from spark_jobs.field_figures import field_figures, figure_tables
from spark_jobs.files import are_small, fitted, write_file
from spark_jobs.settings import StatisticsSettings

DAY, NEW_VALUES = "day.parquet", "new_values.parquet"

_WINDOW = ".window.parquet"
_TODAY = Measure("today", lambda: F.count("*"), F.sum)
"""Impressions of the window's last day."""

_SHOWN = ("impressions", "clicks")
_VALUES = pa.schema({
    "field": pa.string(), "value": pa.string(), "impressions": pa.int64(), "clicks": pa.int64(),
    "ctr": pa.float64(), "first_ms": pa.int64(), "last_ms": pa.int64(),
})  # fmt: skip
_BATCH = 2**18


def feature_statistics(
    spark: SparkSession,
    schema: Schema,
    partitions: Mapping[Partition, Path],
    previous_days: Mapping[Partition, Path],
    day: Partition,
    settings: StatisticsSettings,
    out: Path,
) -> dict[str, float]:
    """Write `day`, `values`, `fields`, `histogram` and `new_values`, all `.parquet`, into `out`.

    Reads the day's impressions, and of the window's earlier days their `day.parquet`.

    Args:
        partitions: committed `impressions` artifacts by day or hour; only that of `day` is read.
        previous_days: committed `feature_statistics` artifacts of earlier days and hours; those
            outside the window are ignored.
        day: the last day or hour of the window.
        settings: the window's length in days of 24 hours, and the prior weight of the click rate.

    Returns:
        `impressions`, `clicks` and `days` (partitions) of the window, `values` (distinct pairs of
        field and value), `new_value_rate` (mean over fields).

    Raises:
        InputError: there is no partition of the day, or a previous day is not before it.
    """
    if day not in partitions:
        given = sorted(map(str, partitions))
        raise InputError(
            f"feature statistics of {day} need that day's impressions, but only {given} are given"
        )
    if late := sorted(str(when) for when in previous_days if not is_before(when, day)):
        raise InputError(
            f"feature statistics of {day} may only build on days before it, not on {late}"
        )
    first_h = end_h(day) - settings.window_days * HOURS_PER_DAY
    earlier = {when: path for when, path in previous_days.items() if start_h(when) >= first_h}
    impressions = partitions[day] / "impressions"
    small = are_small([impressions, *(path / DAY for path in earlier.values())])
    with fitted(spark, small=small):
        write_file(value_counts(spark, impressions, schema, small=small), out / DAY, KEY)
        if earlier:
            _merge(spark, out, earlier)
    summary = _write(schema, settings, day, out)
    _add_earlier(out / NEW_VALUES, earlier)
    (out / _WINDOW).unlink(missing_ok=True)
    return {**summary, "days": float(1 + len(earlier))}


def _merge(spark: SparkSession, out: Path, earlier: Mapping[Partition, Path]) -> None:
    """Write the window's counts, with `today`: impressions of the day itself."""
    read = spark.read.schema(VALUE_COUNTS)
    own = read.parquet(str(out / DAY)).withColumn("today", F.col("impressions"))
    # One scan for all files: a week of hours has 167 of them.
    before = read.parquet(*(str(path / DAY) for path in earlier.values()))
    parts = own.unionByName(before.withColumn("today", F.lit(0).cast("long")))
    write_file(merged(parts, KEY, (*MEASURES, _TODAY)), out / _WINDOW, KEY)


def _write(
    schema: Schema, settings: StatisticsSettings, day: Partition, out: Path
) -> dict[str, float]:
    """Write the figures of the window's counts and return a summary of them."""
    merged_file = out / _WINDOW
    window = pq.ParquetFile(merged_file if merged_file.is_file() else out / DAY)
    # The counts are sorted by field and value: the count of all impressions, if any, is first.
    first = next(window.iter_batches(1, columns=["field", *_SHOWN]), None)
    impressions, clicks = 0, 0
    if first is not None and first["field"][0].as_py() == NULL:
        impressions, clicks = (first[name][0].as_py() for name in _SHOWN)
    prior = clicks / impressions if impressions else 0.0
    with pq.ParquetWriter(out / "values.parquet", _VALUES) as values:
        figures = field_figures(_smoothed(window, values, prior, settings.smoothing), schema)
    tables = figure_tables(figures, schema, impressions, str(day))
    for name, table in tables.items():
        pq.write_table(table, out / f"{name}.parquet")
    fields = tables["fields"]
    return {
        "impressions": float(impressions),
        "clicks": float(clicks),
        "values": float(pc.sum(fields["cardinality"]).as_py() or 0.0),
        "new_value_rate": float(pc.mean(fields["new_value_rate"]).as_py() or 0.0),
    }


def _smoothed(
    window: pq.ParquetFile, values: pq.ParquetWriter, prior: float, smoothing: float
) -> Iterator[pa.RecordBatch]:
    """Write the values of fields with their smoothed click rate; yield their counts and `today`."""
    for batch in window.iter_batches(_BATCH):
        counts = batch.filter(pc.not_equal(batch["field"], NULL))
        impressions, clicks = (counts[name].to_numpy().astype(np.float64) for name in _SHOWN)
        ctr = pa.array((clicks + smoothing * prior) / (impressions + smoothing))
        columns = {**{name: counts[name] for name in counts.schema.names}, "ctr": ctr}
        values.write_batch(pa.record_batch([columns[n] for n in _VALUES.names], schema=_VALUES))
        # A window of one day has no column `today`: all its impressions are of that day.
        columns.setdefault("today", counts["impressions"])
        yield pa.record_batch({name: columns[name] for name in (*KEY, "impressions", "today")})


def _add_earlier(path: Path, earlier: Mapping[Partition, Path]) -> None:
    """Add each earlier day's own rows to the day's `new_values.parquet`."""
    # Some hundred records a day and up to 167 files: too little work for Spark. Statistics of
    # older versions lack the file.
    files = {str(when): folder / NEW_VALUES for when, folder in earlier.items()}
    found = [
        pq.read_table(file, filters=[("day", "==", day)])
        for day, file in files.items()
        if file.is_file()
    ]
    whole = pa.concat_tables([*found, pq.read_table(path)], promote_options="default")
    pq.write_table(whole.sort_by([("field", "ascending"), ("day", "ascending")]), path)
