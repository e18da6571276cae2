"""A table's part of a training step, as graph operations: vectors in the forward pass, the row update in the backward pass.

The optimizer is fused into the backward pass, as in FBGEMM's table-batched embeddings (github.com/pytorch/FBGEMM): the rows'
gradients are consumed where they arise and no variable of the model's size ever has a gradient. What makes a tape run it
is a scalar weight, the handle, whose gradient is always 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from elastic_embeddings.batch import Batch
from elastic_embeddings.errors import InputError
from elastic_embeddings.layers.ahead import PreparedQueue
from elastic_embeddings.slabs.device import DeviceSlab
from elastic_embeddings.table import ElasticTable

Vectors = dict[str, tf.Tensor]
Update = Callable[..., tf.Tensor]


class RowSteps:
    """Training steps and lookups over one table. One step at a time: a forward pass, then its backward pass.

    The index pass is host work (`tf.numpy_function`); rows of device slabs stay on their device.

    Args:
        table: learned in place.

    Attributes:
        queue: batches that a dataset's thread prepared for the steps to come.
    """

    def __init__(self, table: ElasticTable) -> None:
        self.queue = PreparedQueue(table)
        self._table = table
        self._slabs = list(table.slabs.items())
        self._on_device = [slab for slab in table.slabs.values() if isinstance(slab, DeviceSlab)]
        self._number = 0
        self._open: tuple[int, Batch] | None = None

    def learn(self, keys: tf.Tensor, sizes: tf.Tensor, handle: tf.Tensor) -> Vectors:
        """Return the vectors float32 [n, dim] of a training batch, by slab. Their gradient is one step of the table.

        Args:
            keys: int64 [n], field by field.
            sizes: int32 [F], how many keys are of each field.
            handle: float32 scalar, a weight; where it is differentiated, the backward pass learns. It also orders the
                steps inside one graph: it is read before a forward pass and written after a backward pass.
        """
        step = self._device_step if self._on_device else self._host_step
        differentiable = tf.custom_gradient(lambda anchor: step(keys, sizes, anchor))
        return dict(zip(self._table.slabs, tf.nest.flatten(differentiable(handle)), strict=True))

    def look_up(self, keys: tf.Tensor) -> Vectors:
        """Return the vectors float32 [n, dim] of keys int64 [n], by slab; nothing is inserted, counted or changed."""
        if not self._on_device:
            vectors = tf.numpy_function(self._found, [keys], [tf.float32] * len(self._slabs))
            return dict(zip(self._table.slabs, self._shaped(vectors), strict=True))
        rows = tf.ensure_shape(tf.numpy_function(self._table.find, [keys], tf.int32), [None])
        places = tf.range(tf.size(rows))
        return dict(
            zip(
                self._table.slabs,
                [slab.gather_rows(rows, places) for slab in self._on_device],
                strict=True,
            )
        )

    def prepare(self, iteration: tf.Tensor, keys: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """Prepare a batch ahead; see `PreparedQueue.put`. Returns the number of the pass, int64 scalar."""
        number = tf.numpy_function(self._put, [iteration, keys, sizes], tf.int64)
        return tf.ensure_shape(number, [])

    def _host_step(
        self, keys: tf.Tensor, sizes: tf.Tensor, handle: tf.Tensor
    ) -> tuple[list[tf.Tensor], Update]:
        kinds = [tf.int64] + [tf.float32] * len(self._slabs)
        number, *vectors = tf.numpy_function(self._begin_and_gather, [keys, sizes, handle], kinds)

        def update(*gradients: tf.Tensor) -> tf.Tensor:
            """Take the step, and return the gradients of the arguments."""
            dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
            return tf.ensure_shape(
                tf.numpy_function(self._learned, [number, *dense], tf.float32), []
            )

        return self._shaped(vectors), update

    def _device_step(
        self, keys: tf.Tensor, sizes: tf.Tensor, handle: tf.Tensor
    ) -> tuple[list[tf.Tensor], Update]:
        kinds = [tf.int64, tf.int64, tf.int32, tf.int32, tf.int32]
        begun = tf.numpy_function(self._begin_rows, [keys, sizes, handle], kinds)
        (number, step), places = (
            begun[:2],
            [tf.ensure_shape(places, [None]) for places in begun[2:]],
        )
        rows, inverse, counts = places

        def update(*gradients: tf.Tensor) -> tf.Tensor:
            """Take the step, and return the gradients of the arguments."""
            for slab, gradient in zip(self._on_device, gradients, strict=True):
                slab.update_rows(rows, inverse, tf.convert_to_tensor(gradient), step, counts)
            # Reads come after writes of the same variable, so what needs this read comes after the updates.
            written = [
                slab.gather_rows(rows[:1], tf.zeros([1], tf.int32)) for slab in self._on_device
            ]
            with tf.control_dependencies(written):
                return tf.ensure_shape(tf.numpy_function(self._learned, [number], tf.float32), [])

        return [slab.gather_rows(rows, inverse) for slab in self._on_device], update

    def _shaped(self, vectors: tf.Tensor | Sequence[tf.Tensor]) -> list[tf.Tensor]:
        listed = tf.nest.flatten(
            vectors
        )  # outside of graphs numpy_function gives one output without its list
        return [
            tf.ensure_shape(v, [None, slab.spec.dim])
            for v, (_, slab) in zip(listed, self._slabs, strict=True)
        ]

    def _begin_and_gather(
        self, keys: NDArray[np.int64], sizes: NDArray[np.int32], _: NDArray[np.float32]
    ) -> list[Any]:
        batch = self._begin(keys, sizes)
        return [
            np.int64(self._number),
            *(self._table.gather(batch, name) for name, _ in self._slabs),
        ]

    def _begin_rows(
        self, keys: NDArray[np.int64], sizes: NDArray[np.int32], _: NDArray[np.float32]
    ) -> list[Any]:
        batch = self._begin(keys, sizes)
        return [
            np.int64(self._number),
            np.int64(self._table.step + 1),
            batch.rows,
            batch.inverse,
            batch.counts,
        ]

    def _begin(self, keys: NDArray[np.int64], sizes: NDArray[np.int32]) -> Batch:
        fields = _codes(sizes)
        batch = self._begun_ahead(keys, fields)
        if batch is None:
            batch = self._table.begin(self._table.prepare(keys, fields))
        self._number += 1
        self._open = self._number, batch
        return batch

    def _begun_ahead(
        self, keys: NDArray[np.int64], fields: NDArray[np.int16] | None
    ) -> Batch | None:
        waiting = self.queue.take(keys, fields)
        try:
            return None if waiting is None else self._table.begin(waiting)
        except InputError:  # somebody restored the table or discarded its batches meanwhile
            return None

    def _learned(self, number: NDArray[np.int64], *gradients: NDArray[np.float32]) -> np.float32:
        """Take the step; with device slabs there are no gradients, since their rows are updated already."""
        opened, self._open = self._open, None
        if opened is None or opened[0] != number:
            raise InputError(_NOT_OPEN)
        names = [name for name, _ in self._slabs][: len(gradients)]
        self._table.apply(opened[1], dict(zip(names, gradients, strict=True)))
        return np.float32(0)

    def _found(self, keys: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        return list(self._table.lookup_all(keys).values())

    def _put(
        self, iteration: NDArray[np.int64], keys: NDArray[np.int64], sizes: NDArray[np.int32]
    ) -> np.int64:
        return np.int64(self.queue.put(int(iteration), keys, _codes(sizes)))


def _codes(sizes: NDArray[np.int32]) -> NDArray[np.int16] | None:
    """The field code of each key, int16 [n]; None where there is one field."""
    return None if len(sizes) == 1 else np.repeat(np.arange(len(sizes), dtype=np.int16), sizes)


_NOT_OPEN = (
    "a backward pass of an ElasticEmbedding came twice, or after another training pass of the same layer: call the layer "
    "once per step and take its gradient once; give several inputs in one call, as a dictionary (share= if one vocabulary)"
)
