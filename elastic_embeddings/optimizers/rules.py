"""The group-lasso optimizers: Adam, AMSGrad, Adagrad, FTRL, and Adagrad with one number of state a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from elastic_embeddings.errors import InputError
from elastic_embeddings.optimizers.elementwise import Value, sqrt
from elastic_embeddings.optimizers.formulas import (
    AdamNumbers,
    FtrlNumbers,
    RowwiseNumbers,
    adam,
    amsgrad,
    ftrl,
    rowwise,
)
from elastic_embeddings.optimizers.learning_rates import base_rate, rate_at
from elastic_embeddings.optimizers.optimizer import Advanced, DualOptimizer, Optimizer
from elastic_embeddings.optimizers.proximal import DynamicL1
from elastic_embeddings.optimizers.row_block import (
    advance_adam,
    advance_amsgrad,
    advance_ftrl,
    advance_rowwise,
)

__all__ = [
    "DynamicL1",
    "GroupAMSGrad",
    "GroupAdagrad",
    "GroupAdam",
    "GroupFTRL",
    "Optimizer",
    "RowwiseGroupAdagrad",
]


@dataclass(frozen=True)
class GroupAdam(DualOptimizer):
    """Adam with a sparse group lasso (Yue et al., ECML-PKDD 2021, Algorithm 1).

    For one row x of width d with gradient g at step t, η the learning rate and every operation elementwise:

        a = √(1 - β₂ᵗ) / (1 - β₁ᵗ)
        m ← β₁ m + (1 - β₁) g
        v'← β₂ v + (1 - β₂) g²
        z ← z + a m - (√v' - √v + ε·[first touch]) / η · x
        s = clip(z, -l1, l1) - z
        x ← s · max(0, 1 - l21 √d / ‖s‖₂) / ((√v' + ε) / η + 2 l2),     v ← v'

    * Every λ at 0 is Adam with "epsilon hat": -z is then (√v + ε)/η · x, and the row is x - η a m / (√v' + ε).
    * ε enters at a row's **first touch**, so that a row first met at a late step keeps its random initial vector, also in
      columns whose gradient is 0. First touch reads z = 0: later z = 0 implies x = 0, and the term vanishes by itself.
    * A row first met late has bias correction near 1 (LazyAdam).
    * The zero set is the exact solution of the step's problem; the nonzero value is the published closed form, unless
      `exact`.
    """

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8

    advance = staticmethod(advance_adam)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.beta_1 < 1 and 0 <= self.beta_2 < 1) or self.epsilon <= 0:
            raise InputError(f"{self}: betas must be in [0, 1), epsilon positive")

    def slots(self, dim: int) -> dict[str, int]:
        """The dual sum z and the moments m and v, all zero at first."""
        return {"z": dim, "m": dim, "v": dim}

    def _numbers(self, step: Value) -> AdamNumbers:
        corrected = sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)
        gain, inverse = self._gain(step) * corrected, 1 / base_rate(self.learning_rate)
        return AdamNumbers(
            self.beta_1, 1 - self.beta_1, self.beta_2, 1 - self.beta_2, self.epsilon, gain, inverse
        )

    def _advanced(
        self, numbers: AdamNumbers, x: tf.Tensor, g: tf.Tensor, slots: Mapping[str, tf.Tensor]
    ) -> Advanced:
        curvature, z, m, v = adam(numbers, x, g, slots["z"], slots["m"], slots["v"])
        return z, curvature, {"z": z, "m": m, "v": v}


@dataclass(frozen=True)
class GroupAMSGrad(GroupAdam):
    """`GroupAdam` whose curvature never falls: √v is taken of the largest v so far (Reddi et al., ICLR 2018).

    It is what the regret bound O(√T) of Yue et al. asks for. Every λ at 0 is Keras' `Adam(amsgrad=True)`.
    """

    advance = staticmethod(advance_amsgrad)

    def slots(self, dim: int) -> dict[str, int]:
        """The dual sum z, the moments m and v, and the largest v; all zero at first."""
        return {**super().slots(dim), "v_max": dim}

    def _advanced(
        self, numbers: AdamNumbers, x: tf.Tensor, g: tf.Tensor, slots: Mapping[str, tf.Tensor]
    ) -> Advanced:
        curvature, z, m, v, highest = amsgrad(
            numbers, x, g, *(slots[name] for name in self.slot_names)
        )
        return z, curvature, {"z": z, "m": m, "v": v, "v_max": highest}


@dataclass(frozen=True)
class GroupFTRL(DualOptimizer):
    """FTRL-Proximal with a group term (McMahan et al., KDD 2013; Yue et al.: Group Adagrad; tfplus: SparseGroupFtrl).

        n'← n + g²
        z ← z + g - (√n' - √n) / η · x
        s = clip(z, -l1, l1) - z
        x ← s · max(0, 1 - l21 √d / ‖s‖₂) / ((β + √n') / η + 2 l2),     n ← n'

    McMahan's l2 is 2 l2 here, as in TensorFlow. With l21 = 0 and `keep_initial=False` it is Keras' `Ftrl` with
    `learning_rate_power=-0.5`, and with rows that start at zero it is that either way.

    Attributes:
        beta: McMahan's β, added to √n; Keras' `beta`.
        initial_accumulator: n at first.
        keep_initial: z starts at -((β + √n)/η + 2 l2) x, so that a random initial row is where learning starts from.
            Else z starts at 0, and the initial row is forgotten at the first touch, as TensorFlow and tfplus do.
    """

    beta: float = 0.0
    initial_accumulator: float = 0.1
    keep_initial: bool = field(default=True, kw_only=True)

    advance = staticmethod(advance_ftrl)

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_no_curvature(self, self.beta, self.initial_accumulator)

    def slots(self, dim: int) -> dict[str, int]:
        """The dual sum z and the sum of squares n."""
        return {"z": dim, "n": dim}

    def initial_state(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return z and n of new rows, float32 [k, 2 dim]."""
        curvature = (self.beta + self.initial_accumulator**0.5) / base_rate(
            self.learning_rate
        ) + 2 * self.l2
        z = -np.float32(curvature if self.keep_initial else 0.0) * weights
        return np.concatenate([z, np.full_like(z, self.initial_accumulator)], axis=1)

    def _numbers(self, step: Value) -> FtrlNumbers:
        return FtrlNumbers(self.beta, self._gain(step), 1 / base_rate(self.learning_rate))

    def _advanced(
        self, numbers: FtrlNumbers, x: tf.Tensor, g: tf.Tensor, slots: Mapping[str, tf.Tensor]
    ) -> Advanced:
        curvature, z, n = ftrl(numbers, x, g, slots["z"], slots["n"])
        return z, curvature, {"z": z, "n": n}


@dataclass(frozen=True)
class GroupAdagrad(GroupFTRL):
    """Adagrad with a sparse group lasso: `GroupFTRL` with β = 0 that keeps initial rows (Yue et al.; papers agree).

    Every λ at 0 is Adagrad: x - η g / √n'. Keras' `Adagrad` adds its epsilon to n under the root; with
    `initial_accumulator` greater by that epsilon it is the same.
    """

    beta: float = field(default=0.0, init=False)
    keep_initial: bool = field(default=True, init=False)


@dataclass(frozen=True)
class RowwiseGroupAdagrad(Optimizer):
    """Adagrad with one accumulator G a row, 4 bytes of state, and the exact proximal step (Monolith's group Adagrad).

        G ← G + max_j g_j²
        A = (β + √G) / η
        z = g - A x
        s = clip(z, -l1, l1) - z
        x ← s · max(0, 1 - l21 √d / ‖s‖₂) / (A + 2 l2)

    The curvature is one number a row, so the closed form is exact, for l1, l2 and l21 alike. No sum of gradients is kept:
    strengths are in units of **one step's** gradient, and act at each of a row's updates, at the rate of that step.
    Every λ at 0 with width 1 is Adagrad. Monolith's threshold has no √d; l21 here is scaled as everywhere.

    Attributes:
        beta: added to √G.
        initial_accumulator: G at first.
    """

    beta: float = 0.0
    initial_accumulator: float = 0.1

    advance = staticmethod(advance_rowwise)

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_no_curvature(self, self.beta, self.initial_accumulator)

    def slots(self, dim: int) -> dict[str, int]:
        """The accumulator G, one number a row."""
        return {"accumulator": 1}

    def initial_state(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return G of new rows, float32 [k, 1]."""
        return np.full((len(weights), 1), self.initial_accumulator, np.float32)

    def _numbers(self, step: Value) -> RowwiseNumbers:
        return RowwiseNumbers(self.beta, 1 / rate_at(self.learning_rate, step))

    def _advanced(
        self, numbers: RowwiseNumbers, x: tf.Tensor, g: tf.Tensor, slots: Mapping[str, tf.Tensor]
    ) -> Advanced:
        largest = tf.reduce_max(tf.square(g), axis=-1, keepdims=True)
        curvature, total = rowwise(numbers, largest, slots["accumulator"])
        return g - curvature * x, curvature, {"accumulator": total}


def _refuse_no_curvature(optimizer: Optimizer, beta: float, initial_accumulator: float) -> None:
    if beta < 0 or initial_accumulator <= 0:
        raise InputError(
            f"{optimizer}: beta must not be negative, initial_accumulator must be positive"
        )
