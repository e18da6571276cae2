"""A slab in TensorFlow variables: gather and update are graph operations with GPU kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from elastic_embeddings.batch import Batch
from elastic_embeddings.errors import InputError
from elastic_embeddings.slabs.slab import SlabSpec, initial_vectors, state_width

_FIRST_CAPACITY = 1024
_FLOAT_BYTES = 4
_ROWS = tf.TensorSpec([None], tf.int32)


class DeviceSlab:
    """Variables float32 [capacity, dim] of weights and [capacity, S] of packed optimizer state.

    A step sends int32 rows to the device, and the initial vectors of new rows.

    Attributes:
        spec: specification of the slab.

    Raises:
        InputError: a 16-bit dtype, which only host slabs support.
    """

    def __init__(self, spec: SlabSpec) -> None:
        if spec.dtype != "float32":
            raise InputError(
                f"a slab on a device stores float32, not {spec.dtype}: "
                "use device='host' or dtype='float32'"
            )
        self.spec = spec
        # The static shape has no capacity, so that graphs that were traced before `ensure` stay
        # valid. Not trainable: no Keras optimizer may update them.
        self._weights, self._state = (
            tf.Variable(tf.zeros([_FIRST_CAPACITY, width]), shape=[None, width], trainable=False)
            for width in (spec.dim, state_width(spec))
        )
        self._weights.scatter_update(_row_0(spec.dim, spec.fallback))
        # With a signature there is one graph for batches of all sizes.
        self._gather = tf.function(
            self.gather_rows, input_signature=[_ROWS, _ROWS], autograph=False
        )
        gradients = tf.TensorSpec([None, spec.dim], tf.float32)
        signature = [_ROWS, _ROWS, gradients, tf.TensorSpec([], tf.int64), _ROWS]
        self._update = tf.function(self.update_rows, input_signature=signature, autograph=False)

    def gather_rows(self, rows: tf.Tensor, inverse: tf.Tensor) -> tf.Tensor:
        """Return the vectors float32 [n, dim] of `rows[inverse]`; int32 [U] and [n]. Graph op."""
        return tf.gather(self._weights, tf.gather(rows, inverse))

    def update_rows(
        self,
        rows: tf.Tensor,
        inverse: tf.Tensor,
        gradients: tf.Tensor,
        step: tf.Tensor,
        counts: tf.Tensor,
    ) -> None:
        """Run one optimizer step. A graph operation.

        Args:
            rows: int32 [U], distinct; row 0 may be among them and is not updated.
            inverse: int32 [n], positions in `rows`.
            gradients: float32 [n, dim]; those of one position are added.
            step: int64 scalar, 1 at the table's first step.
            counts: int32 [U], occurrences of the rows' keys.
        """
        # 1. Gather the rows, and one gradient for each.
        widths = self.spec.optimizer.slots(self.spec.dim)
        weights, state = tf.gather(self._weights, rows), tf.gather(self._state, rows)
        # Summed by row first: a step is not linear in the gradient, so that a step for each
        # occurrence would have another result.
        summed = tf.math.unsorted_segment_sum(gradients, inverse, tf.shape(weights)[0])
        # 2. Take the optimizer's step on the slots by name, and write everything back.
        slots = dict(zip(widths, tf.split(state, list(widths.values()), axis=1), strict=True))
        weights, slots = self.spec.optimizer.update(weights, slots, summed, step, counts)
        self._weights.scatter_update(tf.IndexedSlices(weights, rows))
        packed = tf.concat([slots[name] for name in widths], axis=1)
        self._state.scatter_update(tf.IndexedSlices(packed, rows))
        # Row 0 may have been updated above: restore it. Leaving it out would need a comparison of
        # int32 rows, which TensorFlow runs on the host.
        self._weights.scatter_update(_row_0(self.spec.dim, self.spec.fallback))
        self._state.scatter_update(_row_0(self._state.shape[1], 0.0))

    def ensure(self, rows: int) -> None:
        """Grow to the next power of two above `rows`; each variable is copied once."""
        capacity = int(tf.shape(self._weights)[0])
        if rows < capacity:
            return
        added = (1 << rows.bit_length()) - capacity
        # Zeros suffice: `initialise` writes a row before it is used.
        for variable in (self._weights, self._state):
            variable.assign(tf.concat([variable, tf.zeros([added, variable.shape[1]])], axis=0))

    def initialise(self, rows: NDArray[np.int32], keys: NDArray[np.int64], seed: int) -> None:
        """Write the initial vectors and state of rows int32 [k] with keys int64 [k]."""
        vectors = initial_vectors(keys, self.spec, seed)
        self.write(rows, vectors, self.spec.optimizer.initial_state(vectors))

    def gather(self, batch: Batch) -> tf.Tensor:
        """Return the vectors float32 [n, dim] of a batch's keys."""
        return self._gather(batch.rows, batch.inverse)

    def apply(self, batch: Batch, gradients: Any, step: int, seed: int) -> None:
        """Run one optimizer step on the batch's rows; see `Slab.apply`."""
        step_tensor = tf.constant(step, tf.int64)
        self._update(batch.rows, batch.inverse, gradients, step_tensor, batch.counts)

    def read_weights(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return weights [k, dim] of rows int32 [k]."""
        weights: NDArray[np.float32] = tf.gather(self._weights, rows).numpy()
        return weights

    vectors = read_weights

    def read_state(self, rows: NDArray[np.int32], columns: slice) -> NDArray[np.float32]:
        """Return columns of the packed state [k, c] of rows int32 [k]."""
        state: NDArray[np.float32] = tf.gather(self._state, rows).numpy()
        return state[:, columns]

    def write(self, rows: NDArray[np.int32], weights: NDArray[Any], state: NDArray[Any]) -> None:
        """Write weights [k, dim] and packed state [k, S] of rows int32 [k]."""
        if len(rows):
            self.ensure(int(rows.max()))
        self._weights.scatter_update(tf.IndexedSlices(tf.constant(weights), tf.constant(rows)))
        self._state.scatter_update(tf.IndexedSlices(tf.constant(state), tf.constant(rows)))

    def compact(self, old_rows: NDArray[np.int32]) -> None:
        """Move row `old_rows[i]` to row i + 1 and free the rows above k; ascending int32 [k]."""
        # Row 0, the fallback, stays. The variables become smaller and grow again by `ensure`.
        kept = np.concatenate([np.zeros(1, np.int32), old_rows])
        for variable in (self._weights, self._state):
            variable.assign(tf.gather(variable, kept))

    def nbytes(self, rows: int) -> tuple[int, int]:
        """Return the allocated bytes of weights and of optimizer state, whatever `rows` is."""
        capacity = int(tf.shape(self._weights)[0])
        row_bytes = self.spec.dim * _FLOAT_BYTES, state_width(self.spec) * _FLOAT_BYTES
        return capacity * row_bytes[0], capacity * row_bytes[1]


def _row_0(width: int, value: float) -> tf.IndexedSlices:
    return tf.IndexedSlices(tf.fill([1, width], value), tf.constant([0]))
