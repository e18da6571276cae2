"""A day's impressions and clicks by field and value: the partial aggregate that windows are merged from."""

from __future__ import annotations

from functools import partial, reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from features.canonical import NULL
from features.schema import MultiValued, Schema
from spark_jobs.counting import SEEN, SHOWN, counted, distinct_tokens
from spark_jobs.tokens import field_token
from spark_jobs.values import quoted

KEY = ("field", "value")
COUNTED = "field string, value string, impressions long, clicks long, first_ms long, last_ms long"
"""Columns of such counts. A reader that is told them need not look into a file first."""

FIGURES = (*SHOWN, *SEEN)


def value_counts(records: DataFrame, schema: Schema, *, small: bool) -> DataFrame:
    """Return `field, value, impressions, clicks, first_ms, last_ms` of a partition; the whole of it is `("", "")`.

    Args:
        records: an `impressions` partition.
        schema: names the fields.
        small: count all fields in one aggregation of a row per record and field. That is the least
            to plan, and the most to group: of large partitions each field is aggregated by itself,
            from its own column.
    """
    return _at_once(records, schema) if small else _field_by_field(records, schema)


def _at_once(records: DataFrame, schema: Schema) -> DataFrame:
    names = [NULL, *(field.name for field in schema.fields)]
    singles = [_pair(0, F.lit(NULL))]
    lists = []
    for number, field in enumerate(schema.fields, start=1):
        if isinstance(field, MultiValued):
            lists.append(F.transform(distinct_tokens(quoted(field.name)), partial(_pair, number)))
        else:
            singles.append(_pair(number, field_token(schema, field)))
    pairs = F.explode(F.concat(F.array(*singles), *lists)).alias("pair")
    rows = records.select("label", "timestamp_ms", pairs).select("label", "timestamp_ms", "pair.*")
    counts = rows.groupBy("number", "value").agg(*(f.count().alias(f.name) for f in FIGURES))
    field = F.element_at(F.array(*map(F.lit, names)), F.col("number") + 1).alias("field")
    return counts.select(field, "value", *(figure.name for figure in FIGURES))


def _pair(number: int, value: Column) -> Column:
    return F.struct(F.lit(number).alias("number"), value.alias("value"))


def _field_by_field(records: DataFrame, schema: Schema) -> DataFrame:
    whole = records.agg(*(figure.count().alias(figure.name) for figure in FIGURES)).where(F.col("impressions") > 0)
    fields = (_named(field.name, counted(records, schema, {"value": field}, FIGURES)) for field in schema.fields)
    return reduce(DataFrame.unionByName, fields, _named(NULL, whole.withColumn("value", F.lit(NULL))))


def _named(field: str, counts: DataFrame) -> DataFrame:
    return counts.select(F.lit(field).alias("field"), "value", *(figure.name for figure in FIGURES))
