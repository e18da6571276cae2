"""p_uv of the cross graph's relations in a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from compression.export.stored import RowIndex
from training.models.cross_input import Encoding, Nodes, PairTable, pair_keys


class NodeEncoder(tf.Module):
    """One side of a relation's frozen encodings."""

    def __init__(self, nodes: Nodes) -> None:
        super().__init__()
        self._index = RowIndex(nodes.keys)
        self._rows = tf.Variable(nodes.table(), trainable=False)

    def __call__(self, keys: tf.Tensor) -> tf.Tensor:
        """Return float [batch, d + 1], as it is stored, for int64 [batch]: vectors and biases, zero for unknown nodes."""
        return tf.gather(self._rows, self._index(keys))


class RelationEncoder(tf.Module):
    """The frozen encodings of one relation."""

    def __init__(self, encoding: Encoding) -> None:
        super().__init__()
        self._left, self._right = NodeEncoder(encoding.left), NodeEncoder(encoding.right)
        self._mean = tf.Variable(encoding.mean, trainable=False, dtype=tf.float32)
        self._corrections = PairLookup(encoding.corrections) if encoding.corrections else None
        self._network = [
            tuple(tf.Variable(w, trainable=False, dtype=tf.float32) for w in layer)
            for layer in encoding.network
        ]

    def __call__(self, left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        """Return p_uv float32 [batch] for node keys int64 [batch] each."""
        predicted = cross_value(self._left(left), self._right(right), self._mean, self._network)
        return predicted + self._corrections(left, right) if self._corrections else predicted


class PairLookup(tf.Module):
    """A number of one relation's pairs as a table: the statistic, or corrections to what is predicted."""

    def __init__(self, table: PairTable) -> None:
        super().__init__()
        self._index = RowIndex(table.keys)
        self._values = tf.Variable(table.with_mean(), trainable=False)

    def __call__(self, left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        """Return the value float32 [batch] of pairs of node keys int64 [batch] each; the mean for unknown pairs."""
        return tf.cast(tf.gather(self._values, self._index(pair_keys(left, right))), tf.float32)


def cross_encoder(encoding: Encoding | PairTable) -> RelationEncoder | PairLookup:
    """Return what gives p_uv of node keys."""
    return PairLookup(encoding) if isinstance(encoding, PairTable) else RelationEncoder(encoding)


def cross_value(
    left: tf.Tensor, right: tf.Tensor, mean: tf.Tensor | float, network: Sequence[Any] = ()
) -> tf.Tensor:
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
    crossed = (
        _perceptron(left[:, :-1], right[:, :-1], product, network)
        if network
        else tf.reduce_sum(product, axis=1)
    )
    return crossed + left[:, -1] + right[:, -1] + tf.cast(mean, tf.float32)


def _perceptron(
    left: tf.Tensor, right: tf.Tensor, product: tf.Tensor, network: Sequence[Any]
) -> tf.Tensor:
    x = tf.concat([left, right, product], axis=1)
    for kernel, bias in network[:-1]:
        x = tf.nn.relu(tf.matmul(x, kernel) + bias)
    kernel, bias = network[-1]
    known = tf.reduce_any(left != 0, axis=1) & tf.reduce_any(right != 0, axis=1)
    return tf.where(known, (tf.matmul(x, kernel) + bias)[:, 0], 0.0)
