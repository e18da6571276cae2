"""The deep part: hidden layers over an impression's vectors, numbers, p_uv and relations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import tensorflow as tf

from training.data.arrays import Arrays
from training.models.parts.part import DEEP, InputShape, Part, PooledBatch, Variables, glorot
from training.models.parts.relation_network import RelationNetwork
from training.models.weight_transfer import Blocks
from training.settings import ModelSettings

EPSILON = 1e-5
"""Added to a variance before the square root."""

_MOMENTUM = 0.9

# A dropout draw has 16 bits, so the dropout rate is a multiple of 2^-16.
_DRAWS = 1 << 16

_Gradients = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


@dataclass(frozen=True)
class Perceptron(Part):
    """`<out, MLP(vectors ++ numbers ++ p_uv ++ relations)>`.

    A layer is an affine map, then norm, ReLU and dropout.

    Attributes:
        shape: of the inputs.
        settings: hidden widths, norm, dropout.
        relations: the relation network, or None.
    """

    shape: InputShape
    settings: ModelSettings
    relations: RelationNetwork | None = None
    slabs: ClassVar = (DEEP,)

    def initial_weights(self, draw: np.random.Generator) -> Arrays:
        """Return Glorot-uniform kernels and zero biases."""
        inputs, hidden = self._inputs(), self.settings.hidden
        # The relation network draws first: another order would give other weights for a seed.
        weights = self.relations.initial_weights(draw) if self.relations else {}
        for number, (rows, columns) in enumerate(pairwise([inputs.size, *hidden])):
            weights[f"deep/{number}/kernel"] = glorot(draw, rows, columns)
            weights[f"deep/{number}/bias"] = np.zeros(columns, np.float32)
            if self.settings.norm != "none":
                weights[f"deep/{number}/scale"] = np.ones(columns, np.float32)
        weights["deep/out"] = glorot(draw, hidden[-1] if hidden else inputs.size, 1)[:, 0]
        # The rows of p_uv start at zero, so that encodings which appear later do not change
        # predictions before they are trained on.
        for name, start, rows in inputs.ranges:
            if name.startswith("cross:"):
                weights[self._first_weight][start : start + rows] = 0.0
        return weights

    def initial_state(self) -> Arrays:
        """Return the running means and variances of batch norm."""
        if self.settings.norm != "batch":
            return {}
        layers = list(enumerate(self.settings.hidden))
        means = {f"deep/{n}/mean": np.zeros(width, np.float32) for n, width in layers}
        return means | {f"deep/{n}/variance": np.ones(width, np.float32) for n, width in layers}

    def blocks(self) -> dict[str, Blocks]:
        """Return the rows of the first layer's kernel."""
        return {self._first_weight: self._inputs()}

    def logit(self, weights: Variables, batch: PooledBatch) -> tf.Tensor:
        """Return float32 [b]."""
        hidden = self.shape.concatenated(batch)
        if self.relations:
            related = self.relations.outputs(weights, self.shape.by_field(batch))
            hidden = tf.concat([hidden, related], axis=1)
        for number in range(len(self.settings.hidden)):
            affine = batch.product(hidden, weights[f"deep/{number}/kernel"])
            mask = DropoutMask.none()
            if batch.seed is not None and self.settings.dropout > 0.0:
                mask = DropoutMask.draw(affine, self.settings.dropout, batch.seed + number)
            if self.settings.norm == "batch" and batch.training:
                hidden = self._batch_norm_step(weights, number, affine, mask)
            else:
                # The layer's bias is added after the norm, as its shift.
                normed = self._normed(weights, number, affine) + weights[f"deep/{number}/bias"]
                hidden = mask.apply(tf.nn.relu(normed))
        return tf.linalg.matvec(hidden, weights["deep/out"])

    def _batch_norm_step(
        self, weights: Variables, number: int, affine: tf.Tensor, mask: DropoutMask
    ) -> tf.Tensor:
        """Return a layer's output by the batch's statistics, and update the running averages."""
        scale, bias = (
            tf.convert_to_tensor(weights[f"deep/{number}/{name}"]) for name in ("scale", "bias")
        )
        hidden, *statistics = batch_normed(affine, scale, bias, mask)
        for name, value in zip(("mean", "variance"), statistics, strict=True):
            average = weights[f"deep/{number}/{name}"]
            average.assign(_MOMENTUM * average + (1 - _MOMENTUM) * tf.stop_gradient(value))
        return hidden

    def _normed(self, weights: Variables, number: int, inputs: tf.Tensor) -> tf.Tensor:
        """Return inputs [b, width] after norm and scale."""
        match self.settings.norm:
            case "none":
                return inputs
            case "layer":
                mean, variance = tf.nn.moments(inputs, axes=[1], keepdims=True)
            case "batch":
                mean, variance = weights[f"deep/{number}/mean"], weights[f"deep/{number}/variance"]
        return (inputs - mean) * tf.math.rsqrt(variance + EPSILON) * weights[f"deep/{number}/scale"]

    def _inputs(self) -> Blocks:
        relations = self.relations.widths if self.relations else []
        return Blocks.of([*self.shape.widths(), *relations])

    @property
    def _first_weight(self) -> str:
        """Name of the weight that is multiplied with the inputs."""
        return "deep/0/kernel" if self.settings.hidden else "deep/out"


