"""Systems on TensorFlow alone: the dense part, Keras' Embedding, MutableHashTable as the store."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from elastic_peers.worker import Step
from elastic_peers.workload import (
    Layers,
    Traffic,
    Workload,
    initial_layers,
    initial_vectors,
    keys_of,
)

LEARNING_RATE, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.999, 1e-8


class DenseTf:
    """ReLU layers to one logit, with Adam as TensorFlow's fused kernel (`ResourceApplyAdam`)."""

    def __init__(self, layers: Layers) -> None:
        self.variables = [tf.Variable(array) for layer in layers for array in layer]
        self._moments = [
            (tf.Variable(tf.zeros_like(v)), tf.Variable(tf.zeros_like(v))) for v in self.variables
        ]
        self._steps = tf.Variable(0, dtype=tf.int64)

    def logits(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return float32 [batch] for inputs float32 [batch, fields · dim]."""
        *hidden, last = zip(self.variables[::2], self.variables[1::2], strict=True)
        for weights, bias in hidden:
            inputs = tf.nn.relu(tf.matmul(inputs, weights) + bias)
        return tf.squeeze(tf.matmul(inputs, last[0]) + last[1], axis=1)

    def loss_and_gradients(
        self, inputs: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Return the mean loss, its gradient by the inputs and those by the variables."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([inputs, *self.variables])
            loss = mean_loss(labels, self.logits(inputs))
        by_inputs, *by_variables = tape.gradient(loss, [inputs, *self.variables])
        return loss, by_inputs, by_variables

    def apply(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        """Take one step of Adam on the variables; return how many were taken, int64."""
        steps = self._steps.assign_add(1)
        power_1, power_2 = (
            tf.cast(tf.cast(beta, tf.float64) ** tf.cast(steps, tf.float64), tf.float32)
            for beta in (BETA_1, BETA_2)
        )
        for variable, (m, v), gradient in zip(
            self.variables, self._moments, gradients, strict=True
        ):
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle, m=m.handle, v=v.handle, beta1_power=power_1, beta2_power=power_2,
                lr=LEARNING_RATE, beta1=BETA_1, beta2=BETA_2, epsilon=EPSILON, grad=gradient,
            )  # fmt: skip
        return steps


def mean_loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean sigmoid cross-entropy, a scalar."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))


def dense_step(work: Workload, drawn: Traffic, mlp: str) -> Step:
    """Return the dense part alone: forward, gradients of variables and input, Adam, on a ready
    random input.
    """
    dense = DenseTf(initial_layers(work, mlp))
    inputs = tf.random.stateless_uniform(
        [work.batch, work.fields * work.dim], [work.seed, 0], -0.01, 0.01
    )
    labels = [tf.constant(label) for label in drawn.labels]

    @tf.function
    def step(inputs: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Take one step; return its loss."""
        loss, by_inputs, by_variables = dense.loss_and_gradients(inputs, label)
        dense.apply(by_variables)
        return (
            loss,
            by_inputs,
        )  # returned, or the graph would drop the gradient that an embedding needs

    return lambda number: float(step(inputs, labels[number])[0])


class Dense:
    """No table at all."""

    def __init__(self, work: Workload, drawn: Traffic) -> None:
        self._work, self._drawn = work, drawn

    def step(self, mlp: str) -> Step:
        """Return the same as `dense`: there is nothing more."""
        return self.dense(mlp)

    def dense(self, mlp: str) -> Step:
        """Return the dense part of an MLP."""
        return dense_step(self._work, self._drawn, mlp)


class KerasEmbedding:
    """A fresh model of a share of the rows for each MLP; ids beyond them wrap around, as the
    hashing trick does.
    """

    def __init__(self, work: Workload, drawn: Traffic, share: str) -> None:
        rows = int(work.rows * float(share))
        self._work, self._drawn, self._rows = work, drawn, rows
        ids = (drawn.ids % rows).astype(np.int32).reshape(work.batches, work.batch, work.fields)
        self._batches = [
            (tf.constant(i), tf.constant(label)) for i, label in zip(ids, drawn.labels, strict=True)
        ]

    def step(self, mlp: str) -> Step:
        """Return the step of a Keras model in a `tf.function`, without what `model.fit` adds."""
        model, optimizer = self._model(mlp), tf.keras.optimizers.Adam(1e-3, epsilon=1e-8)
        optimizer.build(model.trainable_variables)

        @tf.function
        def step(ids: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
            """Take one step; return its loss."""
            with tf.GradientTape() as tape:
                loss = mean_loss(label, tf.squeeze(model(ids, training=True), axis=1))
            optimizer.apply(
                tape.gradient(loss, model.trainable_variables), model.trainable_variables
            )
            return loss

        return lambda number: float(step(*self._batches[number]))

    def dense(self, mlp: str) -> Step:
        """Return the dense part of an MLP."""
        return dense_step(self._work, self._drawn, mlp)

    def _model(self, mlp: str) -> tf.keras.Model:
        layers = initial_layers(self._work, mlp)
        initial = tf.keras.initializers.RandomUniform(-0.01, 0.01, seed=self._work.seed)
        embedding = tf.keras.layers.Embedding(
            self._rows, self._work.dim, embeddings_initializer=initial
        )
        dense = [tf.keras.layers.Dense(len(bias), "relu") for _, bias in layers[:-1]] + [
            tf.keras.layers.Dense(1)
        ]
        model = tf.keras.Sequential(
            [
                tf.keras.Input([self._work.fields], dtype="int32"),
                embedding,
                tf.keras.layers.Flatten(),
                *dense,
            ]
        )
        for layer, weights in zip(dense, layers, strict=True):
            layer.set_weights(list(weights))
        return model


_PREFILL = 200_000


class MutableHashTable:
    """Three tables for all MLPs; a step looks up and inserts each distinct row in each."""

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
