"""The interface of a model's parts: dense weights by name, and a logit from pooled vectors.

Logistic regression, factorisation machine, Wide & Deep, DeepFM and DCN-V2 differ only in the parts
whose logits they sum. A part does not hold weights: it names them, and the model passes them in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from features.errors import InputError
from training.data.arrays import Arrays
from training.data.layout import FieldLayout, Group
from training.models.weight_transfer import Blocks
from training.settings import Pooling, Precision

Variables = Mapping[str, tf.Variable]

WIDE = "wide"
"""Slab of the width-1 rows."""

DEEP = "deep"
"""Slab of the rows of a group's width."""


@dataclass(frozen=True)
class PooledBatch:
    """A batch as the parts read it.

    Attributes:
        vectors: by slab float32 [b, F, width], of the F fields of the slab's group in the order of
            its layout, lists pooled.
        dense: float32 [b, 2 D], as `training.models.pooling.dense_inputs` gives them.
        cross: float32 [b, R], p_uv of each relation.
        seed: int64 [2], seed of dropout; None outside training.
        matmul: precision of `product` in training.
    """

    vectors: Mapping[str, tf.Tensor]
    dense: tf.Tensor
    cross: tf.Tensor
    seed: tf.Tensor | None
    matmul: Precision = "float32"

    @property
    def training(self) -> bool:
        """Whether this is a training step, in which dropout and batch statistics apply."""
        return self.seed is not None

    def product(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Return inputs float32 [b, m] times a kernel float32 [m, n], float32 [b, n]."""
        if not self.training or self.matmul == "float32":
            return tf.matmul(inputs, kernel)
        # Both factors are rounded, also in the products of the gradients; the processor sums
        # the products in float32.
        factors = (tf.cast(factor, tf.bfloat16) for factor in (inputs, kernel))
        return tf.cast(tf.matmul(*factors), tf.float32)


@dataclass(frozen=True)
class InputShape:
    """The inputs of a model: the fields' layout and groups, and so the widths of their vectors."""

    layout: FieldLayout
    groups: tuple[Group, ...]

    def widths(self) -> list[tuple[str, int]]:
        """Names and widths of what `concatenated` returns: groups, numbers, relations."""
        fields = [block for group in self.groups for block in group.widths()]
        relations = [(f"cross:{name}", 1) for name in self.layout.relations]
        return [*fields, *self.dense_widths(), *relations]

    def dense_widths(self) -> list[tuple[str, int]]:
        """Names and widths of the numbers: a value and a flag each."""
        return [(f"dense:{name}", 2) for name in self.layout.dense]

    def common_width(self, reader: str) -> int:
        """Return the width that all groups' vectors have.

        Args:
            reader: what needs vectors of one width, for the error message.

        Raises:
            InputError: the groups have different widths.
        """
        widths = {group.name or "the other fields": group.dim for group in self.groups}
        if len(set(widths.values())) > 1:
            raise InputError(
                f"{reader} compares vectors of one width, but model.groups and model.dim give "
                f"{widths}: set them to one `dim`, or choose wide_deep or dcnv2 without relations"
            )
        return self.groups[0].dim

    def concatenated(self, batch: PooledBatch) -> tf.Tensor:
        """Return vectors of the groups, numbers and p_uv, float32 [b, Σ widths]."""
        groups = [
            _pool_group(batch.vectors[group.slab(DEEP)], group.pooling) for group in self.groups
        ]
        # Empty tensors stay in: every input must get a gradient.
        return tf.concat([*groups, batch.dense, batch.cross], axis=1)

    def by_field(self, batch: PooledBatch) -> tf.Tensor:
        """Return each id field's deep vector, float32 [b, F, d] in the order of the layout.

        All groups must have the same width.
        """
        vectors = [batch.vectors[group.slab(DEEP)] for group in self.groups]
        if len(vectors) == 1:
            return vectors[0]
        names = [name for group in self.groups for name in group.layout.keyed]
        order = [names.index(name) for name in self.layout.keyed]
        return tf.gather(tf.concat(vectors, axis=1), order, axis=1)


class Part(ABC):
    """One summand of a logit."""

    slabs: ClassVar[tuple[str, ...]] = ()
    """Names of the slabs whose rows it reads."""

    def initial_weights(self, draw: np.random.Generator) -> Arrays:
        """Return newly initialised trainable weights, by name; by default there are none."""
        return {}

    def initial_state(self) -> Arrays:
        """Return the initial non-trainable weights, such as running means; by default none."""
        return {}

    def blocks(self) -> dict[str, Blocks]:
        """Return the rows of each weight that belong to each input; by default none."""
        return {}

    @abstractmethod
    def logit(self, weights: Variables, batch: PooledBatch) -> tf.Tensor:
        """Return its share of the logit, float32 [b]."""


def role_of(slab: str) -> str:
    """Return `wide` or `deep` for a slab of a group's table; in a fusion it is `<kind>_<role>`."""
    return slab.rsplit("_", 1)[-1]


def glorot(draw: np.random.Generator, rows: int, columns: int) -> NDArray[np.float32]:
    """Return float32 [rows, columns], uniform on ±√(6 / (rows + columns)).

    Source: Glorot and Bengio, AISTATS 2010.
    """
    limit = float(np.sqrt(6.0 / (rows + columns)))
    return draw.uniform(-limit, limit, (rows, columns)).astype(np.float32)


def _pool_group(vectors: tf.Tensor, pooling: Pooling) -> tf.Tensor:
    """Return float32 [b, F d] of a group's vectors [b, F, d], or [b, d] if they are pooled."""
    match pooling:
        case "concat":
            width = vectors.shape[1] * vectors.shape[2]
            # The batch may be inferred (-1) unless the width is 0.
            return tf.reshape(vectors, [-1 if width else tf.shape(vectors)[0], width])
        case "mean":
            return tf.reduce_mean(vectors, axis=1)
        case "sum":
            return tf.reduce_sum(vectors, axis=1)
