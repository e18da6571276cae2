"""The elementwise formulas of the rules, one text for Python floats, TensorFlow and kernels.

A rule takes a weight x, its gradient g and its state. It returns a curvature A and the new state;
the linear term z is the first slot of the state, except in `rowwise`. The proximal step
(`elastic_embeddings.optimizers.proximal`) makes the new weight from z and A.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
from numba.extending import overload

from elastic_embeddings.core.native import inlined

Value = Any
"""A Python float, a tensor, or a scalar in a kernel: their types have nothing in common."""


def sqrt(value: Value) -> Value:
    """Return √value."""
    return math.sqrt(value) if isinstance(value, float) else tf.sqrt(value)


def cos(value: Value) -> Value:
    """Return the cosine of an angle in radians. Not for kernels."""
    return math.cos(value) if isinstance(value, float) else tf.cos(value)


def where(condition: Value, yes: Value, no: Value) -> Value:
    """Return `yes` where the condition is true, else `no`."""
    return tf.where(condition, yes, no) if tf.is_tensor(condition) else (yes if condition else no)


@inlined
def maximum(a: Value, b: Value) -> Value:
    """Return the larger value."""
    return where(a > b, a, b)


@inlined
def minimum(a: Value, b: Value) -> Value:
    """Return the smaller value."""
    return where(a < b, a, b)


# What kernels compile in place of the functions above. `strict=False`: the annotations differ.
@overload(sqrt, strict=False)  # type: ignore[untyped-decorator]
def _compiled_sqrt(value: Value) -> Callable[..., Value]:
    return lambda value: math.sqrt(value)


@overload(where, strict=False)  # type: ignore[untyped-decorator]
def _compiled_where(condition: Value, yes: Value, no: Value) -> Callable[..., Value]:
    return lambda condition, yes, no: yes if condition else no


class AdamConstants(NamedTuple):
    """The constants of one Adam step.

    `rest_i` = 1 - β_i, `gain` = η_t/η₀ · √(1 - β₂ᵗ)/(1 - β₁ᵗ), `inverse_rate` = 1/η₀.
    """

    beta_1: Value
    rest_1: Value
    beta_2: Value
    rest_2: Value
    epsilon: Value
    gain: Value
    inverse_rate: Value


class FtrlConstants(NamedTuple):
    """The constants of one FTRL-Proximal step: `gain` = η_t/η₀, `inverse_rate` = 1/η₀."""

    beta: Value
    gain: Value
    inverse_rate: Value


class RowwiseConstants(NamedTuple):
    """The constants of one step of row-wise Adagrad: `inverse_rate` = 1/η_t."""

    beta: Value
    inverse_rate: Value


@inlined
def adam(
    k: AdamConstants, x: Value, g: Value, z: Value, m: Value, v: Value
) -> tuple[Value, Value, Value, Value]:
    """Return (A, z, m, v) of Group Adam."""
    m = k.beta_1 * m + k.rest_1 * g
    new_v = k.beta_2 * v + k.rest_2 * (g * g)
    root = sqrt(new_v)
    # `0 *` is a zero of epsilon's type: float, tensor, or the scalar of a kernel.
    first = where(z == 0, k.epsilon, 0 * k.epsilon)  # ε enters when a row is first updated
    z = z + k.gain * m - (root - sqrt(v) + first) * k.inverse_rate * x
    return (root + k.epsilon) * k.inverse_rate, z, m, new_v


@inlined
def amsgrad(
    k: AdamConstants, x: Value, g: Value, z: Value, m: Value, v: Value, v_max: Value
) -> tuple[Value, Value, Value, Value, Value]:
    """Return (A, z, m, v, v_max) of Group AMSGrad."""
    m = k.beta_1 * m + k.rest_1 * g
    v = k.beta_2 * v + k.rest_2 * (g * g)
    new_max = maximum(v, v_max)
    root = sqrt(new_max)
    first = where(z == 0, k.epsilon, 0 * k.epsilon)
    z = z + k.gain * m - (root - sqrt(v_max) + first) * k.inverse_rate * x
    return (root + k.epsilon) * k.inverse_rate, z, m, v, new_max


@inlined
def ftrl(k: FtrlConstants, x: Value, g: Value, z: Value, n: Value) -> tuple[Value, Value, Value]:
    """Return (A, z, n) of FTRL-Proximal."""
    new_n = n + g * g
    root = sqrt(new_n)
    z = z + k.gain * g - (root - sqrt(n)) * k.inverse_rate * x
    return (k.beta + root) * k.inverse_rate, z, new_n


@inlined
def rowwise(k: RowwiseConstants, largest: Value, total: Value) -> tuple[Value, Value]:
    """Return (A, G) of a row from its largest g² and the sum G; then z = g - A · x."""
    total = total + largest
    return (k.beta + sqrt(total)) * k.inverse_rate, total


@inlined
def frequency_factor(count: Value, multiple: Value, min_count: Value) -> Value:
    """Return 1 + C · max(N - count, 0) / N; all arguments have the same float type."""
    return 1 + multiple * (maximum(min_count - count, 0 * min_count) / min_count)


@inlined
def decay_multiple(step: Value, count: Value, most: Value, one: Value) -> Value:
    """Return step / count, limited to [1, `most`]; all arguments have the same float type."""
    return minimum(maximum(step / maximum(count, one), one), most)
