"""Stock TensorFlow's `MutableHashTable` as the store: one table for the vectors, one for each of Adam's moments."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from elastic_peers.dense_tf import BETA_1, BETA_2, EPSILON, LEARNING_RATE, DenseTf, dense_step
from elastic_peers.worker import Step
from elastic_peers.workload import Traffic, Workload, initial_layers, initial_vectors, keys_of

_PREFILL = 200_000


def create(work: Workload, drawn: Traffic) -> MutableHashTable:
    """Return the system, its table filled."""
    return MutableHashTable(work, drawn)


class MutableHashTable:
    """Three tables for all MLPs; a step finds and inserts each distinct row in every one of them."""

    def __init__(self, work: Workload, drawn: Traffic) -> None:
        self._work, self._drawn = work, drawn
        self._batches = [
            (tf.constant(k), tf.constant(label))
            for k, label in zip(drawn.keys, drawn.labels, strict=True)
        ]
        zeros = tf.zeros([work.dim])
        self._tables = [
            tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, zeros) for _ in range(3)
        ]
        self._prefill()

    def step(self, mlp: str) -> Step:
        """Return the whole step, one `tf.function`."""
        dense = DenseTf(initial_layers(self._work, mlp))

        @tf.function
        def step(keys: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
            """Take one step; return its loss."""
            distinct, inverse = tf.unique(keys)
            rows, m, v = (table.lookup(distinct) for table in self._tables)
            inputs = tf.reshape(tf.gather(rows, inverse), [self._work.batch, -1])
            loss, by_inputs, by_variables = dense.loss_and_gradients(inputs, label)
            steps = dense.apply(by_variables)
            flat = tf.reshape(by_inputs, [-1, self._work.dim])
            gradients = tf.math.unsorted_segment_sum(flat, inverse, tf.shape(distinct)[0])
            for table, values in zip(
                self._tables, _adam(rows, m, v, gradients, steps), strict=True
            ):
                table.insert(distinct, values)
            return loss

        return lambda number: float(step(*self._batches[number]))

    def dense(self, mlp: str) -> Step:
        """Return the dense part of an MLP."""
        return dense_step(self._work, self._drawn, mlp)

    def _prefill(self) -> None:
        vectors = initial_vectors(self._work, self._work.rows)
        for first in range(0, self._work.rows, _PREFILL):
            part = vectors[first : first + _PREFILL]
            keys = keys_of(np.arange(first, first + len(part)))
            self._tables[0].insert(keys, part)
            for table in self._tables[1:]:
                table.insert(keys, np.zeros_like(part))


def _adam(
    rows: tf.Tensor, m: tf.Tensor, v: tf.Tensor, gradients: tf.Tensor, steps: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    t = tf.cast(steps, tf.float32)
    rate = LEARNING_RATE * tf.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
    m = BETA_1 * m + (1 - BETA_1) * gradients
    v = BETA_2 * v + (1 - BETA_2) * tf.square(gradients)
    return rows - rate * m / (tf.sqrt(v) + EPSILON), m, v
