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

import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from features.canonical import NULL
from features.errors import InputError
from features.partition import HOURS_PER_DAY, Partition, end_h, is_before, start_h
from features.schema import Schema
from spark_jobs.counting import Figure, merged
from spark_jobs.field_figures import field_figures, histogram, new_values
from spark_jobs.files import write_file
from spark_jobs.settings import StatisticsSettings
from spark_jobs.value_counts import FIGURES, KEY, value_counts

_SCRATCH = ".window"
_TODAY = Figure("today", lambda: F.count("*"), F.sum)
"""Impressions of the window's last day."""

NEW_VALUES = "new_values.parquet"


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
    records = spark.read.parquet(str(partitions[day] / "impressions"))
    write_file(value_counts(records, schema), out / "day.parquet", KEY)
    window = _window(spark, out, earlier)
    new = new_values(_values(window), schema, day)
    write_file(new, out / NEW_VALUES, ("field", "day"))
    _add_earlier(out / NEW_VALUES, earlier)
    figures = _write(window, new, schema, settings, out)
    shutil.rmtree(out / _SCRATCH, ignore_errors=True)
    return {**figures, "days": float(1 + len(earlier))}


def _require_days(partitions: Mapping[Partition, Path], previous_days: Mapping[Partition, Path], day: Partition) -> None:
    if day not in partitions:
        given = sorted(map(str, partitions))
        raise InputError(f"feature statistics of {day} need that day's impressions, but only {given} are given")
    late = sorted(str(when) for when in previous_days if not is_before(when, day))
    if late:
        raise InputError(f"feature statistics of {day} may only build on days before it, not on {late}")


def _window(spark: SparkSession, out: Path, earlier: Mapping[Partition, Path]) -> DataFrame:
    """The window's counts by field and value; `today` and `before` are the day's own and the earlier impressions.

    Merged counts are put aside as Parquet: what follows reads a few columns of them several times.
    """
    window = spark.read.parquet(str(out / "day.parquet")).withColumn("today", F.col("impressions"))
    if earlier:  # one scan: a week of hours has 167 of them
        before = spark.read.parquet(*(str(path / "day.parquet") for path in earlier.values()))
        parts = window.unionByName(before.withColumn("today", F.lit(0).cast("long")))
        merged(parts, KEY, (*FIGURES, _TODAY)).write.parquet(str(out / _SCRATCH))
        window = spark.read.parquet(str(out / _SCRATCH))
    return window.withColumn("before", F.col("impressions") - F.col("today"))


def _add_earlier(path: Path, earlier: Mapping[Partition, Path]) -> None:
    """Put beside the day's rates what each earlier day said of itself; one made before there was such a table has none.

    Some hundred records a day and up to 167 files: no work for Spark.
    """
    own = {str(when): folder / NEW_VALUES for when, folder in earlier.items()}
    found = [pq.read_table(file, filters=[("day", "==", day)]) for day, file in own.items() if file.is_file()]
    whole = pa.concat_tables([*found, pq.read_table(path)], promote_options="default")
    pq.write_table(whole.sort_by([("field", "ascending"), ("day", "ascending")]), path)


def _values(window: DataFrame) -> DataFrame:
    return window.where(F.col("field") != NULL)


def _write(window: DataFrame, new: DataFrame, schema: Schema, settings: StatisticsSettings, out: Path) -> dict[str, float]:
    total = window.where(F.col("field") == NULL).first()
    impressions, clicks = (total["impressions"], total["clicks"]) if total else (0, 0)
    values, prior = _values(window), clicks / impressions if impressions else 0.0
    write_file(_smoothed(values, prior, settings.smoothing), out / "values.parquet", KEY)
    write_file(histogram(values), out / "histogram.parquet", ("field", "at_least"))
    write_file(field_figures(values, new, schema, impressions), out / "fields.parquet", ("field",))
    return {"impressions": float(impressions), "clicks": float(clicks), **_summary(out / "fields.parquet")}


def _summary(fields: Path) -> dict[str, float]:
    told = pq.read_table(fields, columns=["cardinality", "new_value_rate"])
    values, rate = (fold(told[name]).as_py() for fold, name in ((pc.sum, "cardinality"), (pc.mean, "new_value_rate")))
    return {"values": float(values), "new_value_rate": float(rate or 0.0)}


def _smoothed(values: DataFrame, prior: float, smoothing: float) -> DataFrame:
    ctr = (F.col("clicks") + smoothing * prior) / (F.col("impressions") + smoothing)
    return values.select(*KEY, "impressions", "clicks", ctr.alias("ctr"), "first_ms", "last_ms")
