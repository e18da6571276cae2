"""Does what is timed compute what it says? Against float64 NumPy written from the papers, and with other thread counts.

The reference is a model of its own: lazy Adam (only the batch's rows; bias correction by the table's step) on the vectors, and
Adam on an MLP differentiated by hand. Kingma, Ba: Adam, ICLR 2015, with "epsilon hat".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from elastic_embeddings import ElasticTable
from elastic_embeddings.core.threads import set_threads
from elastic_peers.dense_tf import BETA_1, BETA_2, EPSILON, LEARNING_RATE, DenseTf
from elastic_peers.systems.ours import L21, new_table
from elastic_peers.workload import Traffic, Workload, initial_layers, traffic

_WORK = Workload(rows=3000, fields=6, dim=8, batch=256, smallest=100, batches=20, hidden=("16x8",))
_LARGE = Workload(
    rows=100_000, dim=8, batch=1024, smallest=500, batches=20, hidden=("16x8",)
)  # or nothing would be split
_LARGE_STEPS = 40
_THREADS = (1, 2, 4)
Float64 = NDArray[np.float64]


def measure(steps: int) -> dict[str, Any]:
    """Return the largest difference of a vector from the reference, and whether 1, 2 and 4 threads give the same bytes."""
    drawn = traffic(_LARGE)
    trained = {_trained_bytes(drawn, threads, min(steps, _LARGE_STEPS)) for threads in _THREADS}
    return {
        "steps": steps,
        "max_difference": largest_difference(steps),
        "same_for_1_2_4_threads": len(trained) == 1,
    }


def largest_difference(steps: int) -> float:
    """Return the largest difference of a number in a vector, without group lasso, after so many steps."""
    drawn = traffic(_WORK)
    keys, places = np.unique(drawn.keys, return_inverse=True)
    fresh = new_table(_WORK.dim, l21=0)
    fresh.prepare(keys)
    expected = _reference(
        fresh.lookup(keys).astype(np.float64), places.reshape(drawn.keys.shape), drawn.labels, steps
    )
    table = new_table(_WORK.dim, l21=0)
    train(table, _WORK, drawn, steps)
    seen = np.isin(keys, table.keys())
    return float(np.abs(table.lookup(keys)[seen] - expected[seen]).max())


def train(table: ElasticTable, work: Workload, drawn: Traffic, steps: int) -> None:
    """Train the table and an MLP on the batches, round and round."""
    dense = DenseTf(initial_layers(work, work.hidden[0]))
    for number in range(steps):
        keys, labels = drawn.keys[number % work.batches], drawn.labels[number % work.batches]
        batch = table.prepare(keys)
        inputs = tf.constant(table.lookup(keys).reshape(work.batch, -1))
        _, by_inputs, by_variables = dense.loss_and_gradients(inputs, tf.constant(labels))
        dense.apply(by_variables)
        table.apply_gradients(batch, by_inputs.numpy().reshape(len(keys), -1))


def _trained_bytes(drawn: Traffic, threads: int, steps: int) -> bytes:
    set_threads(threads)
    table = new_table(_LARGE.dim, l21=L21)
    train(table, _LARGE, drawn, steps)
    return table.lookup(np.unique(drawn.keys)).tobytes()


def _reference(
    vectors: Float64, places: NDArray[np.int64], labels: NDArray[np.float32], steps: int
) -> Float64:
    weights = [
        array.astype(np.float64)
        for layer in initial_layers(_WORK, _WORK.hidden[0])
        for array in layer
    ]
    moments = [np.zeros((2, *array.shape)) for array in (vectors, *weights)]
    for step in range(1, steps + 1):
        rows = places[(step - 1) % _WORK.batches]
        gradients = _gradients(
            vectors[rows].reshape(_WORK.batch, -1), weights, labels[(step - 1) % _WORK.batches]
        )
        touched, inverse = np.unique(rows, return_inverse=True)
        summed = np.zeros((len(touched), _WORK.dim))
        np.add.at(summed, inverse, gradients[0].reshape(-1, _WORK.dim))
        moments[0][:, touched], vectors[touched] = _adam(
            moments[0][:, touched], vectors[touched], summed, step
        )
        for i, gradient in enumerate(gradients[1:]):
            moments[i + 1], weights[i] = _adam(moments[i + 1], weights[i], gradient, step)
    return vectors


def _adam(
    moments: Float64, weights: Float64, gradients: Float64, step: int
) -> tuple[Float64, Float64]:
    m = BETA_1 * moments[0] + (1 - BETA_1) * gradients
    v = BETA_2 * moments[1] + (1 - BETA_2) * gradients**2
    rate = LEARNING_RATE * np.sqrt(1 - BETA_2**step) / (1 - BETA_1**step)
    return np.stack([m, v]), weights - rate * m / (np.sqrt(v) + EPSILON)


def _gradients(
    inputs: Float64, weights: list[Float64], labels: NDArray[np.float32]
) -> list[Float64]:
    """Return the gradients of the mean sigmoid cross-entropy by the inputs and by each weight and bias."""
    activations = [inputs]
    for weight, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        activations.append(np.maximum(activations[-1] @ weight + bias, 0))
    logits = (activations[-1] @ weights[-2] + weights[-1])[:, 0]
    back = ((1 / (1 + np.exp(-logits)) - labels) / len(labels))[:, np.newaxis]
    by_weights: list[Float64] = []
    for weight, below in zip(weights[-2::-2], activations[::-1], strict=True):
        by_weights[:0] = [below.T @ back, back.sum(axis=0)]
        back = (back @ weight.T) * ((below > 0) if below is not inputs else 1)
    return [back, *by_weights]
