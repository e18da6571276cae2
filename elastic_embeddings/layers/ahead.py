"""The index pass ahead of the step: a queue of prepared batches by layer, and the dataset line that fills it.

    dataset = prefetch_keys(dataset, model)
    model.fit(dataset)

The result is that of the plain dataset, bit for bit, whatever the prefetch depth: preparing is a function of the learned
state and of the keys alone, and what was prepared but not learned leaves no trace in the table.
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

if TYPE_CHECKING:
    from elastic_embeddings.batch import Batch
    from elastic_embeddings.table import ElasticTable

ReadInputs = Callable[[Any], Any]
"""From a dataset element's x to what a layer is called with."""


@dataclass(frozen=True)
class _Waiting:
    keys: NDArray[np.int64]
    fields: NDArray[np.int16] | None
    batch: Batch


class PreparedQueue:
    """Batches that a dataset's thread prepared and that the learning thread will ask for, in that order.

    At most one iteration over a dataset fills it: the last that started.
    """

    def __init__(self, table: ElasticTable) -> None:
        self._table = table
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._iteration = 0
        self._generation = 0
        self._warned = False

    def put(self, iteration: int, keys: NDArray[np.int64], fields: NDArray[np.int16] | None) -> int:
        """Prepare a batch.

        Args:
            iteration: which pass over a dataset it comes from, as the pass's previous `put` returned; 0 for the first batch
                of a pass, which undoes whatever earlier passes left. A pass that is not the last that started prepares
                nothing more.
            keys: int64 [n].
            fields: int16 [n], codes of the keys' fields; None where there is one.

        Returns:
            The number of the pass.
        """
        iteration = iteration or self._start()
        with self._lock:
            generation = self._generation
            if iteration != self._iteration:
                return iteration
        batch = self._table.prepare(keys, fields, ahead=True)
        with self._lock:
            if (
                generation == self._generation
            ):  # else it was prepared for nothing, and the next batch passes it over
                self._waiting.append(_Waiting(keys, fields, batch))
        return iteration

    def take(self, keys: NDArray[np.int64], fields: NDArray[np.int16] | None) -> Batch | None:
        """Return the batch that was prepared for exactly these keys; None if there is none.

        Those before it are passed over: the training loop skipped them. If none matches, all are.
        """
        with self._lock:
            missed = bool(self._waiting)
            while self._waiting:
                first = self._waiting.popleft()
                if np.array_equal(first.keys, keys) and _same(first.fields, fields):
                    return first.batch
            self._generation += 1
        if missed:
            self._warn()
        return None

    def clear(self) -> None:
        """Undo everything prepared."""
        with self._lock:
            self._waiting.clear()
            self._generation += 1
        self._table.discard()

    def _start(self) -> int:
        self.clear()
        with self._lock:
            self._iteration += 1
            return self._iteration

    def _warn(self) -> None:
        if not self._warned:
            warnings.warn(_NOT_THESE_KEYS, stacklevel=2)
        self._warned = True


class PreparingLayer(Protocol):
    """What the dataset line needs of a layer; `ElasticEmbedding` is one."""

    def prepare_ahead(self, iteration: tf.Tensor, inputs: Any) -> tf.Tensor:
        """Prepare the layer's inputs, as a graph operation; takes and returns the number of the pass, int64 scalar."""


def prefetch_keys(
    dataset: tf.data.Dataset,
    model: keras.Model | None = None,
    *,
    inputs: Mapping[Any, ReadInputs] | None = None,
    depth: int = 2,
) -> tf.data.Dataset:
    """Return the dataset with the same elements, whose keys are prepared in the input pipeline, ahead of the step.

    Put it last, behind shuffling and batching: the training loop must see the very batches that were prepared. A loop that
    skips batches, stops early or saves in between is fine; one that sees other batches works too, only slower, and warns.
    For training data alone; several processes or replicas are not supported.

    Args:
        dataset: of batches x, (x, y) or (x, y, weights).
        model: a functional or sequential model, compiled or not; every `ElasticEmbedding` in it is found, and whatever lies
            between the model's inputs and the layer runs in the pipeline too.
        inputs: instead of a model, for each layer a function from x to what the layer is called with: for subclassed and
            nested models, and custom loops.
        depth: how many batches wait, at least 1.

    Raises:
        InputError: no layer, one whose input cannot be traced, or a model that scales its loss.
    """
    readers = dict(inputs) if inputs is not None else _traced(model)
    if not readers or depth < 1:
        raise InputError(
            "prefetch_keys: found no ElasticEmbedding: give a functional model or inputs={layer: function of x}"
        )
    none = tf.zeros([len(readers)], tf.int64)
    return dataset.scan(
        none, lambda state, element: (_prepared(state, element, readers), element)
    ).prefetch(depth)


def _prepared(
    iterations: tf.Tensor, element: Any, readers: Mapping[PreparingLayer, ReadInputs]
) -> tf.Tensor:
    x = element[0] if isinstance(element, tuple) else element
    numbers = tf.unstack(iterations, num=len(readers))
    return tf.stack(
        [
            layer.prepare_ahead(n, read(x))
            for (layer, read), n in zip(readers.items(), numbers, strict=True)
        ]
    )


def _traced(model: keras.Model | None) -> dict[Any, ReadInputs]:
    if model is None:
        raise InputError("prefetch_keys: give the model, or inputs={layer: function of x}")
    refuse_loss_scaling(getattr(model, "optimizer", None))
    functional = (
        getattr(model, "_functional", None) or model
    )  # a sequential model holds a functional one
    return {
        layer: _path(functional, layer)
        for layer in model._flatten_layers()
        if hasattr(layer, "prepare_ahead")
    }


def _path(model: keras.Model, layer: Any) -> ReadInputs:
    """The part of a functional model from its inputs to a layer."""
    nodes = [node for nodes in getattr(model, "_nodes_by_depth", {}).values() for node in nodes]
    calls = [node for node in layer._inbound_nodes if node in nodes]
    if len(calls) != 1:
        raise InputError(
            f"prefetch_keys: {layer.name} is not called exactly once in the functional model {model.name}: "
            "give inputs={layer: function of x} (and several inputs in one call, as a dictionary)"
        )
    return keras.Model(model.input, calls[0].arguments.args[0])


def refuse_loss_scaling(optimizer: Any) -> None:
    """Do nothing for an optimizer that takes the loss as it is.

    Raises:
        InputError: it scales the loss, so that the rows' gradients would be scaled too.
    """
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or getattr(
        optimizer, "loss_scale_factor", None
    )
    if scaled:
        raise InputError(
            "rows learn in the backward pass, before a scaled loss is unscaled: use mixed_bfloat16, which does not scale"
        )


def _same(a: NDArray[np.int16] | None, b: NDArray[np.int16] | None) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b)


_NOT_THESE_KEYS = (
    "an ElasticEmbedding was trained on other batches than prefetch_keys prepared: the result is the same, but slower. "
    "Train on the dataset that prefetch_keys returned, and put it last, behind shuffling and batching"
)
