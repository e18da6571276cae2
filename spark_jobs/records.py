"""Judging raw records: their moment, their label, their identity, and why one cannot be used."""

from __future__ import annotations

from enum import StrEnum

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import IntegralType, TimestampType

from features.canonical import NULL
from features.errors import InputError
from features.partition import Hour, Partition, day_of
from features.schema import ColumnField, MultiValued, Schema, TimeUnit
from spark_jobs.settings import Partitioning, Source
from spark_jobs.sources import CORRUPT, column_type, describe, require_columns
from spark_jobs.times import epoch_ms, in_partition, last_hour, whole_ms
from spark_jobs.values import (
    as_text,
    canonical,
    is_nested,
    number,
    quoted,
    single_value,
    value_list,
)

REASON = "__reason"
"""Why a record is quarantined, null for one that is kept."""

UNDATED = "__undated"
"""Whether a record's moment is unknown, so that it belongs to no day and no hour."""

_MS, _ID, _SPELLED = "__ms", "__id", "__spelled"
_EPOCH_MOST = 10**18 - 1
"""The most that 18 digits spell (`features.canonical.EPOCH`)."""
_NULL_MARK = "\x00"


class Reason(StrEnum):
    """Why a record is quarantined; the first that applies counts. `WRONG_DAY` is also of a record in another hour's file."""

    MALFORMED = "malformed"
    TIMESTAMP = "timestamp"
    WRONG_DAY = "wrong_day"
    LABEL = "label"
    USER = "user"
    ITEM = "item"
    DUPLICATE = "duplicate"


def moments(raw: DataFrame, schema: Schema, where: str) -> Column:
    """Return when each raw record happened: milliseconds UTC (long), null where the log's time cannot be read.

    Raises:
        InputError: the time column is missing, or is of a type that the schema's unit does not fit.
    """
    column = schema.timestamp.column
    require_columns(raw.columns, {column: "the timestamp"}, where)
    kind = column_type(raw, column)
    if isinstance(kind, TimestampType) and schema.timestamp.unit is not TimeUnit.ISO:
        raise InputError(
            f"column {column!r} of {where} holds times, not epochs: set `timestamp.unit: iso`"
        )
    if isinstance(kind, IntegralType) and schema.timestamp.unit is not TimeUnit.ISO:
        # The same as by way of text, which costs a regular expression for each record of the log.
        count = quoted(column).cast("long")
        return whole_ms(
            F.when(count.between(-_EPOCH_MOST, _EPOCH_MOST), count), schema.timestamp.unit
        )
    return epoch_ms(single_value(column, kind), schema.timestamp)


def told_by_files(source: Source, partition: Partition) -> bool:
    """Whether the files that were read hold the partition and nothing else, so that all their records are accounted for in it.

    So it is with `partition: path`, for an hour if hours have files of their own. Drawn negatives read the whole day's files.
    """
    by_hour = source.files_by_hour and source.negatives is None
    return source.partition is Partitioning.PATH and (by_hour or not isinstance(partition, Hour))


def accounted(ms: Column, source: Source, schema: Schema, partition: Partition) -> Column:
    """Return whether records are accounted for in this partition: kept or quarantined there.

    Where files do not tell it, the moment `ms` does, and undated records are accounted for in every day. Of the hours of a
    day the last one takes what no hour can claim: undated records and, with `partition: path`, those dated on another day.
    By then the day's log is whole, so nothing is lost, and the hours together come to what the day comes to.
    """
    if told_by_files(source, partition):
        return F.lit(True)
    inside = in_partition(ms, partition, schema.timezone)
    if isinstance(partition, Hour) and partition != last_hour(partition.on, schema.timezone):
        return inside
    if source.partition is Partitioning.PATH:
        return inside | ms.isNull() | ~in_partition(ms, day_of(partition), schema.timezone)
    return inside | ms.isNull()


def judged(raw: DataFrame, source: Source, schema: Schema, partition: Partition) -> DataFrame:
    """Return the raw records that are accounted for in a day or hour: moment, identity, `REASON` and `UNDATED` added.

    A malformed line goes to the partition that can be read from it, if one can.
    """
    where = describe(source.path)
    needed = {schema.label: "the label", schema.user: "the user", schema.item: "the item"}
    require_columns(raw.columns, needed, where)
    stamped = raw.withColumn(_MS, moments(raw, schema, where)).where(
        accounted(F.col(_MS), source, schema, partition)
    )
    identified = stamped.withColumn(_ID, digest(raw))
    numbered = identified.withColumn(
        "__n", F.row_number().over(Window.partitionBy(_ID).orderBy(_ID))
    )
    return numbered.select(
        *(quoted(name) for name in raw.columns),
        _MS,
        F.when(F.col("__n") > 1, F.xxhash64(_ID, "__n")).otherwise(F.col(_ID)).alias(_ID),
        _reason(raw, source, schema, partition).alias(REASON),
        F.col(_MS).isNull().alias(UNDATED),
    )


