"""What each rule adds to a row before the proximal step: elementwise formulas, one text for kernels and for graphs.

A rule takes a weight x, its gradient g and its state, and returns the weight's linear term and curvature, then the new
state. The proximal step (`elastic_embeddings.optimizers.proximal`) turns linear term and curvature into the new weight.
"""

from __future__ import annotations

from typing import NamedTuple

from elastic_embeddings.optimizers.elementwise import Value, inlined, maximum, sqrt, where


class AdamNumbers(NamedTuple):
    """What one Adam step needs beside the row.

    `rest_i` = 1 - β_i, `gain` = η_t/η₀ · √(1 - β₂ᵗ)/(1 - β₁ᵗ), `inverse_rate` = 1/η₀.
    """

    beta_1: Value
    rest_1: Value
    beta_2: Value
    rest_2: Value
    epsilon: Value
    gain: Value
    inverse_rate: Value


class FtrlNumbers(NamedTuple):
    """What one FTRL-Proximal step needs beside the row; `gain` = η_t/η₀, `inverse_rate` = 1/η₀."""

    beta: Value
    gain: Value
    inverse_rate: Value


class RowwiseNumbers(NamedTuple):
    """What one step of row-wise Adagrad needs beside the row; `inverse_rate` = 1/η_t."""

    beta: Value
    inverse_rate: Value


@inlined
def adam(
    k: AdamNumbers, x: Value, g: Value, z: Value, m: Value, v: Value
) -> tuple[Value, Value, Value, Value]:
    """Return (curvature, z, m, v) of Group Adam; z is the linear term."""
    m = k.beta_1 * m + k.rest_1 * g
    grown = k.beta_2 * v + k.rest_2 * (g * g)
    root = sqrt(grown)
    first = where(z == 0, k.epsilon, 0 * k.epsilon)
    z = z + k.gain * m - (root - sqrt(v) + first) * k.inverse_rate * x
    return (root + k.epsilon) * k.inverse_rate, z, m, grown


@inlined
def amsgrad(
    k: AdamNumbers, x: Value, g: Value, z: Value, m: Value, v: Value, v_max: Value
) -> tuple[Value, Value, Value, Value, Value]:
    """Return (curvature, z, m, v, v_max) of Group AMSGrad; z is the linear term."""
    m = k.beta_1 * m + k.rest_1 * g
    v = k.beta_2 * v + k.rest_2 * (g * g)
    highest = maximum(v, v_max)
    root = sqrt(highest)
    first = where(z == 0, k.epsilon, 0 * k.epsilon)
    z = z + k.gain * m - (root - sqrt(v_max) + first) * k.inverse_rate * x
    return (root + k.epsilon) * k.inverse_rate, z, m, v, highest


@inlined
def ftrl(k: FtrlNumbers, x: Value, g: Value, z: Value, n: Value) -> tuple[Value, Value, Value]:
    """Return (curvature, z, n) of FTRL-Proximal; z is the linear term."""
    total = n + g * g
    root = sqrt(total)
    z = z + k.gain * g - (root - sqrt(n)) * k.inverse_rate * x
    return (k.beta + root) * k.inverse_rate, z, total


@inlined
def rowwise(k: RowwiseNumbers, largest: Value, total: Value) -> tuple[Value, Value]:
    """Return (curvature, G) of a row, given its largest g² and the sum G so far; the linear term is g - curvature · x."""
    total = total + largest
    return (k.beta + sqrt(total)) * k.inverse_rate, total
