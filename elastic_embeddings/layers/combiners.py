"""Pooling of the vectors of a list into one vector."""

from __future__ import annotations

from typing import Literal, get_args

import tensorflow as tf

from elastic_embeddings.errors import InputError

Combiner = Literal["sum", "mean", "sqrtn"]


def checked_combiner(combiner: str | None) -> Combiner | None:
    """Return the argument.

    Raises:
        InputError: it is not None, "sum", "mean" or "sqrtn".
    """
    for known in (None, *get_args(Combiner)):
        if combiner == known:
            return known
    raise InputError(f"combiner is {combiner!r}: give None, 'sum', 'mean' or 'sqrtn'")


def pooled(vectors: tf.Tensor, lists: tf.Tensor, count: tf.Tensor, combiner: Combiner) -> tf.Tensor:
    """Return one vector per list, float32 [count, dim]; an empty list gives zeros.

    With k values in a list, present is what counts, whether or not a value has a row: the sum, the sum / k (`mean`) or the
    sum / √k (`sqrtn`), as in `tf.nn.embedding_lookup_sparse` with weights of 1.

    Args:
        vectors: float32 [m, dim], of all lists.
        lists: int32 [m], for each vector the list it belongs to, ascending.
        count: int32 scalar, how many lists there are.
        combiner: how.
    """
    summed = tf.math.unsorted_segment_sum(vectors, lists, count)
    if combiner == "sum":
        return summed
    sizes = tf.math.unsorted_segment_sum(tf.ones_like(lists, tf.float32), lists, count)[
        :, tf.newaxis
    ]
    return tf.math.divide_no_nan(summed, sizes if combiner == "mean" else tf.sqrt(sizes))
