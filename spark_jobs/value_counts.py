"""A day's impressions and clicks by field and value: the partial aggregate that windows are merged from."""

from __future__ import annotations

from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from features.canonical import NULL
from features.schema import KeyField, Schema
from spark_jobs.tokens import token_rows

KEY = ("field", "value")


def value_counts(records: DataFrame, schema: Schema) -> DataFrame:
    """Return `field, value, impressions, clicks, first_ms, last_ms` of a partition; the whole of it is `("", "")`.

    One aggregation a field: each reads its own column only, and Spark sums within a file before anything is shuffled, so that
    a value that every row has is a handful of rows there.
    """
    whole = records.agg(*_figures()).where(F.col("impressions") > 0)
    parts = [
        _named(NULL, whole.withColumn("value", F.lit(NULL))),
        *(_of_field(records, schema, field) for field in schema.fields),
    ]
    return reduce(DataFrame.unionByName, parts)


def _of_field(records: DataFrame, schema: Schema, field: KeyField) -> DataFrame:
    rows = token_rows(records, schema, {"value": field}, "label", "timestamp_ms")
    return _named(field.name, rows.groupBy("value").agg(*_figures()))


def _named(field: str, counts: DataFrame) -> DataFrame:
    return counts.select(F.lit(field).alias("field"), "value", "impressions", "clicks", "first_ms", "last_ms")


def _figures() -> tuple[Column, ...]:
    return (
        F.count("*").alias("impressions"),
        F.sum(F.col("label").cast("long")).alias("clicks"),
        F.min("timestamp_ms").alias("first_ms"),
        F.max("timestamp_ms").alias("last_ms"),
    )
