"""From raw values to tokens, keys and numbers, in stock TensorFlow ops.

Training calls these functions on a partition's distinct values, the exported graph on the raw
request, so the two cannot differ. A key is `farmhash64(vocabulary + "\\x1f" + token)` as a signed
64-bit integer. The key of null is `farmhash64(vocabulary + "\\x1e")`, which no token can produce.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from features.canonical import NOT_CANONICAL, NULL, NULL_MARK, NUMBER, RULES, SEPARATOR
from features.schema import ColumnField, Numeric, Schema, Time, Timestamp, Transform
from features.times import epoch_ms, time_part

# Finds a value that is not canonical in values joined by `SEPARATOR`. `\C` is a byte: values need
# not be UTF-8. It may also match part of a value that contains a separator; the extra check that
# follows is harmless.
_ONE_NOT_CANONICAL = rf"(?:\C*{SEPARATOR})?(?:{NOT_CANONICAL})(?:{SEPARATOR}\C*)?"


def canonical(raw: tf.Tensor) -> tf.Tensor:
    """Return the canonical form (see `features.canonical`) of raw values, string of any shape."""
    flat = tf.reshape(raw, [-1])

    def rewritten() -> tf.Tensor:
        positions = tf.where(tf.strings.regex_full_match(flat, NOT_CANONICAL))
        values = tf.gather_nd(flat, positions)
        for rule in RULES:
            replacement = rule.replacement.replace("{1}", r"\1")
            values = tf.strings.regex_replace(values, rule.pattern, replacement)
        return tf.tensor_scatter_nd_update(flat, positions, values)

    # Most values are canonical. One search in one joined string finds out whether all of them
    # are; this is much faster than a search in each.
    joined = tf.strings.reduce_join(flat, axis=0, separator=SEPARATOR)
    rewrite = tf.strings.regex_full_match(joined, _ONE_NOT_CANONICAL)
    return tf.reshape(tf.cond(rewrite, rewritten, lambda: flat), tf.shape(raw))


def tokens(schema: Schema, field: ColumnField, raw: tf.Tensor) -> tf.Tensor:
    """Return the tokens of a field: canonical values, bucket numbers or time parts.

    Args:
        schema: gives the time zone and the unit of times.
        field: a field that reads a column.
        raw: string [n], values as in the log; `""` is null.

    Returns:
        string [n]; `""` where the value is null or unreadable.
    """
    if isinstance(field, Time):
        # A time field may read a column other than the timestamp's, but in the same unit.
        stamp = Timestamp(
            column=field.source,
            unit=schema.timestamp.unit,
            assume_offset=schema.timestamp.assume_offset,
        )
        ms, valid = epoch_ms(canonical(raw), stamp)
        part = time_part(ms, field.part, schema.timezone)
        return tf.where(valid, tf.strings.as_string(part), NULL)
    if isinstance(field, Numeric):
        value, present = _parse(raw)
        bucket = tf.searchsorted(tf.constant(field.boundaries, tf.float64), value, side="right")
        return tf.where(present, tf.strings.as_string(bucket), NULL)
    return canonical(raw)


def cross_tokens(parts: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return the tokens of a cross, string [n], from those of its fields, each string [n].

    A null field gives an empty part, so `(a, null)` and `(null, a)` differ.
    """
    return tf.strings.join(list(parts), separator=SEPARATOR)


def keys(vocabulary: str, token: tf.Tensor) -> tf.Tensor:
    """Return the int64 keys of tokens of any shape, in that shape."""
    return tf.reshape(keys_by_vocabulary([vocabulary], tf.reshape(token, [-1, 1])), tf.shape(token))


def keys_by_vocabulary(vocabularies: Sequence[str], token: tf.Tensor) -> tf.Tensor:
    """Return the int64 keys [n, V] of tokens, string [n, V], one vocabulary per column."""
    null, value = (
        tf.constant([name + mark for name in vocabularies]) for mark in (NULL_MARK, SEPARATOR)
    )
    salted = tf.strings.join([tf.where(token == NULL, null, value), token])
    digest = tf.fingerprint(tf.reshape(salted, [-1]), method="farmhash64")
    return tf.reshape(tf.bitcast(digest, tf.int64), tf.shape(token))


def numbers(field: Numeric, raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return a numeric field's values, transformed but not standardised, and which are present.

    Args:
        field: gives the transform.
        raw: string [n], values as in the log.

    Returns:
        `(values float64 [n], present bool [n])`; what is not a number is absent and has value 0.
    """
    value, present = _parse(raw)
    return _logarithm(value) if field.transform is Transform.LOG else value, present


def numbers_by_field(fields: Sequence[Numeric], raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return `numbers` of D fields at once: float64 [n, D] and bool [n, D] of strings [n, D]."""
    value, present = _parse(raw)
    # The length is given because an empty list has no shape to infer.
    logged = tf.constant(
        [field.transform is Transform.LOG for field in fields], tf.bool, [len(fields)]
    )
    return tf.where(logged, _logarithm(value), value), present


def _logarithm(value: tf.Tensor) -> tf.Tensor:
    return tf.sign(value) * tf.math.log1p(tf.abs(value))


def _parse(raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return float64 values of raw strings, and whether each is a finite number."""
    well_formed = tf.strings.regex_full_match(raw, NUMBER)
    value = tf.strings.to_number(tf.where(well_formed, raw, "0"), tf.float64)
    present = well_formed & tf.math.is_finite(value)
    # -0 is the only number whose canonical form has another value; replacing it here saves a pass
    # of `canonical`. It is recognised by its bits: a comparison with 0 may also be true for
    # subnormal numbers, which TensorFlow may flush to 0.
    negative_zero = tf.bitcast(value, tf.int64) == tf.int64.min
    return tf.where(present & ~negative_zero, value, tf.zeros_like(value)), present
