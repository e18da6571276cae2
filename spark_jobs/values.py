"""Canonical values as Column expressions: the rules of `features.canonical`, applied by Spark."""

from __future__ import annotations

import math
import re

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from features.canonical import INT64_LIMIT, NULL, NUMBER, RULES, python_pattern
from features.errors import InputError

_SHORT_FLOAT = 8
"""Java's spelling of a float with at most so many characters is the shortest one."""
_ANY_RULE = "|".join(f"(?:{rule.pattern})" for rule in RULES)
_NUMBER = re.compile(python_pattern(NUMBER))


def quoted(name: str) -> Column:
    """Return the column of exactly this name, which may hold dots."""
    return F.col("`" + name.replace("`", "``") + "`")


def canonical(text: Column) -> Column:
    """Return the canonical form of a string column; null becomes `features.canonical.NULL`."""
    value = F.coalesce(text, F.lit(NULL))
    rewritten = value
    for rule in RULES:
        rewritten = F.regexp_replace(rewritten, rule.pattern, rule.replacement.replace("{1}", "$1"))
    # Most values match no rule: one match then replaces an attempt of every rule.
    return F.when(value.rlike(_ANY_RULE), rewritten).otherwise(value)


def as_text(value: Column, kind: T.DataType) -> Column:
    """Return a single value as a string, before the canonical rules; null stays null.

    Integral floats are written as integers (`1.0E10` as `10000000000`), times with a zone as ISO
    in UTC.
    """
    if isinstance(kind, T.StringType):
        return value
    if isinstance(kind, T.FloatType | T.DoubleType):
        integral = (value == F.rint(value)) & (F.abs(value) < INT64_LIMIT)
        # The inner `when` keeps the cast from values that overflow: ANSI mode raises on them.
        whole = F.when(integral, value).cast("long").cast("string")
        return F.when(integral, whole).otherwise(value.cast("string"))
    if isinstance(kind, T.TimestampType):
        return F.date_format(value, "yyyy-MM-dd'T'HH:mm:ss.SSSSSS'Z'")
    return F.to_json(value) if is_nested(kind) else value.cast("string")


def written_text(value: Column, kind: T.DataType) -> Column:
    """Return `as_text`, with floats in the spelling of `features.canonical.float_text`."""
    text = as_text(value, kind)
    if not isinstance(kind, T.FloatType | T.DoubleType):
        return text
    short = ~text.contains("E") & (F.length(text) <= _SHORT_FLOAT)
    names = F.when(value == float("inf"), "inf").when(value == -float("inf"), "-inf")
    whole = text.rlike(r"\A-?[0-9]+\z")
    return (
        F.when(value.isNull() | F.isnan(value), text)
        .when(F.abs(value) == float("inf"), names)
        .when(short | whole, text)
        .otherwise(_python_float(value, kind))
    )


