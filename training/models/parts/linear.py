"""The wide part: a weight a value, and a weight a number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from training.data.arrays import Arrays
from training.models.blocks import Blocks, dense_blocks
from training.models.parts.part import WIDE, Pooled, Shape, Variables

_DENSE = "wide/dense"


@dataclass(frozen=True)
class Linear:
    """Σ width-1 rows + <w, dense>."""

    shape: Shape
    slabs = (WIDE,)

    def fresh(self, draw: np.random.Generator) -> Arrays:
        """Return zeros."""
        return {_DENSE: np.zeros(2 * len(self.shape.layout.dense), np.float32)}

    def state(self) -> Arrays:
        """Return nothing."""
        return {}

    def blocks(self) -> dict[str, Blocks]:
        """Two rows a number."""
        return {_DENSE: dense_blocks(self.shape.layout)}

    def logit(self, weights: Variables, batch: Pooled) -> tf.Tensor:
        """Return float32 [b]."""
        rows = tf.add_n(
            [
                tf.reduce_sum(batch.vectors[group.slab(WIDE)], axis=[1, 2])
                for group in self.shape.groups
            ]
        )
        return rows + tf.linalg.matvec(batch.dense, weights[_DENSE])
