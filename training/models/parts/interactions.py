"""Parts without hidden layers: linear weights, second-order interactions, the cross network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow as tf

from training.data.arrays import Arrays
from training.models.parts.part import DEEP, WIDE, InputShape, Part, PooledBatch, Variables, glorot
from training.models.weight_transfer import Blocks

_DENSE = "wide/dense"


@dataclass(frozen=True)
class Linear(Part):
    """The wide part: Σ width-1 rows + <w, dense>."""

    shape: InputShape
    slabs: ClassVar = (WIDE,)

    def initial_weights(self, draw: np.random.Generator) -> Arrays:
        """Return zeros."""
        return {_DENSE: np.zeros(2 * len(self.shape.layout.dense), np.float32)}

    def blocks(self) -> dict[str, Blocks]:
        """Return two rows for each number."""
        return {_DENSE: Blocks.of(self.shape.dense_widths())}

    def logit(self, weights: Variables, batch: PooledBatch) -> tf.Tensor:
        """Return float32 [b]."""
        groups = [batch.vectors[group.slab(WIDE)] for group in self.shape.groups]
        rows = tf.add_n([tf.reduce_sum(vectors, axis=[1, 2]) for vectors in groups])
        return rows + tf.linalg.matvec(batch.dense, weights[_DENSE])


@dataclass(frozen=True)
class Factorisation(Part):
    """Second order of a factorisation machine: Σ_{i<j} <v_i, v_j> over the id fields.

    Computed as ½ (‖Σ v_i‖² - Σ ‖v_i‖²) (Rendle: Factorization Machines, ICDM 2010). Reads each
    field's own vector, whatever its group's pooling.

    Raises:
        InputError: the groups have different widths.
    """

    shape: InputShape
    slabs: ClassVar = (DEEP,)

    def __post_init__(self) -> None:
        self.shape.common_width("the second order of fm and deepfm")

    def logit(self, weights: Variables, batch: PooledBatch) -> tf.Tensor:
        """Return float32 [b]."""
        vectors = self.shape.by_field(batch)
        total = tf.reduce_sum(vectors, axis=1)
        return 0.5 * (
            tf.reduce_sum(total * total, axis=1) - tf.reduce_sum(vectors * vectors, axis=[1, 2])
        )


@dataclass(frozen=True)
class CrossNetwork(Part):
    """The cross network of DCN-V2, in the parallel structure (Wang et al., WWW 2021).

    `<out, x_L>` with `x_{l+1} = x_0 ∘ (x_l W_l + b_l) + x_l`, where x_0 is vectors ++ numbers ++
    p_uv.

    Attributes:
        shape: of the inputs.
        layers: L, so interactions reach the order L + 1.
    """

    shape: InputShape
    layers: int
    slabs: ClassVar = (DEEP,)

    def initial_weights(self, draw: np.random.Generator) -> Arrays:
        """Return Glorot-uniform kernels and zero biases."""
        size, weights = self._inputs().size, {}
        for number in range(self.layers):
            weights[f"cross/{number}/kernel"] = glorot(draw, size, size)
            weights[f"cross/{number}/bias"] = np.zeros(size, np.float32)
        weights["cross/out"] = glorot(draw, size, 1)[:, 0]
        # Weights on p_uv start at zero, so that encodings which appear later do not change
        # predictions before they are trained on. p_uv comes last among the inputs.
        first = size - len(self.shape.layout.relations)
        for name, weight in weights.items():
            if not name.endswith("bias"):
                weight[first:] = 0.0
        return weights

    def blocks(self) -> dict[str, Blocks]:
        """Return rows and columns of the kernels, and rows of biases and output weights."""
        inputs = self._inputs()
        names = {"cross/out": inputs}
        for number in range(self.layers):
            names |= {f"cross/{number}/kernel": inputs.on_axes(2), f"cross/{number}/bias": inputs}
        return names

    def logit(self, weights: Variables, batch: PooledBatch) -> tf.Tensor:
        """Return float32 [b]."""
        first = crossed = self.shape.concatenated(batch)
        for number in range(self.layers):
            affine = batch.product(crossed, weights[f"cross/{number}/kernel"])
            crossed = first * (affine + weights[f"cross/{number}/bias"]) + crossed
        return tf.linalg.matvec(crossed, weights["cross/out"])

    def _inputs(self) -> Blocks:
        return Blocks.of(self.shape.widths())
