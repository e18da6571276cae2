"""From raw values to tokens, keys and numbers, in stock TensorFlow ops.

One implementation: training calls it on a partition's distinct values, the exported graph on the raw request, so
the two cannot differ. `key = farmhash64(vocabulary + "\\x1f" + token)` as a signed 64-bit integer; a null has a key
of its own, `farmhash64(vocabulary + "\\x1e")`, which no token can collide with by spelling.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from features.canonical import NOT_CANONICAL, NULL, NULL_MARK, NUMBER, RULES, SEPARATOR
from features.schema import ColumnField, Numeric, Schema, Time, Timestamp, Transform
from features.times import epoch_ms, time_part

# One of the values joined by `SEPARATOR`; bytes (`\C`), since values need not be UTF-8, and perhaps a part of a value that has a
# separator in it, which then is looked at in vain.
_ONE_NOT_CANONICAL = rf"(?:\C*{SEPARATOR})?(?:{NOT_CANONICAL})(?:{SEPARATOR}\C*)?"


def canonical(raw: tf.Tensor) -> tf.Tensor:
    """Return the canonical spelling (see `features.canonical`) of raw values, string of any shape.

    Most values are canonical: whether all are is one search in one string, and only those that are not are rewritten.
    """
    flat = tf.reshape(raw, [-1])
    rewrite = tf.strings.regex_full_match(
        tf.strings.reduce_join(flat, axis=0, separator=SEPARATOR), _ONE_NOT_CANONICAL
    )
    return tf.reshape(tf.cond(rewrite, lambda: _rewritten(flat), lambda: flat), tf.shape(raw))


def tokens(schema: Schema, field: ColumnField, raw: tf.Tensor) -> tf.Tensor:
    """Return what a field's ids are made of: the canonical value, the bucket's number or the time part.

    Args:
        schema: gives the time zone and the unit of times.
        field: a field that reads a column.
        raw: string [n], values as the log has them; `""` is null.

    Returns:
        string [n]; `""` where the value is null or unreadable.
    """
    if isinstance(field, Time):
        return _time_tokens(schema, field, raw)
    if isinstance(field, Numeric):
        return _bucket_tokens(field, raw)
    return canonical(raw)


def cross_tokens(parts: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return the token of a cross from its parts' tokens, each string [n]; a null part keeps its place."""
    return tf.strings.join(list(parts), separator=SEPARATOR)


def keys(vocabulary: str, token: tf.Tensor) -> tf.Tensor:
    """Return the int64 keys of tokens, in the tokens' shape."""
    return tf.reshape(keys_by_vocabulary([vocabulary], tf.reshape(token, [-1, 1])), tf.shape(token))


def keys_by_vocabulary(vocabularies: Sequence[str], token: tf.Tensor) -> tf.Tensor:
    """Return the int64 keys [n, V] of tokens string [n, V], column v of which are of the v-th vocabulary."""
    null, value = (
        tf.constant([name + mark for name in vocabularies]) for mark in (NULL_MARK, SEPARATOR)
    )
    spelled = tf.strings.join([tf.where(token == NULL, null, value), token])
    digest = tf.fingerprint(tf.reshape(spelled, [-1]), method="farmhash64")
    return tf.reshape(tf.bitcast(digest, tf.int64), tf.shape(token))


def numbers(field: Numeric, raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return `(values float64 [n], present bool [n])` of a numeric field, transformed but not yet standardised.

    What is not a number is absent, and its value 0.
    """
    value, present = _parse(raw)
    return _logarithm(value) if field.transform is Transform.LOG else value, present


def numbers_by_field(fields: Sequence[Numeric], raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return `numbers` of several fields at once: values float64 [n, D] and present bool [n, D] of raw strings [n, D]."""
    value, present = _parse(raw)
    logged = tf.constant(
        [field.transform is Transform.LOG for field in fields], tf.bool, [len(fields)]
    )
    return tf.where(logged, _logarithm(value), value), present


def _rewritten(raw: tf.Tensor) -> tf.Tensor:
    places = tf.where(tf.strings.regex_full_match(raw, NOT_CANONICAL))
    found = tf.gather_nd(raw, places)
    for rule in RULES:
        found = tf.strings.regex_replace(
            found, rule.pattern, rule.replacement.replace("{1}", r"\1")
        )
    return tf.tensor_scatter_nd_update(raw, places, found)


def _logarithm(value: tf.Tensor) -> tf.Tensor:
    return tf.sign(value) * tf.math.log1p(tf.abs(value))


def _parse(raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Values float64 and whether they are numbers, of raw strings: as of canonical ones, whose only other number is -0."""
    well_formed = tf.strings.regex_full_match(raw, NUMBER)
    value = tf.strings.to_number(tf.where(well_formed, raw, "0"), tf.float64)
    present = well_formed & tf.math.is_finite(value)
    # By its bits: TensorFlow may take the smallest numbers for 0 when it compares.
    negative_zero = tf.bitcast(value, tf.int64) == tf.int64.min
    return tf.where(present & ~negative_zero, value, tf.zeros_like(value)), present


def _bucket_tokens(field: Numeric, raw: tf.Tensor) -> tf.Tensor:
    value, present = _parse(raw)
    bucket = tf.searchsorted(tf.constant(field.boundaries, tf.float64), value, side="right")
    return tf.where(present, tf.strings.as_string(bucket), NULL)


def _time_tokens(schema: Schema, field: Time, raw: tf.Tensor) -> tf.Tensor:
    stamp = Timestamp(
        column=field.source,
        unit=schema.timestamp.unit,
        assume_offset=schema.timestamp.assume_offset,
    )
    ms, valid = epoch_ms(canonical(raw), stamp)
    part = time_part(ms, field.part, schema.timezone)
    return tf.where(valid, tf.strings.as_string(part), NULL)
