"""The scoring pass over a batch's rows, one for the trainer and for the scorer, so that both give the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.data.field_groups import Group, own_slab
from training.data.inputs import Inputs
from training.data.layout import Layout
from training.models.parts.part import DEEP, role_of
from training.models.pooling import lay_together, list_lengths, pool_fields

Lookup = Callable[[NDArray[np.int64], NDArray[np.int16]], Mapping[str, NDArray[np.float32]]]

SCORING_BATCH = 4096
"""Rows that are scored at once. Fixed, so that one model gives one impression the same bits everywhere."""


class ForwardModel(Protocol):
    """What scoring needs of a model."""

    layout: Layout
    groups: tuple[Group, ...]

    @property
    def slabs(self) -> dict[str, int]:
        """Names and widths of the slabs."""

    def forward(
        self,
        vectors: Mapping[str, tf.Tensor],
        dense: tf.Tensor,
        cross: tf.Tensor,
        dropout_seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Return logits [b] of vectors [b, F, width] by slab, one for each of its group's fields."""


class Forward:
    """Turns inputs into click probabilities, batch by batch, in one `tf.function`.

    Args:
        model: takes pooled vectors.
        lookup: keys int64 [m] and their field codes → by slab float32 vectors [m, width], or of the keys of the slab's
            group alone; zeros for a key without a row.
    """

    def __init__(self, model: ForwardModel, lookup: Lookup) -> None:
        self._model = model
        self._lookup = lookup
        signature = [vector_signature(model.slabs), *batch_signature(model.layout)]
        scored = partial(
            self._probabilities
        )  # not a method, of which TensorFlow counts all instances' traces and warns
        self._graph = tf.function(scored, input_signature=signature, autograph=False)

    def probabilities(self, inputs: Inputs) -> NDArray[np.float32]:
        """Return click probabilities, float32 [n]."""
        parts = [self._batch(inputs.take(rows)) for rows in _in_order(len(inputs))]
        return np.concatenate([np.zeros(0, np.float32), *parts])

    def _batch(self, inputs: Inputs) -> NDArray[np.float32]:
        vectors = {
            name: tf.constant(flat)
            for name, flat in self._lookup(inputs.flat_keys(), inputs.flat_fields()).items()
        }
        scored: NDArray[np.float32] = self._graph(
            vectors, *map(tf.constant, batch_arguments(inputs))
        ).numpy()
        return scored

    def _probabilities(
        self, flat: Mapping[str, tf.Tensor], segments: tf.Tensor, dense: tf.Tensor, cross: tf.Tensor
    ) -> tf.Tensor:
        return tf.sigmoid(
            self._model.forward(
                pool_flat(self._model, flat, segments, tf.shape(dense)[0]), dense, cross
            )
        )


def pool_flat(
    model: ForwardModel, flat: Mapping[str, tf.Tensor], segments: tf.Tensor, batch: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Pool vectors float32 [m, width] of a slab's group's keys into one vector a field, slab by slab (see `pool_slab`).

    Args:
        model: whose layout and groups the vectors are of.
        flat: by slab, in the order of `Inputs.flat_keys`.
        segments: int32 [k], `Inputs.segments` of all lists.
        batch: int32 [], b.
    """
    groups = _group_of_slab(model, flat)
    return {
        name: pool_slab(
            groups[name],
            name,
            vectors,
            _segments_within(model.layout, groups[name].layout, segments),
            batch,
        )
        for name, vectors in flat.items()
    }


def unpool_flat(
    model: ForwardModel, gradients: Mapping[str, tf.Tensor], segments: tf.Tensor, batch: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Return the gradients of what `pool_flat` was given from those of what it returned: its adjoint, by slab.

    A tape gives the same numbers, but pads the gradient of every slice with zeros and adds the padded ones up, which takes a
    third of a small batch's step.

    Args:
        model: whose layout and groups the vectors are of.
        gradients: by slab float32 [b, F, width of the vector].
        segments: int32 [k], as `pool_flat` had them.
        batch: int32 [], b.
    """
    groups = _group_of_slab(model, gradients)
    return {
        name: _unpool_slab(
            groups[name],
            name,
            pooled,
            _segments_within(model.layout, groups[name].layout, segments),
            batch,
        )
        for name, pooled in gradients.items()
    }


def pool_slab(
    group: Group, slab: str, vectors: tf.Tensor, segments: tf.Tensor, batch: tf.Tensor
) -> tf.Tensor:
    """Return the vector of each field of a group in each impression, float32 [b, F, width of the vector].

    Args:
        group: whose layout the vectors are in: keys of the single-valued fields impression by impression, then list after list.
        slab: its name in the model.
        vectors: float32 [b S + m, width of the slab].
        segments: int32 [m], `impression * lists + list` within the group.
        batch: int32 [], b.
    """
    layout = group.layout
    if _in_chunks(group, slab):
        return lay_together(vectors, len(layout.lists), group.chunks, batch)
    fields = len(layout.singles)
    if fields and not layout.lists:  # then nothing of the shape has to be computed
        return tf.reshape(vectors, [-1, fields, vectors.shape[-1]])
    listed = vectors[batch * fields :]
    singles = tf.reshape(vectors[: batch * fields], [batch, fields, vectors.shape[-1]])
    return pool_fields(singles, listed, segments, len(layout.lists), batch)


def _unpool_slab(
    group: Group, slab: str, pooled: tf.Tensor, segments: tf.Tensor, batch: tf.Tensor
) -> tf.Tensor:
    """Return the gradient of the vectors of `pool_slab`, float32 [b S + m, width of the slab], from that of its result."""
    fields, lists, width = len(group.layout.singles), len(group.layout.lists), pooled.shape[-1]
    if _in_chunks(group, slab):
        return tf.reshape(tf.transpose(pooled, [1, 0, 2]), [-1, width // group.chunks])
    if not lists:
        return tf.reshape(pooled, [-1, width])
    # Every value of a list has its share of the mean's gradient.
    means = tf.reshape(pooled[:, fields:], [-1, width]) / list_lengths(segments, batch * lists)
    return tf.concat(
        [tf.reshape(pooled[:, :fields], [-1, width]), tf.gather(means, segments)], axis=0
    )


def _group_of_slab(model: ForwardModel, slabs: Iterable[str]) -> dict[str, Group]:
    named = {group.name: group for group in model.groups}
    return {slab: named[own_slab(slab)[0]] for slab in slabs}


def _in_chunks(group: Group, slab: str) -> bool:
    """Whether the rows of a field are laid side by side, not averaged."""
    return group.chunks > 1 and role_of(own_slab(slab)[1]) == DEEP


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


def batch_arguments(
    inputs: Inputs,
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """What a graph reads of a batch beside its keys' vectors: segments, numbers, p_uv."""
    return inputs.segments(), inputs.dense, inputs.cross


def _in_order(rows: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, rows, SCORING_BATCH):
        yield np.arange(start, min(rows, start + SCORING_BATCH))


def _segments_within(layout: Layout, group: Layout, segments: tf.Tensor) -> tf.Tensor:
    """Segments int32 [k] of the keys of all lists, as those of a group's lists alone, int32 [m]."""
    if group.lists in ((), layout.lists):
        return segments
    places = tf.constant(
        [group.lists.index(name) if name in group.lists else -1 for name in layout.lists], tf.int32
    )
    place = tf.gather(places, segments % len(layout.lists))
    return tf.boolean_mask(segments // len(layout.lists) * len(group.lists) + place, place >= 0)
