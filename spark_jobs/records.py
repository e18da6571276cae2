"""Raw records: their moment, label and identity, and why a record is quarantined."""

from __future__ import annotations

from collections.abc import Callable

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import (
    DateType,
    DoubleType,
    FloatType,
    IntegralType,
    StringType,
    TimestampNTZType,
    TimestampType,
)

from features.canonical import NULL, NUMBER
from features.errors import InputError
from features.ingest_rules import LABELS, IngestMode, IngestRule, RecordCheck, ingest_rules
from features.partition import Hour, Partition, day_of
from features.schema import ColumnField, MultiValued, Numeric, Schema, TimeUnit
from spark_jobs.settings import Partitioning, Source
from spark_jobs.sources import (
    CORRUPT,
    DAMAGE,
    FILE,
    ROW,
    canonical_column,
    column_type,
    describe,
    require_columns,
)
from spark_jobs.times import epoch_ms, in_partition, last_hour, whole_ms
from spark_jobs.values import (
    as_text,
    canonical,
    is_nested,
    number,
    quoted,
    single_value,
    value_list,
    written_text,
)

REASON = "__reason"
"""Why a record is quarantined, null for one that is kept."""

UNDATED = "__undated"
"""Whether a record's moment is unknown, so that it belongs to no day and no hour."""

_MS, _ID, _CANONICAL = "__ms", "__id", "__canonical"
_EPOCH_MOST = 10**18 - 1
"""The largest number of 18 digits, the most that `features.canonical.EPOCH` allows."""
_NULL_MARK = "\x00"


def moments(raw: DataFrame, schema: Schema, where: str) -> Column:
    """Return when each raw record happened: milliseconds UTC (long), null if it cannot be read.

    Raises:
        InputError: the time column is missing, or its type does not fit the schema's unit.
    """
    column, unit = schema.timestamp.column, schema.timestamp.unit
    require_columns(raw.columns, {column: "the timestamp"}, where)
    kind = column_type(raw, column)
    if isinstance(kind, DateType | TimestampNTZType | TimestampType) and unit is not TimeUnit.ISO:
        zone = " (and `timestamp.assume_offset`)" if not isinstance(kind, TimestampType) else ""
        raise InputError(
            f"column {column!r} of {where} holds times ({kind.simpleString()}), not epochs: set"
            f" `timestamp.unit: iso`{zone}"
        )
    if isinstance(kind, IntegralType) and unit is not TimeUnit.ISO:
        # Equal to the conversion by way of text, without a regular expression for each record.
        count = quoted(column).cast("long")
        return whole_ms(F.when(count.between(-_EPOCH_MOST, _EPOCH_MOST), count), unit)
    return epoch_ms(single_value(column, kind), schema.timestamp)


def partition_in_path(source: Source, partition: Partition) -> bool:
    """Whether the files that were read are those of this partition only, by `partition: path`.

    All their records then are accounted for in it. For an hour this needs files by the hour, and no
    drawn negatives, which read the files of the whole day.
    """
    by_hour = source.files_by_hour and source.negatives is None
    return source.partition is Partitioning.PATH and (by_hour or not isinstance(partition, Hour))


def accounted(ms: Column, source: Source, schema: Schema, partition: Partition) -> Column:
    """Return whether records are accounted for in this partition: kept or quarantined there.

    Unless the path names the partition, the moment `ms` decides. Undated records are accounted for
    in every day. The last hour of a day also accounts for records that belong to no hour: undated
    ones and, with `partition: path`, those of another day. The day's log is complete by then, so
    that the hours together give what the day gives.
    """
    if partition_in_path(source, partition):
        return F.lit(True)
    inside = in_partition(ms, partition, schema.timezone)
    if isinstance(partition, Hour) and partition != last_hour(partition.on, schema.timezone):
        return inside
    if source.partition is Partitioning.PATH:
        return inside | ms.isNull() | ~in_partition(ms, day_of(partition), schema.timezone)
    return inside | ms.isNull()


def validated_records(
    raw: DataFrame, source: Source, schema: Schema, partition: Partition
) -> DataFrame:
    """Return the raw records that are accounted for in a day or hour.

    Added columns are the moment, the identity, `REASON` and `UNDATED`. A malformed line belongs to
    the partition of the moment that can be read from it, if any.
    """
    where = describe(source, partition)
    needed = {schema.label: "the label", schema.user: "the user", schema.item: "the item"}
    require_columns(raw.columns, needed, where)
    stamped = raw.withColumn(_MS, moments(raw, schema, where)).where(
        accounted(F.col(_MS), source, schema, partition)
    )
    # Equal records are numbered. With their number in the hash, repeats have different identities
    # where duplicates are kept. The order decides which of them is quarantined, and is part of its
    # position there.
    repeats = F.row_number().over(Window.partitionBy(_ID).orderBy(FILE, ROW))
    numbered = stamped.withColumn(_ID, digest(raw)).withColumn("__n", repeats)
    return numbered.select(
        *(quoted(name) for name in raw.columns),
        _MS,
        F.when(F.col("__n") > 1, F.xxhash64(_ID, "__n")).otherwise(F.col(_ID)).alias(_ID),
        _reason(raw, source, schema, partition).alias(REASON),
        F.col(_MS).isNull().alias(UNDATED),
    )


