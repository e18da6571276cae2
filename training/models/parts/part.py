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

from training.arrays import Arrays
from training.layout import Layout
from training.models.blocks import Blocks

Variables = Mapping[str, tf.Variable]

WIDE = "wide"
"""Slab of the width-1 rows."""

DEEP = "deep"
"""Slab of the rows of width `ModelSettings.dim`."""


@dataclass(frozen=True)
class Shape:
    """What the inputs of a model are: the fields' places, and the width of their vectors."""

    layout: Layout
    dim: int

    @property
    def fields(self) -> int:
        """Id fields, F."""
        return len(self.layout.keyed)


@dataclass(frozen=True)
class Pooled:
    """A batch as the parts see it.

    Attributes:
        vectors: by slab float32 [b, F, width], in the order of `Layout.keyed`, lists pooled.
        dense: float32 [b, 2 D], as `training.models.pooling.dense_inputs` gives them.
        cross: float32 [b, R], p_uv of each relation.
        seed: int64 [2] of what is drawn; None outside learning.
    """

    vectors: Mapping[str, tf.Tensor]
    dense: tf.Tensor
    cross: tf.Tensor
    seed: tf.Tensor | None

    @property
    def learning(self) -> bool:
        """Whether this batch is learned, so that dropout and batch statistics apply."""
        return self.seed is not None

    def flat(self) -> tf.Tensor:
        """Return deep vectors, numbers and p_uv side by side: float32 [b, F d + 2 D + R], in the order of `input_blocks`."""
        deep = self.vectors[DEEP]
        return tf.concat([tf.reshape(deep, [tf.shape(deep)[0], deep.shape[1] * deep.shape[2]]), self.dense, self.cross], axis=1)


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
    """Return `wide` or `deep` for a slab of a model or of a member of a fusion (`<kind>_<role>`)."""
    return slab.rsplit("_", 1)[-1]


def glorot(draw: np.random.Generator, rows: int, columns: int) -> NDArray[np.float32]:
    """Return float32 [rows, columns], uniform on ±√(6 / (rows + columns)) (Glorot, Bengio, AISTATS 2010)."""
    limit = float(np.sqrt(6.0 / (rows + columns)))
    return draw.uniform(-limit, limit, (rows, columns)).astype(np.float32)
