"""The cross network of DCN-V2."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from training.data.arrays import Arrays
from training.models.blocks import Blocks
from training.models.parts.part import DEEP, Pooled, Shape, Variables, glorot


@dataclass(frozen=True)
class CrossNetwork:
    """`<out, x_L>` with `x_{l+1} = x_0 ∘ (x_l W_l + b_l) + x_l` (Wang et al.: DCN V2, WWW 2021; the parallel structure).

    x_0 is vectors ++ numbers ++ p_uv. Weights on p_uv start at zero, as in the deep part's first layer.

    Attributes:
        shape: of the inputs.
        layers: L, so interactions reach the order L + 1.
    """

    shape: Shape
    layers: int
    slabs = (DEEP,)

    def fresh(self, draw: np.random.Generator) -> Arrays:
        """Return Glorot-uniform kernels and zero biases."""
        inputs, weights = self._inputs(), {}
        for number in range(self.layers):
            weights[f"cross/{number}/kernel"] = glorot(draw, inputs.size, inputs.size)
            weights[f"cross/{number}/bias"] = np.zeros(inputs.size, np.float32)
        weights["cross/out"] = glorot(draw, inputs.size, 1)[:, 0]
        for name in (*(f"cross/{number}/kernel" for number in range(self.layers)), "cross/out"):
            weights[name][inputs.size - len(self.shape.layout.relations) :] = 0.0
        return weights

    def state(self) -> Arrays:
        """Return nothing."""
        return {}

    def blocks(self) -> dict[str, Blocks]:
        """Rows and columns of the kernels, and what is shaped as the inputs are."""
        inputs = self._inputs()
        kernels = {f"cross/{number}/kernel": inputs.on_axes(2) for number in range(self.layers)}
        return (
            kernels
            | {f"cross/{number}/bias": inputs for number in range(self.layers)}
            | {"cross/out": inputs}
        )

    def logit(self, weights: Variables, batch: Pooled) -> tf.Tensor:
        """Return float32 [b]."""
        first = crossed = self.shape.side_by_side(batch)
        for number in range(self.layers):
            affine = (
                batch.product(crossed, weights[f"cross/{number}/kernel"])
                + weights[f"cross/{number}/bias"]
            )
            crossed = first * affine + crossed
        return tf.linalg.matvec(crossed, weights["cross/out"])

    def _inputs(self) -> Blocks:
        return Blocks.of(self.shape.blocks())