def as_json(records: DataFrame) -> Column:
    """Return the raw record (JSON) of each of `validated_records`, with its file and row."""
    added = (_MS, _ID, REASON, UNDATED, DAMAGE)
    return F.to_json(F.struct(*(quoted(name) for name in records.columns if name not in added)))


def impressions(records: DataFrame, schema: Schema, where: str) -> DataFrame:
    """Return kept records as `impressions`: ids, label, time, canonical fields, extras.

    Raises:
        InputError: a column that a field or an extra reads is missing, or its type does not fit.
    """
    fields = [(field, schema.source_column(field)) for field in schema.column_fields()]
    columns = {name: f"field {field.name!r}" for field, name in fields}
    require_columns(records.columns, {**columns, **dict.fromkeys(schema.extras, "`extras`")}, where)
    # Single values that need the canonical rules. Integers have one form only, and nested values
    # are refused below.
    singles = (name for field, name in fields if not isinstance(field, MultiValued))
    kinds = {
        name: column_type(records, name)
        for name in dict.fromkeys((schema.user, schema.item, *singles))
    }
    names = [
        name
        for name, kind in kinds.items()
        if not (isinstance(kind, IntegralType) or is_nested(kind))
    ]
    place = {name: position for position, name in enumerate(names)}
    # The rules are planned once, for an array of all texts, and not once per column.
    texts = F.array(*(written_text(quoted(name), kinds[name]) for name in names))
    rewritten = F.transform(texts, canonical)
    stamped = records.withColumn(_CANONICAL, rewritten) if names else records

    def value(name: str) -> Column:
        if name in place:
            return F.col(_CANONICAL)[place[name]]
        return canonical_column(records, name)

    def field_value(field: ColumnField, name: str) -> Column:
        if isinstance(field, MultiValued):
            return value_list(name, column_type(records, name), field.separator)
        return value(name)

    return stamped.select(
        F.col(_ID).alias("record_id"),
        _label(records, schema).cast("byte").alias("label"),
        F.col(_MS).alias("timestamp_ms"),
        value(schema.user).alias("user"),
        value(schema.item).alias("item"),
        *(field_value(field, name).alias(field.name) for field, name in fields),
        *(quoted(name) for name in schema.extras),
    )


def digest(raw: DataFrame) -> Column:
    """Return a 64-bit hash (long) of whole records as text."""

    def text(name: str) -> Column:
        # `xxhash64` skips nulls: unmarked, (null, "a") and ("a", null) would be equal.
        return F.coalesce(as_text(quoted(name), column_type(raw, name)), F.lit(_NULL_MARK))

    # A record is the same one in whichever file it is.
    return F.xxhash64(*(text(name) for name in raw.columns if name not in (DAMAGE, FILE, ROW)))


def _reason(raw: DataFrame, source: Source, schema: Schema, partition: Partition) -> Column:
    """Return the reason of the first rule that a record fails, null if there is none."""

    def null_column(rule: IngestRule) -> Column:
        return canonical_column(raw, getattr(schema, str(rule.role))) == NULL

    failed: dict[RecordCheck, Callable[[IngestRule], Column]] = {
        RecordCheck.PARSED: lambda _: F.col(CORRUPT).isNotNull(),
        RecordCheck.DECODED: lambda rule: F.col(DAMAGE).eqNullSafe(rule.reason),
        RecordCheck.CELL_SIZE: lambda rule: F.col(DAMAGE).eqNullSafe(rule.reason),
        RecordCheck.READABLE_TIME: lambda _: F.col(_MS).isNull(),
        RecordCheck.IN_PARTITION: lambda _: ~in_partition(F.col(_MS), partition, schema.timezone),
        RecordCheck.KNOWN_LABEL: lambda _: _label(raw, schema).isNull(),
        RecordCheck.NOT_NULL: null_column,
        RecordCheck.FINITE: lambda _: _overflows(raw, schema),
        RecordCheck.FIRST_COPY: lambda _: F.col("__n") > 1,
    }
    rules = [
        rule
        for rule in ingest_rules(IngestMode.SPARK)
        if source.deduplicate or rule.check is not RecordCheck.FIRST_COPY
    ]
    reason = F.when(failed[rules[0].check](rules[0]), rules[0].reason)
    for rule in rules[1:]:
        reason = reason.when(failed[rule.check](rule), rule.reason)
    return reason


def _overflows(raw: DataFrame, schema: Schema) -> Column:
    """Return whether a numeric field of the log is written as a number but is no finite one."""
    names = {field.source for field in schema.fields if isinstance(field, Numeric)}
    found = F.lit(False)
    for name in sorted(names & set(raw.columns)):
        kind = column_type(raw, name)
        if isinstance(kind, FloatType | DoubleType):
            found = found | (F.abs(quoted(name)) == float("inf"))
        elif isinstance(kind, StringType):
            text = quoted(name)
            found = found | (text.rlike(NUMBER) & number(text).isNull())
    return F.coalesce(found, F.lit(False))


def _label(frame: DataFrame, schema: Schema) -> Column:
    """Return 1 or 0, null where the label is missing or means neither."""
    text = canonical_column(frame, schema.label)
    if schema.label_at_least is not None:
        return (number(text) >= schema.label_at_least).cast("int")
    known = {value: [name for name, v in LABELS.items() if v == value] for value in (1, 0)}
    return F.when(text.isin(known[1]), 1).when(text.isin(known[0]), 0)