def _python_float(value: Column, kind: T.DataType) -> Column:
    """Return finite floats, not 0, as Python's `repr` writes them.

    Java before 19 has another last digit for subnormal numbers and for some below 1e-20 or above
    2⁶³.
    """
    size = F.abs(value)
    # 1. The shortest digits that denote the value. Java before 19 writes a digit too many for some.
    if isinstance(kind, T.FloatType):
        exact = F.format_string("%.16e", size)
        candidates = [_rounded(size, exact, precision) for precision in (5, 6, 7, 8)]
    else:
        candidates = [F.format_string(f"%.{precision}e", size) for precision in (13, 14, 15, 16)]
    candidates.insert(0, F.format_string("%.0e", size))
    # Lambdas name a value once: in plain expressions each use repeats the code that computes it,
    # until Spark gives up compiling it.
    written = F.filter(F.array(*candidates), lambda text: text.try_cast(kind) == size)

    def as_python(written: Column) -> Column:
        exponent = F.regexp_extract(written, r"e([-+][0-9]+)", 1).cast("int")
        digits = F.regexp_replace(F.regexp_extract(written, r"\A([0-9.]+)", 1), r"[.]|0+\z", "")
        # 2. Plain between 1e-4 and 1e16. Only fractions are: integers were written as such.
        small = F.concat(F.lit("0."), F.repeat(F.lit("0"), -exponent - 1), digits)
        head, rest = F.substring(digits, F.lit(1), exponent + 1), F.substr(digits, exponent + 2)
        plain = F.when(exponent < 0, small).otherwise(F.concat(head, F.lit("."), rest))
        # 3. Otherwise with an exponent of two digits or more.
        fraction = F.when(F.length(digits) > 1, F.concat(F.lit("."), F.substr(digits, F.lit(2))))
        power = F.concat(
            F.when(exponent < 0, "e-").otherwise("e+"), F.format_string("%02d", F.abs(exponent))
        )
        mantissa = F.concat(F.substr(digits, F.lit(1), F.lit(1)), F.coalesce(fraction, F.lit("")))
        return F.when(exponent.between(-4, 15), plain).otherwise(F.concat(mantissa, power))

    sign = F.when(value < 0, "-").otherwise("")
    return F.concat(sign, F.get(F.transform(written, as_python), F.lit(0)))


def _rounded(size: Column, exact: Column, precision: int) -> Column:
    """Return a 32-bit float with so many digits after the first, halves to the even digit."""
    # Java rounds halves up.
    halfway = rf"\A([0-9][.][0-9]{{{precision - 1}}}[02468])50*e"
    text = F.format_string(f"%.{precision}e", size)
    return F.when(exact.rlike(halfway), F.regexp_replace(exact, halfway, "$1e")).otherwise(text)


def single_value(name: str, kind: T.DataType) -> Column:
    """Return the canonical strings of a column of single values.

    Raises:
        InputError: the column holds lists or structures.
    """
    if is_nested(kind):
        raise InputError(
            f"column {name!r} holds {kind.simpleString()}: declare its field as kind"
            " `multi_valued`, or leave it out"
        )
    text = written_text(quoted(name), kind)
    # An integer has one form only.
    return F.coalesce(text, F.lit(NULL)) if isinstance(kind, T.IntegralType) else canonical(text)


def value_list(name: str, kind: T.DataType, separator: str) -> Column:
    """Return the canonical strings of a column of lists, or of text split at `separator`.

    The lists are never null and hold no `""`.

    Raises:
        InputError: the column is neither text, a list of single values, nor one single value.
    """
    if isinstance(kind, T.ArrayType) and not is_nested(kind.elementType):
        element = kind.elementType
        values = F.transform(quoted(name), lambda value: canonical(written_text(value, element)))
    elif is_nested(kind):
        raise InputError(
            f"column {name!r} holds {kind.simpleString()}: a multi-valued field needs text or a"
            " list of single values"
        )
    else:
        # `split` expects a Java pattern: between \Q and \E every character stands for itself.
        literal = "\\Q" + separator.replace("\\E", "\\E\\\\E\\Q") + "\\E"
        values = F.transform(F.split(written_text(quoted(name), kind), literal, -1), canonical)
    present = F.filter(values, lambda value: value != NULL)
    return F.coalesce(present, F.array().cast("array<string>"))


def number(text: Column) -> Column:
    """Return the double that a canonical string denotes, null where it is no finite number."""
    value = F.when(text.rlike(NUMBER), text).otherwise(None).cast("double")
    return F.when(F.abs(value) < float("inf"), value)


def numbers_of(values: pa.Array) -> NDArray[np.float64]:
    """Return what `number` does for an Arrow array of strings, NaN in place of null."""
    texts = values.to_pylist()
    x = np.array([float(text) if _NUMBER.match(text) else math.nan for text in texts], np.float64)
    return np.where(np.isinf(x), np.nan, x)


def is_nested(kind: T.DataType) -> bool:
    """Whether values of this type are lists, maps or structures."""
    return isinstance(kind, T.ArrayType | T.MapType | T.StructType)
