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

    def forward(
        self, vectors: Mapping[str, tf.Tensor], dense: tf.Tensor, cross: tf.Tensor, dropout_seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Return logits [b] of pooled vectors [b, F, width] by slab."""


class Forward:
    """Turns inputs into click probabilities, batch by batch, in one `tf.function`.

    Args:
        model: takes pooled vectors.
        find: int64 [m] keys → int32 [m] rows; a key without one has row 0.
        gather: by slab, int32 [m] rows → float32 [m, width] vectors; row 0 is zero.
    """

    def __init__(
        self,
        model: ForwardModel,
        find: Callable[[NDArray[np.int64]], NDArray[np.int32]],
        gather: Mapping[str, Callable[[tf.Tensor], tf.Tensor]],
    ) -> None:
        self._model = model
        self._find = find
        self._gather = gather
        self._graph = tf.function(self._probabilities, input_signature=batch_signature(model.layout), autograph=False)

    def probabilities(self, inputs: Inputs) -> NDArray[np.float32]:
        """Return click probabilities, float32 [n]."""
        parts = [self._batch(inputs.take(rows)) for rows in _in_order(len(inputs))]
        return np.concatenate([np.zeros(0, np.float32), *parts])

    def _batch(self, inputs: Inputs) -> NDArray[np.float32]:
        scored: NDArray[np.float32] = self._graph(self._find(inputs.flat_keys()), *batch_arguments(inputs)).numpy()
        return scored

    def _probabilities(self, rows: tf.Tensor, segments: tf.Tensor, dense: tf.Tensor, cross: tf.Tensor) -> tf.Tensor:
        flat = {name: gather(rows) for name, gather in self._gather.items()}
        return tf.sigmoid(self._model.forward(pool_flat(self._model.layout, flat, segments, tf.shape(dense)[0]), dense, cross))


def pool_flat(layout: Layout, flat: Mapping[str, tf.Tensor], segments: tf.Tensor, batch: tf.Tensor) -> dict[str, tf.Tensor]:
    """Pool vectors float32 [m, width] of `Inputs.flat_keys` into [b, F, width], slab by slab."""
    return {name: _pool(layout, vectors, segments, batch) for name, vectors in flat.items()}


def batch_signature(layout: Layout) -> list[tf.TensorSpec]:
    """Shapes of a batch in a graph: rows (or places) of its keys, then `batch_arguments`."""
    return [
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([None, 2 * len(layout.dense)], tf.float32),
        tf.TensorSpec([None, len(layout.relations)], tf.float32),
    ]


def batch_arguments(inputs: Inputs) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """What a graph reads of a batch beside its rows: segments, numbers, p_uv."""
    return inputs.segments(), inputs.dense, inputs.cross


def _in_order(rows: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, rows, SCORING_BATCH):
        yield np.arange(start, min(rows, start + SCORING_BATCH))


def _pool(layout: Layout, vectors: tf.Tensor, segments: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
    fields, listed = len(layout.singles), vectors[batch * len(layout.singles) :]
    singles = tf.reshape(vectors[: batch * fields], [batch, fields, vectors.shape[-1]])
    return pool_fields(singles, listed, segments, len(layout.lists))
