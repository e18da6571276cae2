"""The forward pass over a batch's rows, shared by trainer and scorer for equal results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.data.inputs import Inputs
from training.data.layout import FieldLayout, Group, split_slab
from training.models.parts.part import DEEP, role_of
from training.models.pooling import concat_chunks, list_lengths, pool_fields

Lookup = Callable[[NDArray[np.int64], NDArray[np.int16]], Mapping[str, NDArray[np.float32]]]

SCORING_BATCH = 4096
"""Impressions of every scoring batch; the last one is filled up. Matrix products of other shapes
add in another order; with one shape a model scores an impression the same in every batch."""


class ForwardModel(Protocol):
    """What scoring needs of a model."""

    layout: FieldLayout
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
        """Return logits [b] of vectors [b, F, width] by slab, one for each field of its group."""


class Forward:
    """Turns inputs into click probabilities, batch by batch, in one `tf.function`.

    Args:
        model: takes pooled vectors.
        lookup: maps keys int64 [m] and their field codes to vectors by slab: float32 [m, width], or
            those of the slab's group's keys alone; zeros for a key without a row.
    """

    def __init__(self, model: ForwardModel, lookup: Lookup) -> None:
        self._model = model
        self._lookup = lookup
        flat = {n: tf.TensorSpec([None, width], tf.float32) for n, width in model.slabs.items()}
        # A partial, not a method: TensorFlow counts the traces of a method over all instances and
        # warns about too many (seen with 2.21).
        graph = partial(self._probabilities)
        signature = [flat, *batch_signature(model.layout)]
        self._graph = tf.function(graph, input_signature=signature, autograph=False)

    def probabilities(self, inputs: Inputs) -> NDArray[np.float32]:
        """Return click probabilities, float32 [n]."""
        # Without impressions there is still an array to concatenate.
        parts = [np.zeros(0, np.float32)]
        for start in range(0, len(inputs), SCORING_BATCH):
            rows = np.arange(start, min(len(inputs), start + SCORING_BATCH))
            # The last batch repeats its last impression: every one has lists as its model needs.
            batch = inputs.take(np.pad(rows, (0, SCORING_BATCH - len(rows)), mode="edge"))
            flat = self._lookup(batch.flat_keys(), batch.flat_fields())
            vectors = {name: tf.constant(rows) for name, rows in flat.items()}
            scores = self._graph(vectors, *map(tf.constant, batch_arguments(batch))).numpy()
            parts.append(scores[: len(rows)])
        return np.concatenate(parts)

    def _probabilities(
        self, flat: Mapping[str, tf.Tensor], segments: tf.Tensor, dense: tf.Tensor, cross: tf.Tensor
    ) -> tf.Tensor:
        pooled = pool_ragged(self._model, flat, segments, tf.shape(dense)[0])
        return tf.sigmoid(self._model.forward(pooled, dense, cross))


def batch_signature(layout: FieldLayout) -> list[tf.TensorSpec]:
    """Return the shapes of `batch_arguments` in a graph."""
    return [
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([None, 2 * len(layout.dense)], tf.float32),
        tf.TensorSpec([None, len(layout.relations)], tf.float32),
    ]


def batch_arguments(
    inputs: Inputs,
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Return what a graph reads of a batch besides its keys' vectors: segments, numbers, p_uv."""
    return inputs.segments(), inputs.dense, inputs.cross


