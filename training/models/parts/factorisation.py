"""The second-order part of a factorisation machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from training.data.arrays import Arrays
from training.models.blocks import Blocks
from training.models.parts.part import DEEP, Pooled, Shape, Variables


@dataclass(frozen=True)
class Factorisation:
    """Σ_{i<j} <v_i, v_j> over the id fields, as ½ (‖Σ v_i‖² - Σ ‖v_i‖²) (Rendle: Factorization Machines, ICDM 2010).

    It reads each field's own vector, whatever its group's pooling.

    Raises:
        InputError: the groups are of different widths.
    """

    shape: Shape
    slabs = (DEEP,)

    def __post_init__(self) -> None:
        self.shape.common_width("the second order of fm and deepfm")

    def fresh(self, draw: np.random.Generator) -> Arrays:
        """Return nothing: all its weights are rows."""
        return {}

    def state(self) -> Arrays:
        """Return nothing."""
        return {}

    def blocks(self) -> dict[str, Blocks]:
        """Return nothing."""
        return {}

    def logit(self, weights: Variables, batch: Pooled) -> tf.Tensor:
        """Return float32 [b]."""
        vectors = self.shape.by_field(batch)
        total = tf.reduce_sum(vectors, axis=1)
        return 0.5 * (
            tf.reduce_sum(total * total, axis=1) - tf.reduce_sum(vectors * vectors, axis=[1, 2])
        )
