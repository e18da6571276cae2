"""Feature statistics: how often each value of each field is shown and clicked, over a window of days.

A day's own counts (`day.parquet`) are kept, so that tomorrow's window merges small partials instead of reading the
impressions again. Beside the fields' counts `day.parquet` has one record with an empty field and value: the whole
day. Values are tokens (`spark_jobs.tokens`); dense numeric fields count their canonical strings. `""` is null.

Over the window, with n the impressions of a value and N their sum over a field's values, nulls left out:
smoothed `ctr` = (clicks + smoothing · prior) / (n + smoothing), the prior being the click rate of the window;
`coverage` = the share of impressions that have a value; `seen_once_share` = the share of values with n = 1;
`tail_share` = the share of N on values with n < 10; `entropy` = -Σ n/N · ln(n/N), in nats.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from features.canonical import NULL
from features.errors import InputError
from features.partition import HOURS_PER_DAY, Partition, end_h, is_before, start_h
from features.schema import Schema, Transform
from spark_jobs.files import write_file
from spark_jobs.settings import StatisticsSettings
from spark_jobs.tokens import field_tokens
from spark_jobs.values import number

TAIL_BELOW = 10
"""A value seen less often than this in the window belongs to the tail."""

_KEY = ("field", "value")
_DIGITS = 12


def feature_statistics(
    spark: SparkSession,
    schema: Schema,
    partitions: Mapping[Partition, Path],
    previous_days: Mapping[Partition, Path],
    day: Partition,
    settings: StatisticsSettings,
    out: Path,
) -> dict[str, float]:
    """Write `day.parquet`, `values.parquet`, `fields.parquet` and `histogram.parquet` of a day into `out`.

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
    earlier = [path for when, path in previous_days.items() if start_h(when) >= first_h]
    write_file(_counted(spark, schema, partitions[day]), out / "day.parquet", _KEY)
    window = _window(spark, out, earlier).persist()
    try:
        return _write(window, schema, settings, out) | {"days": float(1 + len(earlier))}
    finally:
        window.unpersist()


def _require_days(partitions: Mapping[Partition, Path], previous_days: Mapping[Partition, Path], day: Partition) -> None:
    if day not in partitions:
        given = sorted(map(str, partitions))
        raise InputError(f"feature statistics of {day} need that day's impressions, but only {given} are given")
    late = sorted(str(when) for when in previous_days if not is_before(when, day))
    if late:
        raise InputError(f"feature statistics of {day} may only build on days before it, not on {late}")


def _counted(spark: SparkSession, schema: Schema, partition: Path) -> DataFrame:
    """The day's impressions and clicks by field and value, and the whole day's under `("", "")`."""
    records = spark.read.parquet(str(partition / "impressions"))
    pairs = [_pairs(field.name, field_tokens(schema, field)) for field in schema.fields]
    everything = F.array(F.struct(F.lit(NULL).alias("field"), F.lit(NULL).alias("value")))
    long = records.select("label", "timestamp_ms", F.explode(F.concat(everything, *pairs)).alias("pair"))
    return long.groupBy("pair.field", "pair.value").agg(
        F.count("*").alias("impressions"),
        F.sum(F.col("label").cast("long")).alias("clicks"),
        F.min("timestamp_ms").alias("first_ms"),
        F.max("timestamp_ms").alias("last_ms"),
    )


def _pairs(name: str, values: Column) -> Column:
    return F.transform(values, lambda value: F.struct(F.lit(name).alias("field"), value.alias("value")))


def _window(spark: SparkSession, out: Path, earlier: list[Path]) -> DataFrame:
    """The window's counts by field and value; `today` and `before` are the day's own and the earlier impressions."""
    today = spark.read.parquet(str(out / "day.parquet")).withColumn("today", F.col("impressions"))
    if earlier:  # one scan: a week of hours has 167 of them
        before = spark.read.parquet(*(str(path / "day.parquet") for path in earlier))
        today = today.unionByName(before.withColumn("today", F.lit(0).cast("long")))
    sums = (F.sum(name).alias(name) for name in ("impressions", "clicks", "today"))
    merged = today.groupBy(*_KEY).agg(*sums, F.min("first_ms").alias("first_ms"), F.max("last_ms").alias("last_ms"))
    return merged.withColumn("before", F.col("impressions") - F.col("today"))


def _write(window: DataFrame, schema: Schema, settings: StatisticsSettings, out: Path) -> dict[str, float]:
    total = window.where(F.col("field") == NULL).first()
    impressions, clicks = (total["impressions"], total["clicks"]) if total else (0, 0)
    prior = clicks / impressions if impressions else 0.0
    values = window.where(F.col("field") != NULL)
    write_file(_smoothed(values, prior, settings.smoothing), out / "values.parquet", _KEY)
    present = values.where(F.col("value") != NULL)
    write_file(_histogram(present), out / "histogram.parquet", ("field", "at_least"))
    fields = _fields(values, schema, impressions).persist()
    write_file(fields, out / "fields.parquet", ("field",))
    summary = fields.agg(F.sum("cardinality").alias("values"), F.avg("new_value_rate").alias("new")).first()
    fields.unpersist()
    return {"impressions": float(impressions), "clicks": float(clicks), **_summary(summary)}


