"""Ours: an `ElasticTable` with group-lasso Adam, its keys prepared ahead of the step in another thread."""

from __future__ import annotations

from itertools import cycle

import numpy as np
import tensorflow as tf

from elastic_embeddings import Batch, ElasticTable, GroupAdam, SlabSpec
from elastic_embeddings.slabs.slab import as_tensor
from elastic_peers.dense_tf import LEARNING_RATE, DenseTf, dense_step
from elastic_peers.worker import Step
from elastic_peers.workload import Traffic, Workload, initial_layers, keys_of
from training.fit.learner import ahead

L21 = 1e-7  # the cost of a step does not depend on it
INIT_SCALE = 0.01
_PREFILL = 200_000
_FIRST_GRADIENT = 1e-5  # none at all would leave the group lasso no reason to keep a row


def create(work: Workload, drawn: Traffic) -> Ours:
    """Return the system, its table filled."""
    return Ours(work, drawn)


def new_table(dim: int, l21: float = L21, seed: int = 17) -> ElasticTable:
    """Return an empty table as this benchmark measures it."""
    return ElasticTable(SlabSpec(dim, GroupAdam(LEARNING_RATE, l21=l21), INIT_SCALE), seed=seed)


def fill(table: ElasticTable, first: int, last: int, dim: int, part: int = _PREFILL) -> None:
    """Give the keys of ids first … last - 1 a row each, in that order, by a step with a small random gradient a part."""
    gradients = (
        np.random.default_rng(first).standard_normal((part, dim)) * _FIRST_GRADIENT
    ).astype(np.float32)
    for start in range(first, last, part):
        keys = keys_of(np.arange(start, min(start + part, last)))
        table.apply_gradients(table.prepare(keys), gradients[: len(keys)])


class Ours:
    """One table for all MLPs; batches come from one stream, in order."""

    def __init__(self, work: Workload, drawn: Traffic) -> None:
        self._work, self._drawn = work, drawn
        self._labels = [tf.constant(label) for label in drawn.labels]
        self._table = new_table(work.dim)
        fill(self._table, 0, work.rows, work.dim)
        self._stream = ahead(self._prepare, cycle(enumerate(drawn.keys)))

    def step(self, mlp: str) -> Step:
        """Return the whole step: rows gathered on the host, one `tf.function` for the dense part, rows updated on the host."""
        dense = DenseTf(initial_layers(self._work, mlp))
        shape = [self._work.batch, self._work.fields * self._work.dim]

        @tf.function(input_signature=[tf.TensorSpec(shape), tf.TensorSpec(shape[:1])])
        def learn(inputs: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            """Return the loss and the gradients of the vectors; the dense weights learn."""
            loss, by_inputs, by_variables = dense.loss_and_gradients(inputs, label)
            dense.apply(by_variables)
            return loss, by_inputs

        def step(_: int) -> float:
            """Take one step; return its loss."""
            number, prepared = next(self._stream)
            batch = self._table.begin(prepared)
            vectors = self._table.gather(batch)
            loss, gradients = learn(as_tensor(vectors.reshape(shape)), self._labels[number])
            self._table.apply(batch, {"vectors": gradients})
            return float(loss)

        return step

    def dense(self, mlp: str) -> Step:
        """Return the dense part of an MLP."""
        return dense_step(self._work, self._drawn, mlp)

    def _prepare(self, numbered: tuple[int, np.ndarray]) -> tuple[int, Batch]:
        number, keys = numbered
        return number, self._table.prepare(keys, ahead=True)
