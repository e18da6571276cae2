"""From the vectors of single keys to one vector per field, in ops that the trained and the exported graph share."""

from __future__ import annotations

import tensorflow as tf


def pool_fields(
    singles: tf.Tensor,
    listed: tf.Tensor,
    segments: tf.Tensor,
    lists: int,
    batch: tf.Tensor | None = None,
) -> tf.Tensor:
    """Append the mean vector of each multi-valued field to the vectors of the single-valued ones.

    Args:
        singles: float32 [b, S, d], vectors of the single-valued fields.
        listed: float32 [k, d], vectors of every value present in any multi-valued field, in any order. A value
            without a row is the zero vector and counts in the mean; padding must not be among them.
        segments: int32 [k], `impression * lists + position of the field among the multi-valued ones`.
        lists: number of multi-valued fields, L.
        batch: int32 [], b; None: it is taken from `singles`. Where the caller has it, all slabs share the lists' lengths.

    Returns:
        float32 [b, S + L, d]; an empty list gives the zero vector.
    """
    if lists == 0:
        return singles
    batch, dim = tf.shape(singles)[0] if batch is None else batch, singles.shape[-1]
    pooled = tf.math.unsorted_segment_sum(listed, segments, batch * lists) / list_lengths(
        segments, batch * lists
    )
    return tf.concat([singles, tf.reshape(pooled, [batch, lists, dim])], axis=1)


def list_lengths(segments: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Return what the sum of each of `count` lists is divided by, float32 [count, 1]: how many values it has, at least 1.

    Args:
        segments: int32 [k], the list of each value.
        count: int32 [].
    """
    lengths = tf.math.unsorted_segment_sum(tf.ones_like(segments, tf.float32), segments, count)
    return tf.expand_dims(tf.maximum(lengths, 1.0), 1)


def lay_together(vectors: tf.Tensor, fields: int, chunks: int, batch: tf.Tensor) -> tf.Tensor:
    """Lay the rows of each field side by side.

    Args:
        vectors: float32 [F b k, w], field by field, in each impression by impression, its rows in their order.
        fields: F.
        chunks: rows of a field in an impression, k.
        batch: int32 [], b.

    Returns:
        float32 [b, F, k w].
    """
    return tf.transpose(tf.reshape(vectors, [fields, batch, chunks * vectors.shape[-1]]), [1, 0, 2])


def dense_inputs(
    values: tf.Tensor, present: tf.Tensor, means: tf.Tensor, stds: tf.Tensor
) -> tf.Tensor:
    """Standardise numbers, each followed by a flag that says whether it is present.

    Args:
        values: float64 [b, D], as `features.keys.numbers` gives them.
        present: bool [b, D].
        means: float64 [D].
        stds: float64 [D], positive.

    Returns:
        float32 [b, 2 * D]: value, flag, value, flag, …; values are cut at ±`LIMIT` and 0 where absent.
    """
    scaled = tf.clip_by_value((values - means) / stds, -LIMIT, LIMIT)
    flags = tf.cast(present, tf.float64)
    paired = tf.stack([tf.where(present, scaled, tf.zeros_like(scaled)), flags], axis=2)
    return tf.cast(tf.reshape(paired, [tf.shape(values)[0], 2 * values.shape[1]]), tf.float32)


LIMIT = 10.0
"""Standard deviations beyond which a number says no more: one absurd value must not swamp the step."""
