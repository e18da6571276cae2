"""Tokens as Column expressions over an `impressions` partition, equal to `features.keys.tokens` and `cross_tokens`."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F

from features.canonical import NULL
from features.schema import ColumnField, Cross, KeyField, Numeric, Schema, Time, Timestamp, is_dense
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
        stamp = Timestamp(
            column=field.source,
            unit=schema.timestamp.unit,
            assume_offset=schema.timestamp.assume_offset,
        )
        part = time_part(epoch_ms(value, stamp), field.part, schema.timezone)
        return F.coalesce(part.cast("string"), F.lit(NULL))
    if isinstance(field, Numeric) and not is_dense(field):
        return _bucket(field, number(value))
    return value


def field_token(schema: Schema, field: KeyField) -> Column:
    """Return a record's token (string) of a field that is not multi-valued: `token` of its column, or a cross of such."""
    if isinstance(field, Cross):
        columns = {part.name: part for part in schema.column_fields()}
        return F.concat_ws(_PART, *(_single(schema, columns[name]) for name in field.of))
    return _single(schema, field)


def _single(schema: Schema, field: ColumnField) -> Column:
    if isinstance(field, Time) and schema.source_column(field) == schema.timestamp.column:
        # Ingest has read this very text already: its milliseconds spare one regular expression a record.
        return F.coalesce(
            time_part(F.col("timestamp_ms"), field.part, schema.timezone).cast("string"),
            F.lit(NULL),
        )
    return token(schema, field, quoted(field.name))


def _bucket(field: Numeric, value: Column) -> Column:
    """The number of boundaries at or below the value."""
    at_or_below = [F.when(value >= boundary, 1).otherwise(0) for boundary in field.boundaries]
    bucket = sum(at_or_below[1:], at_or_below[0])
    return F.when(value.isNull(), NULL).otherwise(bucket.cast("string"))