def pool_ragged(
    model: ForwardModel, flat: Mapping[str, tf.Tensor], segments: tf.Tensor, batch: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Pool the vectors of each slab into one vector per field (see `pool_slab`).

    Args:
        model: whose layout and groups the vectors have.
        flat: by slab float32 [m, width], in the order of `Inputs.flat_keys`.
        segments: int32 [k], `Inputs.segments` of all lists.
        batch: int32 [], b.
    """
    return {
        slab: pool_slab(group, slab, flat[slab], own_segments, batch)
        for slab, group, own_segments in _slabs_with_segments(model, flat, segments)
    }


def unpool_ragged(
    model: ForwardModel, gradients: Mapping[str, tf.Tensor], segments: tf.Tensor, batch: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Return the gradients of `pool_ragged`'s inputs from those of its outputs: its adjoint.

    Args:
        model: whose layout and groups the vectors have.
        gradients: by slab float32 [b, F, width of the vector].
        segments: as for `pool_ragged`.
        batch: int32 [], b.
    """
    # A tape computes the same numbers. It pads the gradient of every slice with zeros and adds the
    # padded ones up, which takes a third of a small batch's step.
    return {
        slab: _unpool_slab(group, slab, gradients[slab], own_segments, batch)
        for slab, group, own_segments in _slabs_with_segments(model, gradients, segments)
    }


def pool_slab(
    group: Group, slab: str, vectors: tf.Tensor, segments: tf.Tensor, batch: tf.Tensor
) -> tf.Tensor:
    """Return the vector of each field of a group, float32 [b, F, width of the vector].

    Args:
        group: whose layout the vectors have: keys of the single-valued fields impression by
            impression, then list after list.
        slab: its name in the model.
        vectors: float32 [b S + m, width of the slab].
        segments: int32 [m], `impression * lists + list` within the group.
        batch: int32 [], b.
    """
    layout = group.layout
    if _is_in_chunks(group, slab):
        return concat_chunks(vectors, len(layout.lists), group.chunks, batch)
    fields = len(layout.singles)
    if fields and not layout.lists:  # a reshape alone: no shape has to be computed
        return tf.reshape(vectors, [-1, fields, vectors.shape[-1]])
    listed = vectors[batch * fields :]
    singles = tf.reshape(vectors[: batch * fields], [batch, fields, vectors.shape[-1]])
    return pool_fields(singles, listed, segments, len(layout.lists), batch)


def _unpool_slab(
    group: Group, slab: str, pooled: tf.Tensor, segments: tf.Tensor, batch: tf.Tensor
) -> tf.Tensor:
    """Return the gradient of `pool_slab`'s vectors, float32 [b S + m, width], from its result's."""
    fields, lists, width = len(group.layout.singles), len(group.layout.lists), pooled.shape[-1]
    if _is_in_chunks(group, slab):
        # The adjoint of `concat_chunks`: the order of its input is field, impression, row.
        return tf.reshape(tf.transpose(pooled, [1, 0, 2]), [-1, width // group.chunks])
    if not lists:
        return tf.reshape(pooled, [-1, width])
    # Every value of a list has its share of the mean's gradient.
    means = tf.reshape(pooled[:, fields:], [-1, width]) / list_lengths(segments, batch * lists)
    singles = tf.reshape(pooled[:, :fields], [-1, width])
    return tf.concat([singles, tf.gather(means, segments)], axis=0)


def _is_in_chunks(group: Group, slab: str) -> bool:
    """Whether a field's rows are concatenated, not averaged."""
    return group.chunks > 1 and role_of(split_slab(slab)[1]) == DEEP


def _slabs_with_segments(
    model: ForwardModel, slabs: Iterable[str], segments: tf.Tensor
) -> Iterable[tuple[str, Group, tf.Tensor]]:
    """Yield each slab, its group, and the segments of the group's lists."""
    groups, lists = {group.name: group for group in model.groups}, model.layout.lists
    for slab in slabs:
        group = groups[split_slab(slab)[0]]
        own = group.layout.lists
        # A group without lists ignores the segments, and one with all lists has them as given.
        if own in ((), lists):
            yield slab, group, segments
            continue
        # Keep the segments of the group's own lists and renumber them.
        places = tf.constant([own.index(n) if n in own else -1 for n in lists], tf.int32)
        place = tf.gather(places, segments % len(lists))
        renumbered = segments // len(lists) * len(own) + place
        yield slab, group, tf.boolean_mask(renumbered, place >= 0)
