"""The deep part: hidden layers over the vectors, numbers, p_uv and relations of an impression."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import tensorflow as tf

from training.data.arrays import Arrays
from training.models.blocks import Blocks
from training.models.parts.hidden import EPSILON, Kept, batch_normed
from training.models.parts.part import DEEP, Pooled, Shape, Variables, glorot
from training.models.parts.relation_network import RelationNetwork
from training.settings import ModelSettings

_MOMENTUM = 0.9


@dataclass(frozen=True)
class Perceptron:
    """`<out, MLP(vectors ++ numbers ++ p_uv ++ relations)>`; a layer is affine, then norm, ReLU, dropout.

    The first layer's rows of p_uv start at zero, so that encodings that appear later change nothing until learned.

    Attributes:
        shape: of the inputs.
        settings: hidden widths, norm, dropout.
        relations: the relation network, or None.
    """

    shape: Shape
    settings: ModelSettings
    relations: RelationNetwork | None = None
    slabs = (DEEP,)

    def fresh(self, draw: np.random.Generator) -> Arrays:
        """Return Glorot-uniform kernels and zero biases."""
        widths, weights = (
            [self._inputs().size, *self.settings.hidden],
            self.relations.fresh(draw) if self.relations else {},
        )
        for number, (rows, columns) in enumerate(pairwise(widths)):
            weights[f"deep/{number}/kernel"] = glorot(draw, rows, columns)
            weights[f"deep/{number}/bias"] = np.zeros(columns, np.float32)
            if self.settings.norm != "none":
                weights[f"deep/{number}/scale"] = np.ones(columns, np.float32)
        weights["deep/out"] = glorot(draw, widths[-1], 1)[:, 0]
        for name, start, rows in self._inputs().ranges:
            if name.startswith("cross:"):
                weights[self._first][start : start + rows] = 0.0
        return weights

    def state(self) -> Arrays:
        """Return the running means and variances of batch norm."""
        if self.settings.norm != "batch":
            return {}
        layers = list(enumerate(self.settings.hidden))
        means = {f"deep/{number}/mean": np.zeros(width, np.float32) for number, width in layers}
        return means | {
            f"deep/{number}/variance": np.ones(width, np.float32) for number, width in layers
        }

    def blocks(self) -> dict[str, Blocks]:
        """Rows of the first layer's kernel."""
        return {self._first: self._inputs()}

    def logit(self, weights: Variables, batch: Pooled) -> tf.Tensor:
        """Return float32 [b]."""
        hidden = self.shape.side_by_side(batch)
        if self.relations:
            hidden = tf.concat(
                [hidden, self.relations.outputs(weights, self.shape.by_field(batch))], axis=1
            )
        for number in range(len(self.settings.hidden)):
            affine = batch.product(hidden, weights[f"deep/{number}/kernel"])
            kept = self._kept(affine, number, batch)
            if self.settings.norm == "batch" and batch.learning:
                hidden = self._learning_norm(weights, number, affine, kept)
            else:
                hidden = kept.of(
                    tf.nn.relu(
                        self._normed(weights, number, affine) + weights[f"deep/{number}/bias"]
                    )
                )
        return tf.linalg.matvec(hidden, weights["deep/out"])

    def _learning_norm(
        self, weights: Variables, number: int, affine: tf.Tensor, kept: Kept
    ) -> tf.Tensor:
        scale, bias = (
            tf.convert_to_tensor(weights[f"deep/{number}/{name}"]) for name in ("scale", "bias")
        )
        hidden, mean, variance = batch_normed(affine, scale, bias, kept)
        _follow(weights[f"deep/{number}/mean"], mean)
        _follow(weights[f"deep/{number}/variance"], variance)
        return hidden

    def _normed(self, weights: Variables, number: int, inputs: tf.Tensor) -> tf.Tensor:
        """Norm and scale [b, width]; the layer's bias, added behind it, is the norm's shift."""
        match self.settings.norm:
            case "none":
                return inputs
            case "layer":
                mean, variance = tf.nn.moments(inputs, axes=[1], keepdims=True)
            case "batch":
                mean, variance = weights[f"deep/{number}/mean"], weights[f"deep/{number}/variance"]
        return (inputs - mean) * tf.math.rsqrt(variance + EPSILON) * weights[f"deep/{number}/scale"]

    def _kept(self, affine: tf.Tensor, number: int, batch: Pooled) -> Kept:
        if batch.seed is None or self.settings.dropout == 0.0:
            return Kept.all()
        return Kept.drawn(affine, self.settings.dropout, batch.seed + number)

    def _inputs(self) -> Blocks:
        return Blocks.of([*self.shape.blocks(), *(self.relations.widths if self.relations else [])])

    @property
    def _first(self) -> str:
        """The weight whose rows belong to the inputs."""
        return "deep/0/kernel" if self.settings.hidden else "deep/out"


def _follow(average: tf.Variable, value: tf.Tensor) -> None:
    """Move a running average towards a batch's value (Ioffe, Szegedy, ICML 2015)."""
    average.assign(_MOMENTUM * average + (1 - _MOMENTUM) * tf.stop_gradient(value))
