"""The group-lasso optimizers: Adam, AMSGrad, Adagrad, FTRL, and row-wise Adagrad."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from elastic_embeddings.errors import InputError
from elastic_embeddings.optimizers import formulas, kernel
from elastic_embeddings.optimizers.formulas import (
    AdamConstants,
    FtrlConstants,
    RowwiseConstants,
    Value,
    sqrt,
)
from elastic_embeddings.optimizers.learning_rates import base_rate, rate_at
from elastic_embeddings.optimizers.optimizer import DualOptimizer, Optimizer, RuleResult


@dataclass(frozen=True)
class GroupAdam(DualOptimizer):
    """Adam with a sparse group lasso (Yue et al., ECML-PKDD 2021, Algorithm 1).

    For one row x of width d with gradient g at step t, with learning rate η, elementwise:

        a = √(1 - β₂ᵗ) / (1 - β₁ᵗ)
        m ← β₁ m + (1 - β₁) g
        v'← β₂ v + (1 - β₂) g²
        z ← z + a m - (√v' - √v + ε·[first touch]) / η · x
        s = clip(z, -l1, l1) - z
        x ← s · max(0, 1 - l21 √d / ‖s‖₂) / ((√v' + ε) / η + 2 l2),     v ← v'

    * Without penalties it is Adam with "epsilon hat": -z is then (√v + ε)/η · x, and the row
      becomes x - η a m / (√v' + ε).
    * ε enters at the **first touch** of a row. A row that is first seen at a late step keeps its
      random initial vector, also in columns whose gradient is 0. First touch means z = 0: a later
      z = 0 implies x = 0, which makes the term vanish.
    * The bias correction of a row that is first seen late is close to 1 (LazyAdam).
    * The set of zeros is the exact solution of the step's problem. Nonzero values follow the
      published closed form, unless `exact`.
    """

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8

    formula = staticmethod(formulas.adam)
    block_rule = staticmethod(kernel.adam_block)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.beta_1 < 1 and 0 <= self.beta_2 < 1 and 0 < self.epsilon < math.inf):
            raise InputError(f"{self}: betas must be in [0, 1), epsilon positive")

    def slots(self, dim: int) -> dict[str, int]:
        """The dual sum z and the moments m and v; all start at 0."""
        return {"z": dim, "m": dim, "v": dim}

    @property
    def _offset(self) -> float:
        return self.epsilon

    def _step_constants(self, step: Value) -> AdamConstants:
        bias_correction = sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)
        return AdamConstants(
            beta_1=self.beta_1,
            rest_1=1 - self.beta_1,
            beta_2=self.beta_2,
            rest_2=1 - self.beta_2,
            epsilon=self.epsilon,
            gain=self._gain(step) * bias_correction,
            inverse_rate=1 / base_rate(self.learning_rate),
        )


@dataclass(frozen=True)
class GroupAMSGrad(GroupAdam):
    """`GroupAdam` with the largest v so far in place of v (AMSGrad; Reddi et al., ICLR 2018).

    The regret bound O(√T) of Yue et al. assumes it. Without penalties it is Keras'
    `Adam(amsgrad=True)`.
    """

    # It has one state column more than the formula of the base class.
    formula = staticmethod(formulas.amsgrad)  # type: ignore[assignment]
    block_rule = staticmethod(kernel.amsgrad_block)

    def slots(self, dim: int) -> dict[str, int]:
        """The dual sum z, the moments m and v, and the largest v; all start at 0."""
        return {**super().slots(dim), "v_max": dim}


@dataclass(frozen=True)
class GroupFTRL(DualOptimizer):
    """FTRL-Proximal with a group term (McMahan et al., KDD 2013; Yue et al.: Group Adagrad).

        n'← n + g²
        z ← z + g - (√n' - √n) / η · x
        s = clip(z, -l1, l1) - z
        x ← s · max(0, 1 - l21 √d / ‖s‖₂) / ((β + √n') / η + 2 l2),     n ← n'

    McMahan's l2 is 2 l2 here, as in TensorFlow. With l21 = 0 and `keep_initial=False` it is Keras'
    `Ftrl` with `learning_rate_power=-0.5`. If rows start at zero, `keep_initial` makes no
    difference. tfplus calls the rule SparseGroupFtrl.

    Attributes:
        beta: McMahan's β, added to √n; Keras' `beta`.
        initial_accumulator: initial value of n.
        keep_initial: z starts at -((β + √n)/η + 2 l2) x, so that training starts at a row's random
            initial vector. Otherwise z starts at 0 and the first update discards the initial
            vector, as in TensorFlow and tfplus.
    """

    beta: float = 0.0
    initial_accumulator: float = 0.1
    keep_initial: bool = field(default=True, kw_only=True)

    formula = staticmethod(formulas.ftrl)
    block_rule = staticmethod(kernel.ftrl_block)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_curvature(self, self.beta, self.initial_accumulator)

    def slots(self, dim: int) -> dict[str, int]:
        """The dual sum z and the sum of squares n."""
        return {"z": dim, "n": dim}

    def initial_state(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return z and n of new rows, float32 [k, 2 dim]."""
        rate = base_rate(self.learning_rate)
        # The z for which the proximal step without penalties returns the initial vector: -z / A.
        curvature = (self.beta + self.initial_accumulator**0.5) / rate + 2 * self.l2
        z = -np.float32(curvature if self.keep_initial else 0.0) * weights
        return np.concatenate([z, np.full_like(z, self.initial_accumulator)], axis=1)

    @property
    def _offset(self) -> float:
        return self.beta

    def _step_constants(self, step: Value) -> FtrlConstants:
        return FtrlConstants(self.beta, self._gain(step), 1 / base_rate(self.learning_rate))


@dataclass(frozen=True)
class GroupAdagrad(GroupFTRL):
    """Adagrad with a sparse group lasso: `GroupFTRL` with β = 0 and `keep_initial` (Yue et al.).

    Without penalties it is Adagrad: x - η g / √n'. Keras' `Adagrad` adds its epsilon to n under the
    root; it equals this one with `initial_accumulator` increased by that epsilon.
    """

    beta: float = field(default=0.0, init=False)
    keep_initial: bool = field(default=True, init=False)


@dataclass(frozen=True)
class RowwiseGroupAdagrad(Optimizer):
    """Adagrad with one accumulator G per row, 4 bytes of state (group Adagrad of Monolith).

        G ← G + max_j g_j²
        A = (β + √G) / η
        z = g - A x
        s = clip(z, -l1, l1) - z
        x ← s · max(0, 1 - l21 √d / ‖s‖₂) / (A + 2 l2)

    The curvature is one number per row, so the closed form of the proximal step is exact. There is
    no sum of gradients: penalties are in units of the gradient of **one step**, and act at each
    update of a row, at the rate of that step. Without penalties and with width 1 it is Adagrad.
    Monolith's threshold does not contain √d; l21 is scaled here as in the other rules.

    Attributes:
        beta: added to √G.
        initial_accumulator: initial value of G.
    """

    beta: float = 0.0
    initial_accumulator: float = 0.1

    block_rule = staticmethod(kernel.rowwise_block)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_curvature(self, self.beta, self.initial_accumulator)

    def slots(self, dim: int) -> dict[str, int]:
        """The accumulator G, one number per row."""
        return {"accumulator": 1}

    def initial_state(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return G of new rows, float32 [k, 1]."""
        return np.full((len(weights), 1), self.initial_accumulator, np.float32)

    def _step_constants(self, step: Value) -> RowwiseConstants:
        # The rate of this step: there is no sum of gradients, and so no state in units of η₀.
        return RowwiseConstants(self.beta, 1 / rate_at(self.learning_rate, step))

    def _apply_rule(
        self,
        constants: RowwiseConstants,
        x: tf.Tensor,
        g: tf.Tensor,
        slots: Mapping[str, tf.Tensor],
    ) -> RuleResult:
        largest = tf.reduce_max(tf.square(g), axis=-1, keepdims=True)
        curvature, total = formulas.rowwise(constants, largest, slots["accumulator"])
        return g - curvature * x, curvature, {"accumulator": total}


def _check_curvature(optimizer: Optimizer, beta: float, initial_accumulator: float) -> None:
    if not (0 <= beta < math.inf and 0 < initial_accumulator < math.inf):
        raise InputError(
            f"{optimizer}: beta must not be negative, initial_accumulator must be positive"
        )
