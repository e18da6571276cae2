"""Keras' own `Embedding` and Adam: a table of fixed size whose optimizer passes over every row at every step."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from elastic_peers.dense_tf import dense_step, mean_loss
from elastic_peers.worker import Step
from elastic_peers.workload import Traffic, Workload, initial_layers


def create(work: Workload, drawn: Traffic, share: str) -> KerasEmbedding:
    """Return the system with a share of the work's rows, such as 0.25."""
    return KerasEmbedding(work, drawn, int(work.rows * float(share)))


class KerasEmbedding:
    """A fresh model of `rows` rows for each MLP; ids beyond them wrap around, as the hashing trick does."""

    def __init__(self, work: Workload, drawn: Traffic, rows: int) -> None:
        self._work, self._drawn, self._rows = work, drawn, rows
        ids = (drawn.ids % rows).astype(np.int32).reshape(work.batches, work.batch, work.fields)
        self._batches = [
            (tf.constant(i), tf.constant(label)) for i, label in zip(ids, drawn.labels, strict=True)
        ]

    def step(self, mlp: str) -> Step:
        """Return the step of a Keras model in a `tf.function`, without what `model.fit` adds."""
        model, optimizer = self._model(mlp), keras.optimizers.Adam(1e-3, epsilon=1e-8)
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

    def _model(self, mlp: str) -> keras.Model:
        layers = initial_layers(self._work, mlp)
        initial = keras.initializers.RandomUniform(-0.01, 0.01, seed=self._work.seed)
        embedding = keras.layers.Embedding(
            self._rows, self._work.dim, embeddings_initializer=initial
        )
        dense = [keras.layers.Dense(len(bias), "relu") for _, bias in layers[:-1]] + [
            keras.layers.Dense(1)
        ]
        model = keras.Sequential(
            [
                keras.Input([self._work.fields], dtype="int32"),
                embedding,
                keras.layers.Flatten(),
                *dense,
            ]
        )
        for layer, weights in zip(dense, layers, strict=True):
            layer.set_weights(list(weights))
        return model
