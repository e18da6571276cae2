"""A table's part of a training step, as graph operations.

The forward pass returns vectors, the backward pass updates the rows. The optimizer is fused into
the backward pass, as in FBGEMM's table-batched embeddings (github.com/pytorch/FBGEMM): the rows'
gradients are used where they arise, and no variable of the table's size ever has a gradient. A
tape runs the backward pass because of a scalar weight, the handle, whose gradient is always 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from elastic_embeddings.batch import Batch
from elastic_embeddings.errors import InputError
from elastic_embeddings.layers.prefetch import PreparedQueue
from elastic_embeddings.slabs.device import DeviceSlab
from elastic_embeddings.table import ElasticTable

Vectors = dict[str, tf.Tensor]
StepOutput = tuple[list[tf.Tensor], Callable[..., tf.Tensor]]
"""Vectors by slab, and the function from their gradients to the gradient of the handle."""

_NO_OPEN_STEP = (
    "a backward pass of an ElasticEmbedding came twice, or after another training pass of the same "
    "layer: call the layer once per step and take its gradient once; give several inputs in one "
    "call, as a dictionary (share= if one vocabulary)"
)


class RowSteps:
    """Training steps and lookups of one table. A step is a forward pass, then its backward pass.

    The pass over the index runs on the host (`tf.numpy_function`); rows of device slabs stay on
    their device.

    Args:
        table: trained in place.

    Attributes:
        queue: batches that a dataset's thread prepared for the next steps.
    """

    def __init__(self, table: ElasticTable) -> None:
        self.queue = PreparedQueue(table)
        self._table = table
        self._on_device = [slab for slab in table.slabs.values() if isinstance(slab, DeviceSlab)]
        # Number of the step that was opened last: a backward pass must name it.
        self._number = 0
        self._open: tuple[int, Batch] | None = None  # the step between its two passes

    def train(self, keys: tf.Tensor, sizes: tf.Tensor, handle: tf.Tensor) -> Vectors:
        """Return the vectors float32 [n, dim] of a training batch, by slab.

        Their gradient is one step of the table.

        Args:
            keys: int64 [n], field by field.
            sizes: int32 [F], the number of keys of each field.
            handle: float32 scalar, a weight; its gradient is the backward pass. It also orders the
                steps inside one graph: it is read before a forward pass and written after a
                backward pass.
        """
        step = self._device_step if self._on_device else self._host_step
        # The handle is the only differentiable argument: its gradient function is the row update.
        differentiable = tf.custom_gradient(lambda anchor: step(keys, sizes, anchor))
        return dict(zip(self._table.slabs, tf.nest.flatten(differentiable(handle)), strict=True))

    def lookup(self, keys: tf.Tensor) -> Vectors:
        """Return the vectors float32 [n, dim] of keys int64 [n], by slab; nothing is changed."""
        if self._on_device:
            rows = tf.ensure_shape(tf.numpy_function(self._table.find, [keys], tf.int32), [None])
            # `gather_rows` reads rows through positions in them; here every row is read once.
            positions = tf.range(tf.size(rows))
            vectors = [slab.gather_rows(rows, positions) for slab in self._on_device]
        else:
            kinds = [tf.float32] * len(self._table.slabs)
            found = tf.numpy_function(
                lambda k: list(self._table.lookup_all(k).values()), [keys], kinds
            )
            vectors = self._with_shapes(found)
        return dict(zip(self._table.slabs, vectors, strict=True))

    def prepare(self, iteration: tf.Tensor, keys: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """Prepare a batch ahead, see `PreparedQueue.put`; return the pass's number, int64 []."""

        def put(
            number: NDArray[np.int64], keys: NDArray[np.int64], sizes: NDArray[np.int32]
        ) -> np.int64:
            return np.int64(self.queue.put(int(number), keys, _field_codes(sizes)))

        return tf.ensure_shape(tf.numpy_function(put, [iteration, keys, sizes], tf.int64), [])

    def _host_step(self, keys: tf.Tensor, sizes: tf.Tensor, handle: tf.Tensor) -> StepOutput:
        def begin(
            keys: NDArray[np.int64], sizes: NDArray[np.int32], _: NDArray[np.float32]
        ) -> list[Any]:
            batch = self._begin(keys, sizes)
            return [np.int64(self._number), *self._table.gather_all(batch).values()]

        kinds = [tf.int64] + [tf.float32] * len(self._table.slabs)
        # The handle is an argument for the order alone: this read comes after the write by which
        # the previous step of the same graph ended.
        number, *vectors = tf.numpy_function(begin, [keys, sizes, handle], kinds)

        def backward(*gradients: tf.Tensor) -> tf.Tensor:
            """Apply the step; return the gradient of the handle."""
            # A layer that gathers from the vectors gives IndexedSlices, which are made dense.
            dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
            done = tf.numpy_function(self._finish, [number, *dense], tf.float32)
            return tf.ensure_shape(done, [])

        return self._with_shapes(vectors), backward

    def _device_step(self, keys: tf.Tensor, sizes: tf.Tensor, handle: tf.Tensor) -> StepOutput:
        def begin(
            keys: NDArray[np.int64], sizes: NDArray[np.int32], _: NDArray[np.float32]
        ) -> list[Any]:
            batch, step = self._begin(keys, sizes), self._table.step + 1
            return [np.int64(self._number), np.int64(step), batch.rows, batch.inverse, batch.counts]

        kinds = [tf.int64, tf.int64, tf.int32, tf.int32, tf.int32]
        number, step, *arrays = tf.numpy_function(begin, [keys, sizes, handle], kinds)
        rows, inverse, counts = (tf.ensure_shape(array, [None]) for array in arrays)

        def backward(*gradients: tf.Tensor) -> tf.Tensor:
            """Apply the step; return the gradient of the handle."""
            for slab, gradient in zip(self._on_device, gradients, strict=True):
                slab.update_rows(rows, inverse, tf.convert_to_tensor(gradient), step, counts)
            # TensorFlow orders reads after earlier writes of the same variable, so an operation
            # that depends on these reads runs after the updates.
            first = tf.zeros([1], tf.int32)
            written = [slab.gather_rows(rows[:1], first) for slab in self._on_device]
            with tf.control_dependencies(written):
                return tf.ensure_shape(tf.numpy_function(self._finish, [number], tf.float32), [])

        return [slab.gather_rows(rows, inverse) for slab in self._on_device], backward

    def _with_shapes(self, vectors: tf.Tensor | Sequence[tf.Tensor]) -> list[tf.Tensor]:
        # Outside of graphs numpy_function returns a single output without a list (TensorFlow 2.21).
        return [
            tf.ensure_shape(part, [None, slab.spec.dim])
            for part, slab in zip(tf.nest.flatten(vectors), self._table.slabs.values(), strict=True)
        ]

    def _begin(self, keys: NDArray[np.int64], sizes: NDArray[np.int32]) -> Batch:
        """Open a step with the batch that was prepared ahead, or prepare it now."""
        # 1. Use the batch that was prepared for exactly these keys, if there is one.
        fields, batch = _field_codes(sizes), None
        prepared = self.queue.take(keys, fields)
        if prepared is not None:
            try:
                batch = self._table.begin(prepared)
            except InputError:
                # The table was restored or its batches were discarded meanwhile.
                batch = None
        # 2. Otherwise prepare it now, which gives the same rows.
        if batch is None:
            batch = self._table.begin(self._table.prepare(keys, fields))
        # 3. Number the step: a backward pass of another one is then an error.
        self._number += 1
        self._open = self._number, batch
        return batch

    def _finish(self, number: NDArray[np.int64], *gradients: NDArray[np.float32]) -> np.float32:
        """Apply the step; device slabs have updated their rows already and have no gradients."""
        # Closed first: a second backward pass of the same step finds no open step and fails.
        opened, self._open = self._open, None
        if opened is None or opened[0] != number:
            raise InputError(_NO_OPEN_STEP)
        names = list(self._table.slabs)[: len(gradients)]
        self._table.apply(opened[1], dict(zip(names, gradients, strict=True)))
        # The handle is no parameter of the model: no optimizer may move it.
        return np.float32(0)


def _field_codes(sizes: NDArray[np.int32]) -> NDArray[np.int16] | None:
    """The field code of each key, int16 [n]; None if there is one field."""
    return None if len(sizes) == 1 else np.repeat(np.arange(len(sizes), dtype=np.int16), sizes)