def _summary(row: object) -> dict[str, float]:
    values, new = tuple(row) if row else (0, None)  # type: ignore[arg-type]
    return {"values": float(values or 0), "new_value_rate": float(new or 0.0)}


def _smoothed(values: DataFrame, prior: float, smoothing: float) -> DataFrame:
    ctr = (F.col("clicks") + smoothing * prior) / (F.col("impressions") + smoothing)
    return values.select(*_KEY, "impressions", "clicks", ctr.alias("ctr"), "first_ms", "last_ms")


def _histogram(present: DataFrame) -> DataFrame:
    """Values seen at least 2^k and less than 2^(k+1) times; k is one less than the binary digits of the count."""
    at_least = F.expr("shiftleft(1L, length(bin(impressions)) - 1)").alias("at_least")
    grouped = present.groupBy("field", at_least)
    return grouped.agg(F.count("*").alias("values"), F.sum("impressions").alias("impressions"))


def _fields(values: DataFrame, schema: Schema, impressions: int) -> DataFrame:
    """One record per field of the schema, in `fields.parquet`'s columns."""
    spark = values.sparkSession
    named = (F.struct(F.lit(field.name).alias("field"), F.lit(field.kind).alias("kind")) for field in schema.fields)
    kinds = spark.range(1).select(F.inline(F.array(*named)))  # createDataFrame would start Python workers for this
    moments = _moments(values, schema)
    joined = kinds.join(_shares(values), "field", "left").join(moments, "field", "left")
    covered = impressions - F.coalesce(F.col("nulls"), F.lit(0))
    names = ("seen_once_share", "tail_share", "entropy", "new_value_rate")
    shares = (F.round(F.col(name), _DIGITS).alias(name) for name in names)
    return joined.select(
        "field",
        "kind",
        F.coalesce(F.col("cardinality"), F.lit(0)).cast("long").alias("cardinality"),
        covered.cast("long").alias("impressions"),
        F.round(covered / max(impressions, 1), _DIGITS).alias("coverage"),
        *shares,
        "mean",
        "std",
    )


def _shares(values: DataFrame) -> DataFrame:
    null = F.col("value") == NULL
    present = F.when(~null, F.col("impressions"))
    total, new = F.sum(present), F.when(F.col("before") == 0, F.col("today"))
    return values.groupBy("field").agg(
        F.sum(F.when(null, F.col("impressions"))).alias("nulls"),
        F.count(present).alias("cardinality"),
        F.avg((present == 1).cast("int")).alias("seen_once_share"),
        (F.sum(F.when(present < TAIL_BELOW, present).otherwise(0)) / total).alias("tail_share"),
        (F.log(total) - F.sum(present * F.log(present)) / total).alias("entropy"),
        F.try_divide(F.coalesce(F.sum(F.when(~null, new)), F.lit(0)), F.sum(F.when(~null, F.col("today")))).alias(
            "new_value_rate"
        ),
    )


def _moments(values: DataFrame, schema: Schema) -> DataFrame:
    """Mean and standard deviation (of the population) of dense numeric fields, transformed, over their present values."""
    logs = [field.name for field in schema.dense_fields() if field.transform is Transform.LOG]
    names = [field.name for field in schema.dense_fields()]
    plain = number(F.col("value"))
    x = F.when(F.col("field").isin(*logs), F.signum(plain) * F.log1p(F.abs(plain))).otherwise(plain)
    numbers = values.where(F.col("field").isin(*names)).select("field", x.alias("x"), F.col("impressions").alias("n"))
    present = numbers.where(F.col("x").isNotNull())
    means = present.groupBy("field").agg((F.sum(F.col("x") * F.col("n")) / F.sum("n")).alias("m"))
    spread = F.sum(F.col("n") * (F.col("x") - F.col("m")) ** 2) / F.sum("n")
    found = present.join(F.broadcast(means), "field").groupBy("field").agg(F.first("m").alias("m"), spread.alias("variance"))
    return found.select("field", _significant("m").alias("mean"), _significant("variance", root=True).alias("std"))


def _significant(name: str, *, root: bool = False) -> Column:
    """A figure to 12 significant digits: sums of floats differ in the last bits from one order to another."""
    value = F.sqrt(name) if root else F.col(name)
    return F.format_string(f"%.{_DIGITS - 1}e", value).cast("double")
