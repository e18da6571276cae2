"""The proximal step of the sparse group lasso, in graphs and in kernels, and L1 by frequency.

For one row with linear term z, curvatures A > 0 (a diagonal) and threshold c = l21 √dim, the new weights are

    argmin over x of  z·x + ½ Σ Aᵢ xᵢ² + l1 ‖x‖₁ + c ‖x‖₂         (l2 ‖x‖₂² is 2 l2 added to every Aᵢ)

With s = clip(z, -l1, l1) - z the row is zero exactly if ‖s‖₂ ≤ c. Otherwise

* **closed form** (Yue et al., ECML-PKDD 2021, Algorithm 1, line 10):  x = s · (1 - c / ‖s‖) / A, which is the minimum
  only where A is the same in the whole row;
* **exact**: xᵢ = sᵢ / (Aᵢ + c / r), where r = ‖x‖₂ solves Σ (sᵢ / (Aᵢ r + c))² = 1.

With q(r) = ‖s / (A r + c)‖, the function 1/q is concave and grows (a power mean of linear functions), so Newton's method
from any point left of the root stays left of it, and climbs to it without a safeguard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numba import literally

from elastic_embeddings.core.row_vectors import sum_of_squares
from elastic_embeddings.errors import InputError
from elastic_embeddings.optimizers.elementwise import Value, inlined, maximum, minimum
from elastic_embeddings.optimizers.row_block import CURVATURE, LINEAR, Block

_NEWTON_STEPS = 12
_CLOSE = np.float32(1e-4)  # the error after such a step is about its square


@dataclass(frozen=True)
class DynamicL1:
    """L1 by frequency: l1 times 1 + C · max(N - count, 0) / N, so that rarely seen rows pay more.

    A choice, not a published formula: the article that names the idea (Ant, Elastic Feature Scaling) does not print one.
    The factor is that of the count at the time of the update; what the state has summed up is not rescaled.

    >>> [DynamicL1(2.0, 4).factor(count) for count in (0, 1, 4, 9)]
    [3.0, 2.5, 1.0, 1.0]

    Attributes:
        multiple: C; an unseen row would pay 1 + C times l1.
        min_count: N; rows seen as often as this pay l1.

    Raises:
        InputError: a negative multiple, or a count below 1.
    """

    multiple: float
    min_count: int

    def __post_init__(self) -> None:
        if self.multiple < 0 or self.min_count < 1:
            raise InputError(f"{self}: multiple must not be negative, min_count must be at least 1")

    def factor(self, count: float) -> float:
        """Return what l1 is multiplied by for a row seen `count` times."""
        return frequency_factor(float(count), self.multiple, float(self.min_count))


@inlined
def frequency_factor(count: Value, multiple: Value, min_count: Value) -> Value:
    """Return 1 + C · max(N - count, 0) / N; all of one float type."""
    return 1 + multiple * (maximum(min_count - count, 0 * min_count) / min_count)


@inlined
def missed_steps(step: Value, count: Value, most: Value, one: Value) -> Value:
    """Return how many steps a row's step stands for, step / count in 1 … `most`; all of one float type."""
    return minimum(maximum(step / maximum(count, one), one), most)


def proximal_step(
    linear: tf.Tensor, curvature: tf.Tensor, l1: Value, threshold: float, *, exact: bool
) -> tf.Tensor:
    """Return the new weights, in a graph.

    Args:
        linear: float [.., d], z.
        curvature: float, shaped as `linear`, A with 2 l2 in it.
        l1: a number, or float [.., 1].
        threshold: c; with 0 the last axis is no group.
        exact: solve for r, or take the closed form.
    """
    s = tf.clip_by_value(linear, -l1, l1) - linear
    if not threshold:
        return s / curvature
    norm = tf.norm(s, axis=-1, keepdims=True)
    c = tf.constant(threshold, s.dtype)
    alive = norm > c
    if exact:
        shrunk = s / (curvature + c / _root(s, curvature, c, tf.where(alive, norm, 2 * c)))
    else:
        shrunk = s * (1 - tf.math.divide_no_nan(c, norm)) / curvature
    return tf.where(alive, shrunk, tf.zeros_like(s))


def _root(s: tf.Tensor, a: tf.Tensor, c: tf.Tensor, norm: tf.Tensor) -> tf.Tensor:
    """Return r > 0, float [.., 1]; `norm` above c keeps the start positive, also for rows that will be zero."""
    r = (norm - c) / tf.reduce_max(a, axis=-1, keepdims=True)
    for _ in range(_NEWTON_STEPS):
        t = a * r + c
        squares = tf.square(s / t)
        q2 = tf.reduce_sum(squares, axis=-1, keepdims=True)
        slope = tf.reduce_sum(squares * (a / t), axis=-1, keepdims=True)
        r = r + tf.maximum(tf.math.divide_no_nan((tf.sqrt(q2) - 1) * q2, slope), 0)
    return r


@inlined
def soften(b: Block, start: int, end: int, l1: Value) -> None:
    """Replace linear terms z at start … end - 1 by s = clip(z, -l1, l1) - z."""
    for i in range(start, end):
        z = b[LINEAR + i]
        clipped = z if z > -l1 else -l1
        b[LINEAR + i] = (clipped if clipped < l1 else l1) - z


@inlined
def shrink_closed(b: Block, start: int, dim: int, lanes: int, c: Value) -> None:
    """Shrink s of one row by the closed form; +0 and -0 alike where the row is zero. `lanes` is `lanes_of(dim)`."""
    norm = _norm(b, start, dim, lanes)
    factor = np.float32(1) - c / norm if norm > c else np.float32(0)
    for i in range(start, start + dim):
        b[LINEAR + i] *= factor


@inlined
def shrink_exact(b: Block, start: int, dim: int, lanes: int, c: Value) -> None:
    """Add c / r to the curvatures of one row, or set its s to 0. `lanes` is `lanes_of(dim)`."""
    norm = _norm(b, start, dim, lanes)
    if norm <= c:
        for i in range(start, start + dim):
            b[LINEAR + i] = 0
    elif c > 0:
        more = c / _row_root(b, start, dim, c, norm)
        for i in range(start, start + dim):
            b[CURVATURE + i] += more


@inlined
def divide(b: Block, count: int) -> None:
    """Write the new weights s / A of a block's first `count` elements; zeros have no sign."""
    for i in range(count):
        b[i] = b[LINEAR + i] / b[CURVATURE + i] + np.float32(0)


@inlined
def _norm(b: Block, start: int, dim: int, lanes: int) -> Value:
    squares = np.float32(0)
    for i in range(start, start + dim, lanes):
        squares += sum_of_squares(b, LINEAR + i, literally(lanes))
    return np.float32(math.sqrt(squares))


@inlined
def _row_root(b: Block, start: int, dim: int, c: Value, norm: Value) -> Value:
    steepest = np.float32(0)
    for i in range(start, start + dim):
        steepest = max(steepest, b[CURVATURE + i])
    r = (norm - c) / steepest
    for _ in range(_NEWTON_STEPS):
        more = _newton_step(b, start, dim, c, r)
        r += more if more > 0 else np.float32(0)
        if not more > _CLOSE * r:
            break
    return r


@inlined
def _newton_step(b: Block, start: int, dim: int, c: Value, r: Value) -> Value:
    q2, slope = np.float32(0), np.float32(0)
    for i in range(start, start + dim):
        a = b[CURVATURE + i]
        t = a * r + c
        square = (b[LINEAR + i] / t) ** 2
        q2 += square
        slope += square * (a / t)
    return (np.float32(math.sqrt(q2)) - np.float32(1)) * q2 / slope
