"""What a part of a model is: weights by name, and a logit from pooled vectors and numbers.

A logistic regression, a factorisation machine, Wide & Deep, DeepFM and a deep and cross network differ in the parts whose
logits they add up, and in nothing else. A part holds no weights itself: it says which it wants, and is given them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from features.errors import InputError
from training.data.arrays import Arrays
from training.data.field_groups import Group
from training.data.layout import Layout
from training.models.blocks import Blocks, input_widths
from training.settings import Pooling, Precision

Variables = Mapping[str, tf.Variable]

WIDE = "wide"
"""Slab of the width-1 rows."""

DEEP = "deep"
"""Slab of the rows of a group's width."""


@dataclass(frozen=True)
class Pooled:
    """A batch as the parts see it.

    Attributes:
        vectors: by slab float32 [b, F, width] of the F fields of the slab's group, in the order of its layout, lists pooled.
        dense: float32 [b, 2 D], as `training.models.pooling.dense_inputs` gives them.
        cross: float32 [b, R], p_uv of each relation.
        seed: int64 [2] of what is drawn; None outside learning.
        matmul: what `product` multiplies in while learning.
    """

    vectors: Mapping[str, tf.Tensor]
    dense: tf.Tensor
    cross: tf.Tensor
    seed: tf.Tensor | None
    matmul: Precision = "float32"

    @property
    def learning(self) -> bool:
        """Whether this batch is learned, so that dropout and batch statistics apply."""
        return self.seed is not None

    def product(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Return inputs float32 [b, m] times a kernel float32 [m, n], float32 [b, n].

        In bfloat16 both factors are rounded, in the gradients' products too; a processor sums them in float32.
        """
        if not self.learning or self.matmul == "float32":
            return tf.matmul(inputs, kernel)
        return tf.cast(
            tf.matmul(tf.cast(inputs, tf.bfloat16), tf.cast(kernel, tf.bfloat16)), tf.float32
        )


@dataclass(frozen=True)
class Shape:
    """What the inputs of a model are: the fields' places, their groups, and with these the widths of their vectors."""

    layout: Layout
    groups: tuple[Group, ...]

    def blocks(self) -> list[tuple[str, int]]:
        """Names and widths of `side_by_side`."""
        return input_widths(self.layout, self.groups)

    def common_width(self, reader: str) -> int:
        """Return the width of all groups' vectors.

        Args:
            reader: who needs them to be of one width, for the message.

        Raises:
            InputError: they are of several.
        """
        widths = {group.name or "the other fields": group.dim for group in self.groups}
        if len(set(widths.values())) > 1:
            raise InputError(
                f"{reader} compares vectors of one width, but model.groups and model.dim give {widths}: "
                "set them to one `dim`, or choose wide_deep or dcnv2 without relations"
            )
        return self.groups[0].dim

    def side_by_side(self, batch: Pooled) -> tf.Tensor:
        """Return what the groups give, numbers and p_uv: float32 [b, Σ widths of `blocks`]."""
        groups = [_given(batch.vectors[group.slab(DEEP)], group.pooling) for group in self.groups]
        return tf.concat(
            [*groups, batch.dense, batch.cross], axis=1
        )  # none left out: each is given a gradient

    def by_field(self, batch: Pooled) -> tf.Tensor:
        """Return each id field's own deep vector, float32 [b, F, width] in the order of the layout; for groups of one width."""
        vectors = [batch.vectors[group.slab(DEEP)] for group in self.groups]
        if len(vectors) == 1:
            return vectors[0]
        names = [name for group in self.groups for name in group.layout.keyed]
        return tf.gather(
            tf.concat(vectors, axis=1), [names.index(name) for name in self.layout.keyed], axis=1
        )


class Part(Protocol):
    """One summand of a logit."""

    @property
    def slabs(self) -> tuple[str, ...]:
        """Names of the slabs whose rows it reads."""

    def fresh(self, draw: np.random.Generator) -> Arrays:
        """Return its learned weights, newly initialised."""

    def state(self) -> Arrays:
        """Return what it keeps beside weights and learns by no gradient, as it is at first."""

    def blocks(self) -> dict[str, Blocks]:
        """Which rows of which weight belong to which input."""

    def logit(self, weights: Variables, batch: Pooled) -> tf.Tensor:
        """Return its share of the logit, float32 [b]."""


def role_of(slab: str) -> str:
    """Return `wide` or `deep` for a slab of a group's table, in a fusion `<kind>_<role>`."""
    return slab.rsplit("_", 1)[-1]


def glorot(draw: np.random.Generator, rows: int, columns: int) -> NDArray[np.float32]:
    """Return float32 [rows, columns], uniform on ±√(6 / (rows + columns)) (Glorot, Bengio, AISTATS 2010)."""
    limit = float(np.sqrt(6.0 / (rows + columns)))
    return draw.uniform(-limit, limit, (rows, columns)).astype(np.float32)


def _given(vectors: tf.Tensor, pooling: Pooling) -> tf.Tensor:
    """What vectors float32 [b, F, d] of a group come to: float32 [b, F d], or [b, d] pooled."""
    match pooling:
        case "concat":
            width = vectors.shape[1] * vectors.shape[2]
            return tf.reshape(vectors, [-1 if width else tf.shape(vectors)[0], width])
        case "mean":
            return tf.reduce_mean(vectors, axis=1)
        case "sum":
            return tf.reduce_sum(vectors, axis=1)
