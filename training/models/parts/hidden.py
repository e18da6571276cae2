"""What follows a hidden layer's product while it learns: batch norm, ReLU and dropout in few passes over [b, width].

On a processor these passes take longer than the products. Batch norm, bias, ReLU and dropout are therefore one
operation with a gradient of its own, which keeps nothing between but its input and its output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

EPSILON = 1e-5
"""Added to a variance."""

_STEPS = 1 << 16
"""A random number has 16 bits, so a rate of dropout is a multiple of 2^-16."""

_Gradients = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


@dataclass(frozen=True)
class Kept:
    """What dropout leaves: 0 or 1 float32 [b, width], and the probability of a 1."""

    mask: tf.Tensor
    share: float

    @classmethod
    def drawn(cls, like: tf.Tensor, rate: float, seed: tf.Tensor) -> Kept:
        """Draw a mask in the shape of `like` [b, width], a function of seed int64 [2] (rate: in [0, 1), of zeros)."""
        threshold, shape = min(round(rate * _STEPS), _STEPS - 1), tf.shape(like)
        halves = (tf.reduce_prod(shape) + 1) // 2
        drawn = tf.random.stateless_uniform([halves], seed, None, None, tf.int32, alg="philox")
        numbers = tf.reshape(tf.bitcast(drawn, tf.uint16), [-1])[: tf.reduce_prod(shape)]
        mask = tf.reshape(numbers, shape) >= tf.constant(threshold, tf.uint16)
        return cls(tf.cast(mask, tf.float32), 1 - threshold / _STEPS)

    @classmethod
    def all(cls) -> Kept:
        """Return what no dropout leaves."""
        return cls(tf.ones([1, 1]), 1.0)

    def of(self, hidden: tf.Tensor) -> tf.Tensor:
        """Return hidden [b, width], dropped and divided by the share that is kept."""
        return hidden * (self.mask / self.share)


def batch_normed(
    affine: tf.Tensor, scale: tf.Tensor, bias: tf.Tensor, kept: Kept
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return dropout(ReLU(scale · (affine - mean) / √(variance + ε) + bias)) of a batch (Ioffe, Szegedy, ICML 2015, alg. 1).

    Args:
        affine: float32 [b, width].
        scale: float32 [width].
        bias: float32 [width].
        kept: what dropout leaves of [b, width].

    Returns:
        float32 [b, width]; the batch's mean and variance (of the population), float32 [width] each, which pass no
        gradient.
    """

    @tf.custom_gradient
    def whole(
        affine: tf.Tensor, scale: tf.Tensor, bias: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], Callable[..., _Gradients]]:
        """Return the outputs, and what makes gradients of theirs."""
        mean = tf.reduce_mean(affine, axis=0)
        variance = tf.reduce_mean(tf.math.squared_difference(affine, mean), axis=0)
        root = tf.math.rsqrt(variance + EPSILON)
        slope = root * scale
        # ReLU(x) / share = ReLU(x / share): divided here, on [width], it costs no pass.
        normed = tf.nn.bias_add(affine * (slope / kept.share), (bias - mean * slope) / kept.share)
        hidden = tf.nn.relu(normed) * kept.mask

        def gradients(upstream: tf.Tensor, *_: tf.Tensor) -> _Gradients:
            """Return gradients by `affine`, `scale` and `bias`; the batch's mean and variance pass none."""
            # Where dropout or ReLU made a zero the output is zero, so one comparison does for both.
            inner = tf.raw_ops.ReluGrad(gradients=upstream, features=hidden)
            return _through_norm(affine, inner, kept.share, (mean, root, slope))

        return (hidden, mean, variance), gradients

    outputs: tuple[tf.Tensor, tf.Tensor, tf.Tensor] = whole(affine, scale, bias)
    return outputs


def _through_norm(
    affine: tf.Tensor, inner: tf.Tensor, share: float, norm: tuple[tf.Tensor, ...]
) -> _Gradients:
    """Gradients of affine, scale and bias; `inner` float32 [b, width] is `share` times that of what the ReLU reads."""
    mean, root, slope = norm
    rows = tf.cast(tf.shape(affine)[0], tf.float32)
    of_bias = tf.reduce_sum(inner, axis=0) / share
    of_scale = root * (tf.reduce_sum(inner * affine, axis=0) / share - mean * of_bias)
    along = -slope * root * of_scale / rows
    constant = -slope * of_bias / rows - along * mean
    return tf.nn.bias_add(inner * (slope / share) + affine * along, constant), of_scale, of_bias