@dataclass(frozen=True)
class DropoutMask:
    """A dropout mask: 0 or 1 float32 [b, width], and the probability of a 1."""

    mask: tf.Tensor
    keep: float

    @classmethod
    def draw(cls, like: tf.Tensor, rate: float, seed: tf.Tensor) -> DropoutMask:
        """Draw a mask.

        Args:
            like: gives the shape, [b, width].
            rate: probability of a 0, in [0, 1).
            seed: int64 [2]; the same seed gives the same mask.
        """
        threshold, shape = min(round(rate * _DRAWS), _DRAWS - 1), tf.shape(like)
        # Each drawn int32 gives two 16-bit numbers: drawing is the expensive step.
        halves = (tf.reduce_prod(shape) + 1) // 2
        drawn = tf.random.stateless_uniform([halves], seed, None, None, tf.int32, alg="philox")
        numbers = tf.reshape(tf.bitcast(drawn, tf.uint16), [-1])[: tf.reduce_prod(shape)]
        mask = tf.reshape(numbers, shape) >= tf.constant(threshold, tf.uint16)
        return cls(tf.cast(mask, tf.float32), 1 - threshold / _DRAWS)

    @classmethod
    def none(cls) -> DropoutMask:
        """Return the mask without dropout."""
        return cls(tf.ones([1, 1]), 1.0)

    def apply(self, hidden: tf.Tensor) -> tf.Tensor:
        """Return hidden [b, width], masked and divided by the probability of a 1."""
        return hidden * (self.mask / self.keep)


def batch_normed(
    affine: tf.Tensor, scale: tf.Tensor, bias: tf.Tensor, mask: DropoutMask
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return dropout(ReLU(scale · (affine - mean) / √(variance + ε) + bias)) of a batch.

    Source: Ioffe and Szegedy, ICML 2015, algorithm 1.

    Args:
        affine: float32 [b, width].
        scale: float32 [width].
        bias: float32 [width].
        mask: of dropout, [b, width].

    Returns:
        float32 [b, width]; and the batch's mean and (population) variance, float32 [width] each,
        which pass no gradient.
    """

    # One operation with its own gradient: on a processor the passes over [b, width] of norm,
    # bias, ReLU and dropout take longer than the matrix products. This one keeps only its input
    # and output for the gradient.
    @tf.custom_gradient
    def fused(
        affine: tf.Tensor, scale: tf.Tensor, bias: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], Callable[..., _Gradients]]:
        mean = tf.reduce_mean(affine, axis=0)
        variance = tf.reduce_mean(tf.math.squared_difference(affine, mean), axis=0)
        root = tf.math.rsqrt(variance + EPSILON)
        slope = root * scale
        # ReLU(x) / keep = ReLU(x / keep): divided here, on [width], it costs no pass.
        normed = tf.nn.bias_add(affine * (slope / mask.keep), (bias - mean * slope) / mask.keep)
        hidden = tf.nn.relu(normed) * mask.mask

        def gradients(upstream: tf.Tensor, *_: tf.Tensor) -> _Gradients:
            # Where dropout or ReLU made a zero, the output is zero: one comparison covers both.
            # `inner` is `keep` times the gradient of what the ReLU reads.
            inner = tf.raw_ops.ReluGrad(gradients=upstream, features=hidden)
            rows = tf.cast(tf.shape(affine)[0], tf.float32)
            of_bias = tf.reduce_sum(inner, axis=0) / mask.keep
            of_scale = root * (tf.reduce_sum(inner * affine, axis=0) / mask.keep - mean * of_bias)
            # The gradient of `affine` is linear in `inner` and `affine`, so it takes one pass.
            along = -slope * root * of_scale / rows
            constant = -slope * of_bias / rows - along * mean
            of_affine = tf.nn.bias_add(inner * (slope / mask.keep) + affine * along, constant)
            return of_affine, of_scale, of_bias

        return (hidden, mean, variance), gradients

    outputs: tuple[tf.Tensor, tf.Tensor, tf.Tensor] = fused(affine, scale, bias)
    return outputs
