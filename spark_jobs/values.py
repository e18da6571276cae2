"""Canonical values as Column expressions: the rules of `features.canonical`, interpreted by Spark."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    DataType,
    DoubleType,
    FloatType,
    IntegralType,
    MapType,
    StringType,
    StructType,
    TimestampType,
)

from features.canonical import NULL, NUMBER, RULES
from features.errors import InputError

_INT64_LIMIT = 2.0**63
_ANY_RULE = "|".join(f"(?:{rule.pattern})" for rule in RULES)


def quoted(name: str) -> Column:
    """Return the column of exactly this name, dots and all."""
    return F.col("`" + name.replace("`", "``") + "`")


def canonical(text: Column) -> Column:
    """Return the canonical spelling of a string column; null becomes `features.canonical.NULL`."""
    value = F.coalesce(text, F.lit(NULL))
    rewritten = value
    for rule in RULES:
        rewritten = F.regexp_replace(rewritten, rule.pattern, rule.replacement.replace("{1}", "$1"))
    # One match decides for most values that no rule applies; the rules then need not be tried one by one.
    return F.when(value.rlike(_ANY_RULE), rewritten).otherwise(value)


def as_text(value: Column, kind: DataType) -> Column:
    """Return a single value as a string (null stays null), before the canonical rules.

    Integral floats are written as integers (`1.0E10` as `10000000000`), times with their zone as ISO in UTC.
    """
    if isinstance(kind, StringType):
        return value
    if isinstance(kind, FloatType | DoubleType):
        integral = (value == F.rint(value)) & (F.abs(value) < _INT64_LIMIT)
        return F.when(integral, F.when(integral, value).cast("long").cast("string")).otherwise(
            value.cast("string")
        )
    if isinstance(kind, TimestampType):
        return F.date_format(value, "yyyy-MM-dd'T'HH:mm:ss.SSSSSS'Z'")
    return F.to_json(value) if is_nested(kind) else value.cast("string")


def single_value(name: str, kind: DataType) -> Column:
    """Return the canonical strings of a column of single values.

    Raises:
        InputError: the column holds lists or structures.
    """
    if is_nested(kind):
        raise InputError(
            f"column {name!r} holds {kind.simpleString()}: declare its field as kind `multi_valued`, or leave it out"
        )
    text = as_text(quoted(name), kind)
    return F.coalesce(text, F.lit(NULL)) if isinstance(kind, IntegralType) else canonical(text)


def value_list(name: str, kind: DataType, separator: str) -> Column:
    """Return the canonical strings of a column of lists, or of text split at `separator`; no `""` inside, never null.

    Raises:
        InputError: the column is neither text, a list of single values, nor one single value.
    """
    if isinstance(kind, ArrayType) and not is_nested(kind.elementType):
        element = kind.elementType
        values = F.transform(quoted(name), lambda value: canonical(as_text(value, element)))
    elif is_nested(kind):
        raise InputError(
            f"column {name!r} holds {kind.simpleString()}: a multi-valued field needs text or a list of single values"
        )
    else:
        parts = F.split(as_text(quoted(name), kind), _literally(separator), -1)
        values = F.transform(parts, canonical)
    return F.coalesce(
        F.filter(values, lambda value: value != NULL), F.array().cast("array<string>")
    )


def number(text: Column) -> Column:
    """Return the double that a canonical string spells, null where it is no finite number."""
    value = F.when(text.rlike(NUMBER), text).otherwise(None).cast("double")
    return F.when(F.abs(value) < float("inf"), value)


def is_nested(kind: DataType) -> bool:
    """Whether values of this type are lists, maps or structures."""
    return isinstance(kind, ArrayType | MapType | StructType)


def _literally(separator: str) -> str:
    """A Java pattern that matches this text and nothing else."""
    return "\\Q" + separator.replace("\\E", "\\E\\\\E\\Q") + "\\E"
