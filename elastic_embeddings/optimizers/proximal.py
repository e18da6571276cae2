"""The proximal step of the sparse group lasso: its definition, and its execution in graphs.

For one row with linear term z, curvatures A > 0 (a diagonal) and threshold c = l21 √dim, the new
weights are

    argmin over x of  z·x + ½ Σ Aᵢ xᵢ² + l1 ‖x‖₁ + c ‖x‖₂       (l2 ‖x‖₂² adds 2 l2 to every Aᵢ)

With s = clip(z, -l1, l1) - z the row is zero if and only if ‖s‖₂ ≤ c. Otherwise

* **closed form** (Yue et al., ECML-PKDD 2021, Algorithm 1, line 10):  x = s · (1 - c / ‖s‖) / A,
  which is the minimum only if all curvatures of the row are equal;
* **exact**: xᵢ = sᵢ / (Aᵢ + c / r), where r = ‖x‖₂ solves Σ (sᵢ / (Aᵢ r + c))² = 1.

With q(r) = ‖s / (A r + c)‖, the function 1/q is concave and increasing (a power mean of linear
functions). Newton's method from a point left of the root therefore stays left of it and converges
without safeguards. `elastic_embeddings.optimizers.kernel` has the same step for compiled code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import tensorflow as tf

from elastic_embeddings.errors import InputError
from elastic_embeddings.optimizers.formulas import Value, frequency_factor

NEWTON_STEPS = 12


@dataclass(frozen=True)
class DynamicL1:
    """L1 by frequency: l1 times 1 + C · max(N - count, 0) / N, so that l1 is stronger on rare rows.

    The formula is this library's own: the article that names the idea (Ant, Elastic Feature
    Scaling) does not print one. The factor is that of the count at the time of the update; sums
    in the optimizer state are not rescaled.

    >>> [DynamicL1(2.0, 4).factor(count) for count in (0, 1, 4, 9)]
    [3.0, 2.5, 1.0, 1.0]

    Attributes:
        multiple: C; the factor of a row that was never seen is 1 + C.
        min_count: N; from this count on the factor is 1.

    Raises:
        InputError: a negative multiple, or a count below 1.
    """

    multiple: float
    min_count: int

    def __post_init__(self) -> None:
        if not 0 <= self.multiple < math.inf or self.min_count < 1:
            raise InputError(f"{self}: multiple must not be negative, min_count must be at least 1")

    def factor(self, count: float) -> float:
        """Return the factor of l1 for a row that was seen `count` times."""
        return float(frequency_factor(float(count), self.multiple, float(self.min_count)))


def proximal_step(
    linear: tf.Tensor, curvature: tf.Tensor, l1: Value, threshold: float, *, exact: bool
) -> tf.Tensor:
    """Return the new weights.

    Args:
        linear: float [.., d], z.
        curvature: float [.., d], A including 2 l2.
        l1: a number, or float [.., 1].
        threshold: c; 0: the last axis is not a group.
        exact: solve for r, or use the closed form.
    """
    s = tf.clip_by_value(linear, -l1, l1) - linear
    if not threshold:
        return s / curvature
    norm = tf.norm(s, axis=-1, keepdims=True)
    c = tf.constant(threshold, s.dtype)
    # Not `norm > c`, nor its negation, which TensorFlow turns into that: a norm of NaN makes the
    # row NaN, as in the kernel.
    zero = norm <= c
    if exact:
        # 2c in place of the norm keeps Newton's start positive in rows that become zero.
        shrunk = s / (curvature + c / _root(s, curvature, c, tf.where(zero, 2 * c, norm)))
    else:
        shrunk = s * (1 - tf.math.divide_no_nan(c, norm)) / curvature
    return tf.where(zero, tf.zeros_like(s), shrunk)


def _root(s: tf.Tensor, a: tf.Tensor, c: tf.Tensor, norm: tf.Tensor) -> tf.Tensor:
    """Return r > 0, float [.., 1]."""
    # q ≥ 1 there, because no A is above the largest: the start is left of the root.
    r = (norm - c) / tf.reduce_max(a, axis=-1, keepdims=True)
    for _ in range(NEWTON_STEPS):
        t = a * r + c
        squares = tf.square(s / t)
        q2 = tf.reduce_sum(squares, axis=-1, keepdims=True)
        slope = tf.reduce_sum(squares * (a / t), axis=-1, keepdims=True)
        # As in the kernel: rounding can make a step negative or 0 / 0, which is skipped.
        r = r + tf.maximum(tf.math.divide_no_nan((tf.sqrt(q2) - 1) * q2, slope), 0)
    return r
