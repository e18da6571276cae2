"""Impressions by the values that they have, and how such counts of several days add up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from features.canonical import NULL
from features.schema import KeyField, MultiValued, Schema
from spark_jobs.tokens import field_token
from spark_jobs.values import quoted


@dataclass(frozen=True)
class Figure:
    """A figure of a group of impressions: `count` makes it of records, `merge` of the figure in parts of the group."""

    name: str
    count: Callable[[], Column]
    merge: Callable[[str], Column]


SHOWN = (
    Figure("impressions", lambda: F.count("*"), F.sum),
    Figure("clicks", lambda: F.sum(F.col("label").cast("long")), F.sum),
)
SEEN = (
    Figure("first_ms", lambda: F.min("timestamp_ms"), F.min),
    Figure("last_ms", lambda: F.max("timestamp_ms"), F.max),
)


def counted(
    records: DataFrame, schema: Schema, fields: Mapping[str, KeyField], figures: Iterable[Figure]
) -> DataFrame:
    """Return one row per combination of tokens that some record has: the tokens, then the figures.

    Only the columns of these fields are read. Spark sums what a task has read before anything is shuffled. A list is grouped as
    it stands and taken apart afterwards: lists repeat, and taking each record's apart costs more than all the rest.

    Args:
        records: an `impressions` partition.
        schema: names the fields.
        fields: by the name of the column that is to hold a field's token; `""` is null.
        figures: what to count.
    """
    figures = tuple(figures)
    lists = [name for name, field in fields.items() if isinstance(field, MultiValued)]
    values = (
        quoted(field.name) if name in lists else field_token(schema, field)
        for name, field in fields.items()
    )
    rows = records.select(
        "label",
        "timestamp_ms",
        *(value.alias(name) for name, value in zip(fields, values, strict=True)),
    )
    groups = rows.groupBy(*fields).agg(*(figure.count().alias(figure.name) for figure in figures))
    for name in lists:
        groups = groups.withColumn(name, F.explode(distinct_tokens(F.col(name))))
    return merged(groups, tuple(fields), figures) if lists else groups


def merged(parts: DataFrame, keys: Iterable[str], figures: Iterable[Figure]) -> DataFrame:
    """Return one row per key of counts that may hold a key several times: days that are put together."""
    return parts.groupBy(*keys).agg(
        *(figure.merge(figure.name).alias(figure.name) for figure in figures)
    )


def distinct_tokens(values: Column) -> Column:
    """Return a list's tokens without repeats; of an empty one the token of null."""
    return F.when(F.size(values) > 0, F.array_distinct(values)).otherwise(F.array(F.lit(NULL)))
