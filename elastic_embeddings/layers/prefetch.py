"""Prepares batches ahead of the training step, in the input pipeline.

    dataset = prefetch_keys(dataset, model)
    model.fit(dataset)

The result is that of the plain dataset, bit for bit, for every prefetch depth: preparing is a
function of the trained state and of the keys alone, and batches that were prepared and not trained
on leave no trace in the table.
"""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from elastic_embeddings.errors import InputError
from elastic_embeddings.foreign import all_layers, calls_in, functional_of

if TYPE_CHECKING:
    from elastic_embeddings.batch import Batch
    from elastic_embeddings.table import ElasticTable

ReadInputs = Callable[[Any], Any]
"""From a dataset element's x to the inputs of a layer."""

_OTHER_BATCHES = (
    "an ElasticEmbedding was trained on other batches than prefetch_keys prepared: the result is "
    "the same, but slower. Train on the dataset that prefetch_keys returned, and put it last, "
    "behind shuffling and batching"
)


@dataclass(frozen=True)
class _QueuedBatch:
    keys: NDArray[np.int64]
    fields: NDArray[np.int16] | None
    batch: Batch

    def matches(self, keys: NDArray[np.int64], fields: NDArray[np.int16] | None) -> bool:
        # By content: the dataset's thread and the training step receive different arrays.
        if not np.array_equal(self.keys, keys):
            return False
        if self.fields is None or fields is None:
            return self.fields is fields
        return np.array_equal(self.fields, fields)


class PreparedQueue:
    """Batches that a dataset's thread prepared, in the order in which training needs them.

    At most one pass over a dataset fills it: the one that started last.
    """

    def __init__(self, table: ElasticTable) -> None:
        self._table = table
        # Guards the fields below, and is never held during `prepare`, which takes long.
        self._lock = threading.Lock()
        self._queue: deque[_QueuedBatch] = deque()
        self._pass = 0
        self._generation = 0  # increased when everything queued or being prepared is obsolete
        self._warned = False

    def put(self, number: int, keys: NDArray[np.int64], fields: NDArray[np.int16] | None) -> int:
        """Prepare a batch and return the number of its pass.

        Args:
            number: of the pass over a dataset, as its previous `put` returned it; 0 for the first
                batch of a pass, which undoes the batches of earlier passes. Only the pass that
                started last prepares batches.
            keys: int64 [n].
            fields: int16 [n], codes of the keys' fields; None if there is one field.
        """
        # A new pass over a dataset: what an earlier pass prepared is not trained on any more.
        if not number:
            self.clear()
            with self._lock:
                self._pass += 1
                number = self._pass
        with self._lock:
            # Read before the long `prepare`, to notice afterwards a `take` or `clear` in between.
            generation = self._generation
            if number != self._pass:
                return number
        batch = self._table.prepare(keys, fields, ahead=True)
        with self._lock:
            # If the generation changed meanwhile, nobody asks for this batch, and training on a
            # later one skips it.
            if generation == self._generation:
                self._queue.append(_QueuedBatch(keys, fields, batch))
        return number

    def take(self, keys: NDArray[np.int64], fields: NDArray[np.int16] | None) -> Batch | None:
        """Return the batch that was prepared for exactly these keys; None if there is none.

        The batches before it are dropped, as the training loop skipped them. If none matches, all
        are dropped.
        """
        with self._lock:
            had_batches = bool(self._queue)
            while self._queue:
                first = self._queue.popleft()
                if first.matches(keys, fields):
                    return first.batch
            # Training left the prepared order: a batch that is being prepared now is obsolete too.
            self._generation += 1
        # Nothing was queued in a loop that never used `prefetch_keys`: no reason to warn it.
        if had_batches and not self._warned:
            self._warned = True
            warnings.warn(_OTHER_BATCHES, stacklevel=2)
        return None

    def clear(self) -> None:
        """Undo everything prepared."""
        with self._lock:
            self._queue.clear()
            self._generation += 1
        self._table.discard()


class PreparingLayer(Protocol):
    """The interface of a layer that `prefetch_keys` needs; `ElasticEmbedding` has it."""

    def prepare_ahead(self, iteration: tf.Tensor, inputs: Any) -> tf.Tensor:
        """Prepare the layer's inputs in a graph; the number of the pass in and out, int64 []."""


def prefetch_keys(
    dataset: tf.data.Dataset,
    model: keras.Model | None = None,
    *,
    inputs: Mapping[Any, ReadInputs] | None = None,
    depth: int = 2,
) -> tf.data.Dataset:
    """Return the dataset with the same elements, whose keys are prepared in the input pipeline.

    Call it last, after shuffling and batching: training must see the batches that were prepared. A
    loop may skip batches, stop early or save in between; one that sees other batches works too,
    only slower, and warns. For training data only; several processes or replicas are not supported.

    Args:
        dataset: of batches x, (x, y) or (x, y, weights).
        model: a functional or sequential model, compiled or not; all its `ElasticEmbedding` layers
            are prepared. Layers between the model's inputs and an elastic layer run in the pipeline
            too.
        inputs: instead of a model, for each layer a function from x to the layer's inputs: for
            subclassed and nested models, and custom loops.
        depth: the number of batches that are prepared ahead, at least 1.

    Raises:
        InputError: no layer, one whose input cannot be traced, or a model that scales its loss.
    """
    readers = dict(inputs) if inputs is not None else _traced(model)
    if not readers or depth < 1:
        raise InputError(
            "prefetch_keys: found no ElasticEmbedding: "
            "give a functional model or inputs={layer: function of x}"
        )

    def prepare(numbers: tf.Tensor, element: Any) -> tuple[tf.Tensor, Any]:
        x = element[0] if isinstance(element, tuple) else element
        prepared = [
            layer.prepare_ahead(number, read(x))
            for (layer, read), number in zip(
                readers.items(), tf.unstack(numbers, num=len(readers)), strict=True
            )
        ]
        return tf.stack(prepared), element

    # The state of the scan is the number of the pass of each layer. It starts at 0 in every pass,
    # which is how a layer notices that a new pass begins.
    return dataset.scan(tf.zeros([len(readers)], tf.int64), prepare).prefetch(depth)


def _traced(model: keras.Model | None) -> dict[Any, ReadInputs]:
    """For each elastic layer the part of the model from its inputs to the layer."""
    if model is None:
        raise InputError("prefetch_keys: give the model, or inputs={layer: function of x}")
    check_no_loss_scaling(getattr(model, "optimizer", None))
    functional, readers = functional_of(model), {}
    for layer in all_layers(model):
        if hasattr(layer, "prepare_ahead"):
            calls = calls_in(functional, layer)
            if len(calls) != 1:
                raise InputError(
                    f"prefetch_keys: {layer.name} is not called exactly once in the functional "
                    f"model {functional.name}: give inputs={{layer: function of x}} "
                    "(and several inputs in one call, as a dictionary)"
                )
            readers[layer] = keras.Model(functional.input, calls[0])
    return readers


def check_no_loss_scaling(optimizer: Any) -> None:
    """Raise InputError if an optimizer scales the loss, since the rows' gradients are not unscaled.

    The rows are updated in the backward pass, before the optimizer unscales its gradients.
    """
    scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if scales or getattr(optimizer, "loss_scale_factor", None):
        raise InputError(
            "rows are updated in the backward pass, before a scaled loss is unscaled: "
            "use mixed_bfloat16, which does not scale"
        )
