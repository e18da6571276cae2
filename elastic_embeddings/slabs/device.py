"""A slab in TensorFlow variables: the step's gather and update as graph operations that all have GPU kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from elastic_embeddings.batch import Batch
from elastic_embeddings.errors import InputError
from elastic_embeddings.slabs.slab import SlabSpec, initial_vectors, state_width

_FIRST_CAPACITY = 1024


class DeviceSlab:
    """Variables float32 [capacity, dim] of weights and [capacity, S] of packed optimizer state. Row 0 is the fallback.

    Their static shape is [None, ...], so a `tf.function` that gathers and updates goes on after `ensure`. They are not
    trainable: no Keras optimizer ever sees them. Per step int32 rows travel to the device, and once each new row's vector.

    Attributes:
        spec: what the slab is made of.

    Raises:
        InputError: a 16-bit dtype, which only host slabs store.
    """

    def __init__(self, spec: SlabSpec) -> None:
        if spec.dtype != "float32":
            raise InputError(
                f"a slab on a device stores float32, not {spec.dtype}: use device='host' or dtype='float32'"
            )
        self.spec = spec
        self._weights, self._state = _variable(spec.dim), _variable(state_width(spec))
        self._weights.scatter_update(_row_0(spec.dim, spec.fallback))
        self._gather = tf.function(
            self.gather_rows, input_signature=[_ROWS, _ROWS], autograph=False
        )
        gradients = tf.TensorSpec([None, spec.dim], tf.float32)
        signature = [_ROWS, _ROWS, gradients, tf.TensorSpec([], tf.int64), _ROWS]
        self._update = tf.function(self.update_rows, input_signature=signature, autograph=False)

    def gather_rows(self, rows: tf.Tensor, inverse: tf.Tensor) -> tf.Tensor:
        """Return vectors float32 [n, dim] of distinct rows int32 [U] and places int32 [n]. A graph operation."""
        return tf.gather(self._weights, tf.gather(rows, inverse))

    def update_rows(
        self,
        rows: tf.Tensor,
        inverse: tf.Tensor,
        gradients: tf.Tensor,
        step: tf.Tensor,
        counts: tf.Tensor,
    ) -> None:
        """Take one optimizer step. A graph operation.

        Args:
            rows: int32 [U], distinct; row 0 may be among them and gets no update.
            inverse: int32 [n], places in `rows`.
            gradients: float32 [n, dim]; those of one place add up.
            step: int64 scalar, 1 at the table's first step.
            counts: int32 [U], occurrences of the rows' keys.
        """
        widths = self.spec.optimizer.slots(self.spec.dim)
        weights, state = tf.gather(self._weights, rows), tf.gather(self._state, rows)
        summed = tf.math.unsorted_segment_sum(gradients, inverse, tf.shape(weights)[0])
        slots = dict(zip(widths, tf.split(state, list(widths.values()), axis=1), strict=True))
        learned, slots = self.spec.optimizer.update(weights, slots, summed, step, counts)
        packed = tf.concat([slots[name] for name in widths], axis=1)
        for variable, values, untaught in (
            (self._weights, learned, self.spec.fallback),
            (self._state, packed, 0.0),
        ):
            variable.scatter_update(tf.IndexedSlices(values, rows))
            # row 0 learned what it must not; to compare int32 rows would be host work on a GPU
            variable.scatter_update(_row_0(variable.shape[1], untaught))

    def ensure(self, rows: int) -> None:
        """Make room for rows up to and including `rows`, by doubling; a copy of each variable exists for a moment."""
        capacity = int(tf.shape(self._weights)[0])
        if rows < capacity:
            return
        more = (1 << rows.bit_length()) - capacity
        for variable in (self._weights, self._state):
            variable.assign(tf.concat([variable, tf.zeros([more, variable.shape[1]])], axis=0))

    def initialise(self, rows: NDArray[np.int32], keys: NDArray[np.int64], seed: int) -> None:
        """Write the initial vectors of rows int32 [k], which depend on keys int64 [k] and the seed alone, and fresh state."""
        vectors = initial_vectors(keys, self.spec, seed)
        self.write(rows, vectors, self.spec.optimizer.initial_state(vectors))

    def gather(self, batch: Batch) -> tf.Tensor:
        """Return the vectors float32 [n, dim] of a batch's keys; zeros where a key has no row."""
        return self._gather(batch.rows, batch.inverse)

    def vectors(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the vectors float32 [k, dim] of rows int32 [k]."""
        return self.read_weights(rows)

    def apply(self, batch: Batch, gradients: Any, step: int) -> None:
        """Take one optimizer step on the batch's rows; gradients float32 [n, dim] of repeated keys add up."""
        self._update(
            batch.rows, batch.inverse, gradients, tf.constant(step, tf.int64), batch.counts
        )

    def read_weights(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return weights [k, dim] of rows int32 [k]."""
        return tf.gather(self._weights, rows).numpy()

    def read_state(self, rows: NDArray[np.int32], columns: slice) -> NDArray[np.float32]:
        """Return columns of the packed state [k, c] of rows int32 [k]."""
        return tf.gather(self._state, rows).numpy()[:, columns]

    def write(self, rows: NDArray[np.int32], weights: NDArray[Any], state: NDArray[Any]) -> None:
        """Write weights [k, dim] and packed state [k, S] of rows int32 [k]."""
        if len(rows):
            self.ensure(int(rows.max()))
        self._weights.scatter_update(tf.IndexedSlices(tf.constant(weights), tf.constant(rows)))
        self._state.scatter_update(tf.IndexedSlices(tf.constant(state), tf.constant(rows)))

    def compact(self, old_rows: NDArray[np.int32]) -> None:
        """Move row `old_rows[i]` to row i + 1, for ascending int32 [k], and give the memory behind row k back."""
        kept = np.concatenate([np.zeros(1, np.int32), old_rows])
        for variable in (self._weights, self._state):
            variable.assign(tf.gather(variable, kept))

    def nbytes(self, rows: int) -> tuple[int, int]:
        """Return the allocated bytes of weights and of optimizer state; doubling may hold more than `rows` rows."""
        capacity = int(tf.shape(self._weights)[0])
        return capacity * self.spec.dim * _FLOAT, capacity * state_width(self.spec) * _FLOAT


_ROWS = tf.TensorSpec([None], tf.int32)
_FLOAT = 4


def _row_0(width: int, value: float) -> tf.IndexedSlices:
    return tf.IndexedSlices(tf.fill([1, width], value), tf.constant([0]))


def _variable(width: int) -> tf.Variable:
    return tf.Variable(tf.zeros([_FIRST_CAPACITY, width]), shape=[None, width], trainable=False)
