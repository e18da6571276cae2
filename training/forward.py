"""The scoring pass over a batch's rows, one for the trainer and for the scorer, so that both give the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.inputs import Inputs
from training.layout import Layout
from training.models.pooling import pool_fields

SCORING_BATCH = 4096
"""Rows that are scored at once. Fixed, so that one model gives one impression the same bits everywhere."""


class ForwardModel(Protocol):
    """What scoring needs of a model."""

    layout: Layout

    @property
    def slabs(self) -> dict[str, int]:
        """Names and widths of the slabs."""

    def forward(
        self, vectors: Mapping[str, tf.Tensor], dense: tf.Tensor, cross: tf.Tensor, dropout_seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Return logits [b] of pooled vectors [b, F, width] by slab."""


class Forward:
    """Turns inputs into click probabilities, batch by batch, in one `tf.function`.

    Args:
        model: takes pooled vectors.
        lookup: int64 [m] keys → by slab float32 [m, width] vectors; zeros for a key without a row.
    """

    def __init__(self, model: ForwardModel, lookup: Callable[[NDArray[np.int64]], Mapping[str, NDArray[np.float32]]]) -> None:
        self._model = model
        self._lookup = lookup
        signature = [vector_signature(model.slabs), *batch_signature(model.layout)]
        self._graph = tf.function(self._probabilities, input_signature=signature, autograph=False)

    def probabilities(self, inputs: Inputs) -> NDArray[np.float32]:
        """Return click probabilities, float32 [n]."""
        parts = [self._batch(inputs.take(rows)) for rows in _in_order(len(inputs))]
        return np.concatenate([np.zeros(0, np.float32), *parts])

    def _batch(self, inputs: Inputs) -> NDArray[np.float32]:
        vectors = {name: tf.constant(flat) for name, flat in self._lookup(inputs.flat_keys()).items()}
        scored: NDArray[np.float32] = self._graph(vectors, *map(tf.constant, batch_arguments(inputs))).numpy()
        return scored

    def _probabilities(self, flat: Mapping[str, tf.Tensor], segments: tf.Tensor, dense: tf.Tensor, cross: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(self._model.forward(pool_flat(self._model.layout, flat, segments, tf.shape(dense)[0]), dense, cross))


def pool_flat(layout: Layout, flat: Mapping[str, tf.Tensor], segments: tf.Tensor, batch: tf.Tensor) -> dict[str, tf.Tensor]:
    """Pool vectors float32 [m, width] of `Inputs.flat_keys` into [b, F, width], slab by slab."""
    return {name: _pool(layout, vectors, segments, batch) for name, vectors in flat.items()}


def vector_signature(slabs: Mapping[str, int]) -> dict[str, tf.TensorSpec]:
    """Shapes of a batch's flat vectors in a graph, by slab."""
    return {name: tf.TensorSpec([None, width], tf.float32) for name, width in slabs.items()}


def batch_signature(layout: Layout) -> list[tf.TensorSpec]:
    """Shapes of `batch_arguments` in a graph."""
    return [
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([None, 2 * len(layout.dense)], tf.float32),
        tf.TensorSpec([None, len(layout.relations)], tf.float32),
    ]


def batch_arguments(inputs: Inputs) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """What a graph reads of a batch beside its keys' vectors: segments, numbers, p_uv."""
    return inputs.segments(), inputs.dense, inputs.cross


def _in_order(rows: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, rows, SCORING_BATCH):
        yield np.arange(start, min(rows, start + SCORING_BATCH))


def _pool(layout: Layout, vectors: tf.Tensor, segments: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
    fields, listed = len(layout.singles), vectors[batch * len(layout.singles) :]
    singles = tf.reshape(vectors[: batch * fields], [batch, fields, vectors.shape[-1]])
    return pool_fields(singles, listed, segments, len(layout.lists))
