"""p_uv of a pair of nodes as TensorFlow operations: the CrossNet of PCF-GNN in the exported graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


def cross_value(left: tf.Tensor, right: tf.Tensor, mean: tf.Tensor | float, network: Sequence[Any] = ()) -> tf.Tensor:
    """Return p_uv = mean + b_u + b_v + CrossNet(h_u, h_v) of pairs of nodes.

    Args:
        left: float [b, d + 1], rows of `Nodes.table()` of the left nodes (zero: unknown).
        right: float [b, d + 1], the same of the right nodes.
        mean: the relation's mean statistic.
        network: the CrossNet's kernels and biases; none: the dot product. A pair with an unknown node gets no CrossNet term:
            the mean, and the other node's bias.

    Returns:
        float32 [b].
    """
    left, right = tf.cast(left, tf.float32), tf.cast(right, tf.float32)
    product = left[:, :-1] * right[:, :-1]
    crossed = _perceptron(left[:, :-1], right[:, :-1], product, network) if network else tf.reduce_sum(product, axis=1)
    return crossed + left[:, -1] + right[:, -1] + tf.cast(mean, tf.float32)


def _perceptron(left: tf.Tensor, right: tf.Tensor, product: tf.Tensor, network: Sequence[Any]) -> tf.Tensor:
    x = tf.concat([left, right, product], axis=1)
    for kernel, bias in network[:-1]:
        x = tf.nn.relu(tf.matmul(x, kernel) + bias)
    kernel, bias = network[-1]
    known = tf.reduce_any(left != 0, axis=1) & tf.reduce_any(right != 0, axis=1)
    return tf.where(known, (tf.matmul(x, kernel) + bias)[:, 0], 0.0)
