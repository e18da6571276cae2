"""Group-lasso Adam as a pure function of (weights, slots, gradients, step). Frozen data, no state of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tensorflow as tf

from features.errors import InputError
from training.settings import OptimizerSettings


@dataclass(frozen=True)
class GroupAdam:
    """Adam with a sparse group lasso: the last axis is one group (Yue et al., ECML-PKDD 2021, Algorithm 1).

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
    * t is the table's step, not the row's: a row first met late has bias correction near 1 (LazyAdam). Rows not in the
      batch are left alone altogether.
    * A row set to zero keeps z, m and v, and comes back when ‖s‖ exceeds the threshold again.
    * The zero set is the exact solution of the step's problem; the nonzero value is the published closed form.
    * Strengths are in units of z, which adds up gradients: l21 prunes rows that were seen rarely first.

    Serves dense weights of any shape too, with l1 = l21 = 0.

    Raises:
        InputError: a parameter out of range.
    """

    learning_rate: float = 1e-3
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    l1: float = 0.0
    l2: float = 0.0
    l21: float = 0.0

    def __post_init__(self) -> None:
        positive = self.learning_rate > 0 and self.epsilon > 0
        if not positive or not (0 <= self.beta_1 < 1 and 0 <= self.beta_2 < 1) or min(self.l1, self.l2, self.l21) < 0:
            raise InputError(f"{self}: learning_rate and epsilon must be positive, betas in [0, 1), l1, l2 and l21 not negative")

    @classmethod
    def from_settings(cls, settings: OptimizerSettings) -> GroupAdam:
        """Return the optimizer that the YAML describes."""
        return cls(**settings.model_dump())

    @property
    def slot_names(self) -> tuple[str, ...]:
        """The state kept beside each weight, all zero at first: the dual sum z, the moments m and v."""
        return ("z", "m", "v")

    def update(
        self, weights: tf.Tensor, slots: Mapping[str, tf.Tensor], gradients: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Return the weights and slots after one step.

        Args:
            weights: float [.., d].
            slots: `slot_names` → float, shaped as the weights.
            gradients: float, shaped as the weights.
            step: int64 scalar, 1 at the first step.

        Returns:
            The new weights and the new slots, shaped as they came.
        """
        m = self.beta_1 * slots["m"] + (1 - self.beta_1) * gradients
        v = self.beta_2 * slots["v"] + (1 - self.beta_2) * tf.square(gradients)
        root = tf.sqrt(v)
        first = tf.where(tf.equal(slots["z"], 0), tf.constant(self.epsilon, weights.dtype), 0)
        pull = (root - tf.sqrt(slots["v"]) + first) / self.learning_rate
        z = slots["z"] + self._bias_correction(step, weights.dtype) * m - pull * weights
        scale = (root + self.epsilon) / self.learning_rate + 2 * self.l2
        return self._shrunk(self._soft(z)) / scale, {"z": z, "m": m, "v": v}

    def _bias_correction(self, step: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        t = tf.cast(step, tf.float64)  # 1 - 0.999 in float32 would be off by 5e-5
        one = tf.ones([], tf.float64)
        return tf.cast(tf.sqrt(one - self.beta_2**t) / (one - self.beta_1**t), dtype)

    def _soft(self, z: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(z, -self.l1, self.l1) - z if self.l1 else -z

    def _shrunk(self, s: tf.Tensor) -> tf.Tensor:
        if not self.l21:
            return s
        norm = tf.norm(s, axis=-1, keepdims=True)
        threshold = self.l21 * s.shape[-1] ** 0.5
        kept = s * (1 - tf.math.divide_no_nan(tf.constant(threshold, s.dtype), norm))
        return tf.where(norm > threshold, kept, tf.zeros_like(s))
