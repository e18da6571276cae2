"""Tokens as Column expressions over an `impressions` partition, equal to `features.keys.tokens` and `cross_tokens`."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from features.canonical import NULL
from features.schema import ColumnField, Cross, KeyField, MultiValued, Numeric, Schema, Time, Timestamp, is_dense
from spark_jobs.times import epoch_ms, time_part
from spark_jobs.values import number, quoted

_PART = "\x1f"


def token(schema: Schema, field: ColumnField, value: Column) -> Column:
    """Return what a field's id is made of: the value itself, the bucket's number or the time part.

    Args:
        schema: gives the time zone and the unit of times.
        field: a field that reads a column.
        value: canonical strings (one value each: the elements of a multi-valued field).

    Returns:
        strings, never null; `""` where the value is null or unreadable. Dense numeric fields keep their value.
    """
    if isinstance(field, Time):
        stamp = Timestamp(column=field.source, unit=schema.timestamp.unit, assume_offset=schema.timestamp.assume_offset)
        part = time_part(epoch_ms(value, stamp), field.part, schema.timezone)
        return F.coalesce(part.cast("string"), F.lit(NULL))
    if isinstance(field, Numeric) and not is_dense(field):
        return _bucket(field, number(value))
    return value


def field_tokens(schema: Schema, field: KeyField) -> Column:
    """Return a field's tokens: for a multi-valued field a list<string> without repeats, for any other a string.

    A record without a value has the one token `""`.
    """
    if isinstance(field, Cross):
        columns = {part.name: part for part in schema.column_fields()}
        return F.concat_ws(_PART, *(_single(schema, columns[name]) for name in field.of))
    if not isinstance(field, MultiValued):
        return _single(schema, field)
    values = F.array_distinct(quoted(field.name))
    return F.when(F.size(values) > 0, values).otherwise(F.array(F.lit(NULL)))


def token_rows(records: DataFrame, schema: Schema, fields: Mapping[str, KeyField], *others: str) -> DataFrame:
    """Return a row per impression and combination of its tokens.

    Only the columns that these fields need are read, and only multi-valued fields are exploded: a row of all fields' tokens
    at once would be the widest thing that an aggregation could start from.

    Args:
        records: an `impressions` partition.
        schema: names the fields.
        fields: by the name of the column that is to hold a field's tokens.
        others: columns of the partition to keep.
    """
    rows = records.select(*others, *(field_tokens(schema, field).alias(name) for name, field in fields.items()))
    for name in (name for name, field in fields.items() if isinstance(field, MultiValued)):
        rows = rows.withColumn(name, F.explode(name))
    return rows


def _single(schema: Schema, field: ColumnField) -> Column:
    if isinstance(field, Time) and schema.source_column(field) == schema.timestamp.column:
        # Ingest has read this very text already: its milliseconds spare one regular expression a record.
        return F.coalesce(time_part(F.col("timestamp_ms"), field.part, schema.timezone).cast("string"), F.lit(NULL))
    return token(schema, field, quoted(field.name))


def _bucket(field: Numeric, value: Column) -> Column:
    """The number of boundaries at or below the value."""
    at_or_below = [F.when(value >= boundary, 1).otherwise(0) for boundary in field.boundaries]
    bucket = sum(at_or_below[1:], at_or_below[0])
    return F.when(value.isNull(), NULL).otherwise(bucket.cast("string"))
