"""A day's impressions and clicks by field and value: the partial aggregate that windows are merged from."""

from __future__ import annotations

from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from features.canonical import NULL
from features.schema import Schema
from spark_jobs.counting import SEEN, SHOWN, counted

KEY = ("field", "value")
FIGURES = (*SHOWN, *SEEN)


def value_counts(records: DataFrame, schema: Schema) -> DataFrame:
    """Return `field, value, impressions, clicks, first_ms, last_ms` of a partition; the whole of it is `("", "")`.

    One aggregation a field, instead of one of rows that hold every field's tokens.
    """
    whole = records.agg(*(figure.count().alias(figure.name) for figure in FIGURES)).where(F.col("impressions") > 0)
    fields = (_named(field.name, counted(records, schema, {"value": field}, FIGURES)) for field in schema.fields)
    return reduce(DataFrame.unionByName, fields, _named(NULL, whole.withColumn("value", F.lit(NULL))))


def _named(field: str, counts: DataFrame) -> DataFrame:
    return counts.select(F.lit(field).alias("field"), "value", *(figure.name for figure in FIGURES))
