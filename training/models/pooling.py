"""From the vectors of keys to one vector per field, in ops that training and the export share."""

from __future__ import annotations

import tensorflow as tf

LIMIT = 10.0
"""Standardised numbers are cut at ±LIMIT: a single absurd value must not dominate the step."""


def pool_fields(
    singles: tf.Tensor,
    listed: tf.Tensor,
    segments: tf.Tensor,
    lists: int,
    batch: tf.Tensor | None = None,
) -> tf.Tensor:
    """Append the mean vector of each pooled field to the vectors of the single-valued ones.

    Args:
        singles: float32 [b, S, d], vectors of the single-valued fields.
        listed: float32 [k, d], vectors of the values of all pooled fields, in any order. A value
            without a row has the zero vector and counts in the mean; padding must be left out.
        segments: int32 [k], `impression * lists + position of the field among the pooled ones`.
        lists: number of pooled fields, L.
        batch: int32 [], b. If given, all slabs share the computation of the lists' lengths.

    Returns:
        float32 [b, S + L, d]; an empty list has the zero vector.
    """
    if lists == 0:
        return singles
    batch, dim = tf.shape(singles)[0] if batch is None else batch, singles.shape[-1]
    count = batch * lists
    sums = tf.math.unsorted_segment_sum(listed, segments, count)
    pooled = sums / list_lengths(segments, count)
    return tf.concat([singles, tf.reshape(pooled, [batch, lists, dim])], axis=1)


def list_lengths(segments: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Return the number of values of each list, at least 1, float32 [count, 1].

    Args:
        segments: int32 [k], the list of each value.
        count: int32 [], number of lists.
    """
    lengths = tf.math.unsorted_segment_sum(tf.ones_like(segments, tf.float32), segments, count)
    return tf.expand_dims(tf.maximum(lengths, 1.0), 1)


def concat_chunks(vectors: tf.Tensor, fields: int, chunks: int, batch: tf.Tensor) -> tf.Tensor:
    """Concatenate the rows of each field of each impression.

    Args:
        vectors: float32 [F b k, w], ordered by field, then impression, then row.
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
    """Standardise numbers, and append to each a flag that is 1 if the number is present.

    Args:
        values: float64 [b, D], as `features.keys.numbers` gives them.
        present: bool [b, D].
        means: float64 [D].
        stds: float64 [D], positive.

    Returns:
        float32 [b, 2 * D]: value, flag, value, flag, and so on; absent values are 0.
    """
    scaled = tf.clip_by_value((values - means) / stds, -LIMIT, LIMIT)
    flags = tf.cast(present, tf.float64)
    paired = tf.stack([tf.where(present, scaled, tf.zeros_like(scaled)), flags], axis=2)
    # The width is given, because [-1, 2 * D] is ambiguous for an empty batch.
    return tf.cast(tf.reshape(paired, [tf.shape(values)[0], 2 * values.shape[1]]), tf.float32)
