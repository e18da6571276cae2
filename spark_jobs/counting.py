"""Tokens of impressions as Column expressions, and impressions counted by their tokens.

Tokens equal those of `features.keys.tokens` and `cross_tokens`. Counts of several days add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from features.canonical import NULL, SEPARATOR
from features.schema import (
    ColumnField,
    Cross,
    KeyField,
    MultiValued,
    Numeric,
    Schema,
    Time,
    Timestamp,
    is_dense,
)
from spark_jobs.arrow_counts import is_countable, value_parts
from spark_jobs.times import epoch_ms, time_part
from spark_jobs.values import number, quoted


@dataclass(frozen=True)
class Measure:
    """A column of counts: `count` computes it from records, `merge` from counts of some of them."""

    name: str
    count: Callable[[], Column]
    merge: Callable[[str], Column]


SHOWN = (
    Measure("impressions", lambda: F.count("*"), F.sum),
    Measure("clicks", lambda: F.sum(F.col("label").cast("long")), F.sum),
)
MEASURES = (
    *SHOWN,
    Measure("first_ms", lambda: F.min("timestamp_ms"), F.min),
    Measure("last_ms", lambda: F.max("timestamp_ms"), F.max),
)
KEY = ("field", "value")
VALUE_COUNTS = (
    "field string, value string, impressions long, clicks long, first_ms long, last_ms long"
)
"""Columns of value counts. With a declared schema Spark does not open a file to plan the query."""


def token(schema: Schema, field: ColumnField, value: Column) -> Column:
    """Return the string that a field's id is made of: the value, the bucket's number or time part.

    It is never null: `""` stands for a null or unreadable value. Dense fields keep their value.

    Args:
        schema: gives the time zone and the unit of times.
        field: a field that reads a column.
        value: canonical strings; for a multi-valued field its elements.
    """
    if isinstance(field, Time):
        assumed = schema.timestamp.assume_offset
        stamp = Timestamp(column=field.source, unit=schema.timestamp.unit, assume_offset=assumed)
        part = time_part(epoch_ms(value, stamp), field.part, schema.timezone)
        return F.coalesce(part.cast("string"), F.lit(NULL))
    if isinstance(field, Numeric) and not is_dense(field):
        x = number(value)
        # A bucket's number is how many boundaries are at or below the value.
        at_or_below = [F.when(x >= boundary, 1).otherwise(0) for boundary in field.boundaries]
        bucket = sum(at_or_below[1:], at_or_below[0])
        return F.when(x.isNull(), NULL).otherwise(bucket.cast("string"))
    return value


def field_token(schema: Schema, field: KeyField) -> Column:
    """Return a record's token of a field that is not multi-valued, or of a cross of such fields."""
    if isinstance(field, Cross):
        parts = (field_token(schema, schema.field(name)) for name in field.of)
        return F.concat_ws(SEPARATOR, *parts)
    if isinstance(field, Time) and schema.source_column(field) == schema.timestamp.column:
        # Ingest parsed this text into timestamp_ms: a regular expression per record less.
        part = time_part(F.col("timestamp_ms"), field.part, schema.timezone)
        return F.coalesce(part.cast("string"), F.lit(NULL))
    return token(schema, field, quoted(field.name))


def distinct_tokens(values: Column) -> Column:
    """Return a list's tokens without repeats; for an empty list the token of null."""
    return F.when(F.size(values) > 0, F.array_distinct(values)).otherwise(F.array(F.lit(NULL)))


def numbered_values(columns: Sequence[tuple[Column, bool]]) -> Column:
    """Return an expression that gives a struct `number, value` per distinct value of a record.

    Args:
        columns: each with whether it holds lists; `number` is the position in this sequence.
    """

    def pair(number: int, value: Column) -> Column:
        return F.struct(F.lit(number).alias("number"), value.alias("value"))

    singles, lists = [], []
    for position, (column, is_list) in enumerate(columns):
        if is_list:
            lists.append(F.transform(distinct_tokens(column), partial(pair, position)))
        else:
            singles.append(pair(position, column))
    return F.explode(F.concat(F.array(*singles), *lists))


def counted(
    records: DataFrame, schema: Schema, fields: Mapping[str, KeyField], measures: Iterable[Measure]
) -> DataFrame:
    """Return one row per combination of tokens that some record has: the tokens, then the measures.

    Args:
        records: an `impressions` partition; only the columns of these fields are read.
        fields: by the name of the column that is to hold a field's token; `""` is null.
        measures: what to count.
    """
    measures = tuple(measures)
    lists = [name for name, field in fields.items() if isinstance(field, MultiValued)]
    values = (
        (quoted(field.name) if name in lists else field_token(schema, field)).alias(name)
        for name, field in fields.items()
    )
    rows = records.select("label", "timestamp_ms", *values)
    groups = rows.groupBy(*fields).agg(*(each.count().alias(each.name) for each in measures))
    # Whole lists are grouped first and exploded afterwards: lists repeat, and exploding each
    # record's list costs more than the rest of the query.
    for name in lists:
        groups = groups.withColumn(name, F.explode(distinct_tokens(F.col(name))))
    return merged(groups, tuple(fields), measures) if lists else groups


def merged(parts: DataFrame, keys: Iterable[str], measures: Iterable[Measure]) -> DataFrame:
    """Return one row per key of counts with several rows per key, as those of several days."""
    return parts.groupBy(*keys).agg(*(each.merge(each.name).alias(each.name) for each in measures))


def value_counts(spark: SparkSession, source: Path, schema: Schema, *, small: bool) -> DataFrame:
    """Return `field, value, impressions, clicks, first_ms, last_ms` of a partition.

    The row `("", "")` counts all impressions.

    Args:
        source: the folder of an `impressions` partition.
        small: count all fields by one aggregation in Spark, which is the least to plan and the most
            to group. Large partitions are counted by Arrow.
    """
    records = spark.read.parquet(str(source))
    if small:
        columns = [(F.lit(NULL), False)]
        for field in schema.fields:
            is_list = isinstance(field, MultiValued)
            value = quoted(field.name) if is_list else field_token(schema, field)
            columns.append((value, is_list))
        pairs = numbered_values(columns).alias("pair")
        rows = records.select("label", "timestamp_ms", pairs)
        groups = rows.select("label", "timestamp_ms", "pair.*").groupBy("number", "value")
        counts = groups.agg(*(each.count().alias(each.name) for each in MEASURES))
        return _named(counts, [NULL, *(field.name for field in schema.fields)])
    names = sorted(field.name for field in schema.fields if is_countable(schema, field))
    parts = value_parts(spark, source, schema, names)
    counts = parts.counts if parts.complete else merged(parts.counts, ("number", "value"), MEASURES)
    found = _named(counts, [NULL, *names])
    # Only Spark reads the times of other columns.
    for field in schema.fields:
        if field.name not in names:
            others = counted(records, schema, {"value": field}, MEASURES)
            named = _named(others.withColumn("number", F.lit(0)), [field.name])
            found = found.unionByName(named)
    return found


def _named(counts: DataFrame, names: Sequence[str]) -> DataFrame:
    """Replace `number` by the field's name: the one at this position of `names`."""
    field = F.element_at(F.array(*map(F.lit, names)), F.col("number") + 1).alias("field")
    return counts.select(field, "value", *(each.name for each in MEASURES))
