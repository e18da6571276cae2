"""TensorFlow Recommenders Addons 0.8.1: a cuckoo hash table as the trainable store, through its
Keras layer.

Needs TF_USE_LEGACY_KERAS=1 and the legacy Adam; both are what its documentation asks for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow_recommenders_addons import dynamic_embedding as de

from elastic_peers.tf_systems import (
    BETA_1,
    BETA_2,
    EPSILON,
    LEARNING_RATE,
    DenseTf,
    dense_step,
    mean_loss,
)
from elastic_peers.worker import Step
from elastic_peers.workload import Traffic, Workload, initial_layers, initial_vectors, keys_of

_PREFILL = 200_000


class Tfra:
    """One dynamic embedding and its moments for all MLPs."""

    def __init__(self, work: Workload, drawn: Traffic) -> None:
        self._work, self._drawn = work, drawn
        keys = drawn.keys.reshape(work.batches, work.batch, work.fields)
        self._batches = [
            (tf.constant(k), tf.constant(label))
            for k, label in zip(keys, drawn.labels, strict=True)
        ]
        self._layer = de.keras.layers.Embedding(
            work.dim, initializer=tf.keras.initializers.RandomUniform(-0.01, 0.01)
        )
        adam = tf.keras.optimizers.legacy.Adam(LEARNING_RATE, BETA_1, BETA_2, EPSILON)
        self._optimizer = de.DynamicEmbeddingOptimizer(adam)
        self._fill(self._layer.params, initial_vectors(work, work.rows))

    def step(self, mlp: str) -> Step:
        """Return the whole step, one `tf.function`."""
        dense = DenseTf(initial_layers(self._work, mlp))

        @tf.function
        def step(keys: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
            """Take one step; return its loss."""
            with tf.GradientTape() as tape:
                inputs = tf.reshape(self._layer(keys), [self._work.batch, -1])
                loss = mean_loss(label, dense.logits(inputs))
            embedding = self._layer.trainable_variables
            gradients = tape.gradient(loss, [*embedding, *dense.variables])
            dense.apply(gradients[len(embedding) :])
            self._optimizer.apply_gradients(
                zip(gradients[: len(embedding)], embedding, strict=True)
            )
            return loss

        self._fill_moments(step)
        return lambda number: float(step(*self._batches[number]))

    def dense(self, mlp: str) -> Step:
        """Return the dense part of an MLP, in this environment's TensorFlow."""
        return dense_step(self._work, self._drawn, mlp)

    def _fill_moments(self, step: Callable[..., tf.Tensor]) -> None:
        """Give every row its moments; their tables come to be with the first step."""
        step(*self._batches[0])
        for moments in (
            self._layer.optimizer_vars
        ):  # get_slot_variables() refuses its own optimizer on TF 2.16
            if int(moments.size()) < self._work.rows:
                self._fill(moments, np.zeros((self._work.rows, self._work.dim), np.float32))

    def _fill(self, table: de.Variable, vectors: NDArray[np.float32]) -> None:
        for first in range(0, self._work.rows, _PREFILL):
            part = vectors[first : first + _PREFILL]
            table.upsert(
                tf.constant(keys_of(np.arange(first, first + len(part)))), tf.constant(part)
            )