def as_json(records: DataFrame) -> Column:
    """Return the raw record (JSON) of each of `judged`."""
    return F.to_json(
        F.struct(
            *(quoted(name) for name in records.columns if name not in (_MS, _ID, REASON, UNDATED))
        )
    )


def impressions(records: DataFrame, schema: Schema, where: str) -> DataFrame:
    """Return kept records as the `impressions` artifact has them: ids, label, time, canonical fields, extras.

    Raises:
        InputError: a column that a field or an extra reads is missing, or holds what its kind cannot be.
    """
    columns = {
        schema.source_column(field): f"field {field.name!r}" for field in schema.column_fields()
    }
    require_columns(records.columns, {**columns, **dict.fromkeys(schema.extras, "`extras`")}, where)
    # The rules of spelling are planned once for an array of all texts, and not once for each column.
    texts = {name: column_type(records, name) for name in _texts(records, schema)}
    spelled = F.transform(
        F.array(*(as_text(quoted(name), kind) for name, kind in texts.items())), canonical
    )
    stamped = records.withColumn(_SPELLED, spelled) if texts else records
    place = {name: i for i, name in enumerate(texts)}

    def value(name: str) -> Column:
        """Return the canonical strings of a column of single values."""
        return F.col(_SPELLED)[place[name]] if name in place else _single(records, name)

    def field(each: ColumnField) -> Column:
        """Return a field's canonical strings, or lists of them."""
        name = schema.source_column(each)
        if isinstance(each, MultiValued):
            return value_list(name, column_type(records, name), each.separator)
        return value(name)

    return stamped.select(
        F.col(_ID).alias("record_id"),
        _label(records, schema).cast("byte").alias("label"),
        F.col(_MS).alias("timestamp_ms"),
        value(schema.user).alias("user"),
        value(schema.item).alias("item"),
        *(field(each).alias(each.name) for each in schema.column_fields()),
        *(quoted(name) for name in schema.extras),
    )


def _texts(records: DataFrame, schema: Schema) -> list[str]:
    """The columns of single values whose spelling is in question: integers have one only, and lists are refused later."""
    fields = (
        schema.source_column(field)
        for field in schema.column_fields()
        if not isinstance(field, MultiValued)
    )
    names = dict.fromkeys((schema.user, schema.item, *fields))
    kinds = {name: column_type(records, name) for name in names}
    return [
        name
        for name, kind in kinds.items()
        if not (isinstance(kind, IntegralType) or is_nested(kind))
    ]


def digest(raw: DataFrame) -> Column:
    """Return a 64-bit hash (long) of whole records as text, nulls marked so that they keep their place."""

    def text(name: str) -> Column:
        """Return the column as text."""
        return F.coalesce(as_text(quoted(name), column_type(raw, name)), F.lit(_NULL_MARK))

    return F.xxhash64(*(text(name) for name in raw.columns))


def _reason(raw: DataFrame, source: Source, schema: Schema, partition: Partition) -> Column:
    reason = F.when(F.col(CORRUPT).isNotNull(), Reason.MALFORMED.value)
    reason = reason.when(F.col(_MS).isNull(), Reason.TIMESTAMP.value)
    reason = reason.when(
        ~in_partition(F.col(_MS), partition, schema.timezone), Reason.WRONG_DAY.value
    )
    reason = reason.when(_label(raw, schema).isNull(), Reason.LABEL.value)
    reason = reason.when(_single(raw, schema.user) == NULL, Reason.USER.value)
    reason = reason.when(_single(raw, schema.item) == NULL, Reason.ITEM.value)
    return reason.when(F.col("__n") > 1, Reason.DUPLICATE.value) if source.deduplicate else reason


def _label(frame: DataFrame, schema: Schema) -> Column:
    """1 or 0, null where the label is missing or means neither."""
    text = _single(frame, schema.label)
    if schema.label_at_least is not None:
        return (number(text) >= schema.label_at_least).cast("int")
    return F.when(text.isin("1", "true"), 1).when(text.isin("0", "false"), 0)


def _single(frame: DataFrame, name: str) -> Column:
    return single_value(name, column_type(frame, name))
