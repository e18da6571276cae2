"""The two executions of an optimizer behind one interface, and batches with repeated keys."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import tensorflow as tf

from elastic_embeddings.optimizers.row_storage import decode, encode


@dataclass(frozen=True)
class RowBatch:
    """Distinct rows and gradients [n, dim] of occurrences, grouped as in `ElasticTable`."""

    rows: np.ndarray
    inverse: np.ndarray
    gradients: np.ndarray
    counts: np.ndarray

    @property
    def order(self):
        return np.argsort(self.inverse, kind="stable").astype(np.int32)

    @property
    def offsets(self):
        occurrences = np.bincount(self.inverse, minlength=len(self.rows))
        return np.concatenate([[0], np.cumsum(occurrences)]).astype(np.int32)

    def sums(self):
        """Float64 [U, dim]."""
        total = np.zeros((len(self.rows), self.gradients.shape[1]))
        np.add.at(total, self.inverse, self.gradients.astype(np.float64))
        return total


def batches(rng, rows, dim, steps, scale=0.1):
    """Yield batches with repeats; the probability of a row grows with its number, 0 to rows.

    Gradients are larger in the first tenth of the steps, so that second moments also fall.
    """
    seen = np.zeros(rows + 1, np.int32)
    for step in range(steps):
        some = np.flatnonzero(rng.random(rows + 1) < np.linspace(0.05, 0.9, rows + 1)).astype(
            np.int32
        )
        some = rng.permutation(some if len(some) else np.array([1], np.int32))
        inverse = np.concatenate([np.arange(len(some)), rng.integers(0, len(some), len(some) // 2)])
        inverse = rng.permutation(inverse).astype(np.int32)
        np.add.at(seen, some[inverse], 1)
        kept = rng.random((len(inverse), dim)) < 0.8
        gradients = (
            rng.normal(0, scale * (3 if 10 * step < steps else 1), (len(inverse), dim)) * kept
        ).astype(np.float32)
        yield RowBatch(some, inverse, gradients, seen[some])


class HostRows:
    """Rows in host memory, updated by the compiled kernel in several ranges."""

    def __init__(self, optimizer, weights, storage="float32", seed=0, ranges=3):
        self.optimizer, self.storage, self.seed, self.ranges = optimizer, storage, seed, ranges
        start = np.vstack([np.zeros((1, weights.shape[1])), weights]).astype(np.float32)
        self.stored = [encode(array, storage) for array in (start, optimizer.initial_state(start))]

    def learn(self, batch, step):
        dim = batch.gradients.shape[1]
        kernel = self.optimizer.row_kernel(dim, step, self.storage, self.seed)
        arrays = (
            *self.stored,
            batch.rows,
            batch.rows[batch.inverse].astype(np.int64),  # a row's number is its key
            batch.order,
            batch.offsets,
            batch.gradients,
            batch.counts,
        )
        cuts = np.linspace(0, len(batch.rows), self.ranges + 1).astype(int)
        for low, high in reversed(list(pairwise(cuts))):
            kernel(*arrays, int(low), int(high))

    @property
    def weights(self):
        return decode(self.stored[0], self.storage)

    @property
    def state(self):
        return decode(self.stored[1], self.storage)


class GraphRows:
    """Rows in arrays, updated by the graph execution."""

    def __init__(self, optimizer, weights, dtype=np.float32):
        self.optimizer = optimizer
        self.weights = np.vstack([np.zeros((1, weights.shape[1])), weights]).astype(dtype)
        self.state = optimizer.initial_state(self.weights).astype(dtype)
        widths = optimizer.slots(weights.shape[1])
        self.columns = dict(
            zip(
                widths,
                np.split(np.arange(self.state.shape[1]), np.cumsum(list(widths.values()))[:-1]),
                strict=True,
            )
        )
        self._update = tf.function(optimizer.update, reduce_retracing=True)

    def learn(self, batch, step):
        keep = batch.rows > 0
        rows = batch.rows[keep]
        summed = tf.constant(batch.sums()[keep], self.weights.dtype)
        slots = {
            name: tf.constant(self.state[np.ix_(rows, columns)])
            for name, columns in self.columns.items()
        }
        step, counts = tf.constant(step, tf.int64), tf.constant(batch.counts[keep])
        new, slots = self._update(tf.constant(self.weights[rows]), slots, summed, step, counts)
        self.weights[rows] = new
        self.state[rows] = np.concatenate([slots[name] for name in self.columns], axis=1)
