"""A day's impressions and clicks by field and value: the partial aggregate that windows are merged from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from features.canonical import NULL
from features.schema import MultiValued, Schema
from spark_jobs.arrow_counts import is_countable, value_parts
from spark_jobs.counting import SEEN, SHOWN, counted, distinct_tokens, merged
from spark_jobs.tokens import field_token
from spark_jobs.values import quoted

KEY = ("field", "value")
COUNTED = "field string, value string, impressions long, clicks long, first_ms long, last_ms long"
"""Columns of such counts. A reader that is told them need not look into a file first."""

FIGURES = (*SHOWN, *SEEN)


def value_counts(spark: SparkSession, source: Path, schema: Schema, *, small: bool) -> DataFrame:
    """Return `field, value, impressions, clicks, first_ms, last_ms` of a partition; the whole of it is `("", "")`.

    Args:
        spark: the session.
        source: the folder of an `impressions` partition.
        schema: names the fields.
        small: count all fields in one aggregation of a row per record and field. That is the least
            to plan, and the most to group: large partitions are counted by Arrow.
    """
    records = spark.read.parquet(str(source))
    return _at_once(records, schema) if small else _in_parts(records, source, schema)


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
    return _named(counts, names)


def _pair(number: int, value: Column) -> Column:
    return F.struct(F.lit(number).alias("number"), value.alias("value"))


def _in_parts(records: DataFrame, source: Path, schema: Schema) -> DataFrame:
    names = sorted(field.name for field in schema.fields if is_countable(schema, field))
    parts = value_parts(records.sparkSession, source, schema, names)
    counts = parts.counts if parts.complete else merged(parts.counts, ("number", "value"), FIGURES)
    others = (
        _named(
            counted(records, schema, {"value": field}, FIGURES).withColumn("number", F.lit(0)),
            [field.name],
        )
        for field in schema.fields
        if field.name not in names
    )
    return reduce(DataFrame.unionByName, others, _named(counts, [NULL, *names]))


def _named(counts: DataFrame, names: Sequence[str]) -> DataFrame:
    """Counts with their field's name instead of its place in `names`."""
    field = F.element_at(F.array(*map(F.lit, names)), F.col("number") + 1).alias("field")
    return counts.select(field, "value", *(figure.name for figure in FIGURES))
