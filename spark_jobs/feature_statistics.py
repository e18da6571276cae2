"""Feature statistics: how often each value of each field is shown and clicked, over a window of days.

A day's own counts (`day.parquet`) are kept, so that tomorrow's window merges small partials instead of reading the
impressions again. Beside the fields' counts `day.parquet` has one record with an empty field and value: the whole
day. Values are tokens (`spark_jobs.tokens`); dense numeric fields count their canonical strings. `""` is null.

Over the window, with n the impressions of a value and N their sum over a field's values, nulls left out:
smoothed `ctr` = (clicks + smoothing · prior) / (n + smoothing), the prior being the click rate of the window;
`coverage` = the share of impressions that have a value; `seen_once_share` = the share of values with n = 1;
`tail_share` = the share of N on values with n < 10; `entropy` = -Σ n/N · ln(n/N), in nats; `new_value_rate` = the share
of a day's impressions of a field whose value had not been seen in the window before that day.
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
from spark_jobs.counting import Figure, merged
from spark_jobs.field_figures import field_figures, fields_table, histogram_table, new_values_table
from spark_jobs.files import are_small, fitted, write_file
from spark_jobs.settings import StatisticsSettings
from spark_jobs.value_counts import COUNTED, FIGURES, KEY, value_counts

DAY, NEW_VALUES = "day.parquet", "new_values.parquet"

_WINDOW = ".window.parquet"
_TODAY = Figure("today", lambda: F.count("*"), F.sum)
"""Impressions of the window's last day."""

_VALUES = pa.schema(
    [(name, pa.string()) for name in KEY]
    + [(name, pa.int64()) for name in ("impressions", "clicks")]
    + [("ctr", pa.float64()), *((name, pa.int64()) for name in ("first_ms", "last_ms"))]
)
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
    """Write `day`, `values`, `fields`, `histogram` and `new_values`, all `.parquet`, of a day into `out`.

    The day's impressions are read, and of the window's earlier days their `day.parquet`: work that grows with the window, and
    not with the days before it.

    Args:
        spark: the session.
        schema: names the fields.
        partitions: committed `impressions` artifacts by day or hour; only that of `day` is read.
        previous_days: committed `feature_statistics` artifacts of earlier days and hours; those outside the window are ignored.
        day: the last day or hour of the window, which is of so many times 24 hours.
        settings: the window's length and the prior weight of the smoothed click rate.
        out: an existing folder.

    Returns:
        `impressions`, `clicks` and `days` (partitions) of the window, `values` (distinct pairs of field and value),
        `new_value_rate` (mean over fields).

    Raises:
        InputError: there is no partition of the day, or a previous day is not before it.
    """
    _require_days(partitions, previous_days, day)
    first_h = end_h(day) - settings.window_days * HOURS_PER_DAY
    earlier = {when: path for when, path in previous_days.items() if start_h(when) >= first_h}
    impressions = partitions[day] / "impressions"
    small = are_small([impressions, *(path / DAY for path in earlier.values())])
    with fitted(spark, small=small):
        write_file(value_counts(spark, impressions, schema, small=small), out / DAY, KEY)
        if earlier:
            _merge(spark, out, earlier)
    figures = _write(schema, settings, day, out)
    _add_earlier(out / NEW_VALUES, earlier)
    (out / _WINDOW).unlink(missing_ok=True)
    return {**figures, "days": float(1 + len(earlier))}


def _require_days(
    partitions: Mapping[Partition, Path], previous_days: Mapping[Partition, Path], day: Partition
) -> None:
    if day not in partitions:
        given = sorted(map(str, partitions))
        raise InputError(
            f"feature statistics of {day} need that day's impressions, but only {given} are given"
        )
    late = sorted(str(when) for when in previous_days if not is_before(when, day))
    if late:
        raise InputError(
            f"feature statistics of {day} may only build on days before it, not on {late}"
        )


def _merge(spark: SparkSession, out: Path, earlier: Mapping[Partition, Path]) -> None:
    """Write the window's counts, with `today`: impressions of the day itself."""
    own = (
        spark.read.schema(COUNTED).parquet(str(out / DAY)).withColumn("today", F.col("impressions"))
    )
    # One scan: a week of hours has 167 of them.
    before = spark.read.schema(COUNTED).parquet(*(str(path / DAY) for path in earlier.values()))
    parts = own.unionByName(before.withColumn("today", F.lit(0).cast("long")))
    write_file(merged(parts, KEY, (*FIGURES, _TODAY)), out / _WINDOW, KEY)


def _add_earlier(path: Path, earlier: Mapping[Partition, Path]) -> None:
    """Put beside the day's rates what each earlier day said of itself; one made before there was such a table has none.

    Some hundred records a day and up to 167 files: no work for Spark.
    """
    own = {str(when): folder / NEW_VALUES for when, folder in earlier.items()}
    found = [
        pq.read_table(file, filters=[("day", "==", day)])
        for day, file in own.items()
        if file.is_file()
    ]
    whole = pa.concat_tables([*found, pq.read_table(path)], promote_options="default")
    pq.write_table(whole.sort_by([("field", "ascending"), ("day", "ascending")]), path)


def _write(
    schema: Schema, settings: StatisticsSettings, day: Partition, out: Path
) -> dict[str, float]:
    """Write what the window's counts say; they are sorted by field and value, the whole window first."""
    merged_file = out / _WINDOW
    window = pq.ParquetFile(merged_file if merged_file.is_file() else out / DAY)
    first = next(window.iter_batches(1, columns=["field", "impressions", "clicks"]), None)
    impressions, clicks = 0, 0
    if first is not None and first["field"][0].as_py() == NULL:
        impressions, clicks = (first[name][0].as_py() for name in ("impressions", "clicks"))
    prior = clicks / impressions if impressions else 0.0
    with pq.ParquetWriter(out / "values.parquet", _VALUES) as values:
        batches = _smoothed(window, values, prior, settings.smoothing)
        figures = field_figures(batches, schema)
    fields = fields_table(figures, schema, impressions)
    pq.write_table(fields, out / "fields.parquet")
    pq.write_table(histogram_table(figures), out / "histogram.parquet")
    pq.write_table(new_values_table(figures, str(day)), out / NEW_VALUES)
    told = {
        "values": pc.sum(fields["cardinality"]),
        "new_value_rate": pc.mean(fields["new_value_rate"]),
    }
    summary = {name: float(figure.as_py() or 0.0) for name, figure in told.items()}
    return {"impressions": float(impressions), "clicks": float(clicks), **summary}


def _smoothed(
    window: pq.ParquetFile, values: pq.ParquetWriter, prior: float, smoothing: float
) -> Iterator[pa.RecordBatch]:
    """Yield the counts of the fields' values, with `today`; on the way they are written with their smoothed click rate."""
    for batch in window.iter_batches(_BATCH):
        counts = batch.filter(pc.not_equal(batch["field"], NULL))
        impressions, clicks = (
            counts[name].to_numpy().astype(np.float64) for name in ("impressions", "clicks")
        )
        ctr = pa.array((clicks + smoothing * prior) / (impressions + smoothing))
        columns = {**{name: counts[name] for name in counts.schema.names}, "ctr": ctr}
        values.write_batch(
            pa.record_batch([columns[name] for name in _VALUES.names], schema=_VALUES)
        )
        today = columns.get("today", counts["impressions"])
        yield pa.record_batch(
            {**{name: columns[name] for name in (*KEY, "impressions")}, "today": today}
        )
