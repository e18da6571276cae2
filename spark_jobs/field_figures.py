"""What the window's counts say of each field: cardinality, coverage, concentration, new values by day, moments.

Each takes `values`: `field, value, impressions, clicks, today, before` (impressions of the window, of its last day, and of
the days before that).
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from features.canonical import NULL
from features.partition import Partition
from features.schema import Schema, Transform
from spark_jobs.values import number

TAIL_BELOW = 10
"""A value seen less often than this in the window belongs to the tail."""

_DIGITS = 12


def histogram(values: DataFrame) -> DataFrame:
    """Return `field, at_least, values, impressions`: values seen at least 2^k and less than 2^(k+1) times."""
    at_least = F.expr("shiftleft(1L, length(bin(impressions)) - 1)").alias("at_least")  # k: one less than the binary digits
    grouped = values.where(F.col("value") != NULL).groupBy("field", at_least)
    return grouped.agg(F.count("*").alias("values"), F.sum("impressions").alias("impressions"))


def new_values(values: DataFrame, schema: Schema, day: Partition) -> DataFrame:
    """Return how much of the last day had not been seen in the window before, a record for each field.

    Columns are `field, day, values, new_values, impressions, new_impressions, new_value_rate` (null without impressions).
    """
    today, new = F.col("today"), F.col("before") == 0
    counted = values.where((F.col("value") != NULL) & (today > 0)).groupBy("field")
    figures = {
        "values": F.count("*"),
        "new_values": F.count(F.when(new, 1)),
        "impressions": F.sum(today),
        "new_impressions": F.sum(F.when(new, today).otherwise(0)),
    }
    found = counted.agg(*(figure.alias(name) for name, figure in figures.items()))
    return (
        _kinds(values, schema)
        .join(found, "field", "left")
        .select(
            "field",
            F.lit(str(day)).alias("day"),
            *(F.coalesce(F.col(name), F.lit(0)).cast("long").alias(name) for name in figures),
            F.round(F.col("new_impressions") / F.col("impressions"), _DIGITS).alias("new_value_rate"),
        )
    )


def field_figures(values: DataFrame, new: DataFrame, schema: Schema, impressions: int) -> DataFrame:
    """Return one record per field of the schema, in `fields.parquet`'s columns.

    Args:
        values: see above.
        new: `new_values` of the last day.
        schema: names the fields and their kinds.
        impressions: of the window.
    """
    joined = _kinds(values, schema).join(_shares(values), "field", "left").join(_moments(values, schema), "field", "left")
    rated = joined.join(new.select("field", "new_value_rate"), "field", "left")
    covered = impressions - F.coalesce(F.col("nulls"), F.lit(0))
    shares = (F.round(F.col(name), _DIGITS).alias(name) for name in ("seen_once_share", "tail_share", "entropy"))
    return rated.select(
        "field",
        "kind",
        F.coalesce(F.col("cardinality"), F.lit(0)).cast("long").alias("cardinality"),
        covered.cast("long").alias("impressions"),
        F.round(covered / max(impressions, 1), _DIGITS).alias("coverage"),
        *shares,
        "new_value_rate",
        "mean",
        "std",
    )


def _kinds(values: DataFrame, schema: Schema) -> DataFrame:
    named = (F.struct(F.lit(field.name).alias("field"), F.lit(field.kind).alias("kind")) for field in schema.fields)
    # createDataFrame would start Python workers for this.
    return values.sparkSession.range(1).select(F.inline(F.array(*named)))


def _shares(values: DataFrame) -> DataFrame:
    null = F.col("value") == NULL
    present = F.when(~null, F.col("impressions"))
    total = F.sum(present)
    return values.groupBy("field").agg(
        F.sum(F.when(null, F.col("impressions"))).alias("nulls"),
        F.count(present).alias("cardinality"),
        F.avg((present == 1).cast("int")).alias("seen_once_share"),
        (F.sum(F.when(present < TAIL_BELOW, present).otherwise(0)) / total).alias("tail_share"),
        (F.log(total) - F.sum(present * F.log(present)) / total).alias("entropy"),
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
