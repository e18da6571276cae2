"""What all rules share: penalties, and the two executions of a step, in graphs and in kernels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from elastic_embeddings.errors import InputError
from elastic_embeddings.optimizers.formulas import Value, decay_multiple, frequency_factor
from elastic_embeddings.optimizers.kernel import (
    AREA,
    BlockRule,
    Penalties,
    RowKernel,
    update_kernel,
)
from elastic_embeddings.optimizers.learning_rates import LearningRate, base_rate, rate_at
from elastic_embeddings.optimizers.proximal import DynamicL1, proximal_step
from elastic_embeddings.optimizers.row_storage import Storage, rounding_salt

RuleResult = tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]
"""Linear term, curvature and new slots."""


@dataclass(frozen=True)
class Optimizer(ABC):
    """A rule with a sparse group lasso; the last axis of the weights is one group.

    A rule computes a linear term z and curvatures A from a row's gradient and state. The proximal
    step (`elastic_embeddings.optimizers.proximal`) with l1, l2 and l21 √dim makes the new weights.
    An optimizer is immutable. It runs in graphs (`update`) and in compiled kernels over rows in
    host memory (`row_kernel`), with the same formulas.

    * Rows that are not in a batch do not change. t is the step of the table, not of the row.
    * `decay` adds decay · x to the gradient of a row, once per step: the loss includes
      decay · ‖x‖² / 2 of the batch's rows. Unlike l2, which is a prior on the sum of all
      gradients and only shortens steps, it acts at every step. With `decay_steps` it acts
      min(step / count, `decay_steps`) times as strongly, as if it had also acted in the steps
      between a rare row's batches. This regularises rare rows as L2 on a whole table does.
    * A row that was set to zero keeps its state, and becomes nonzero when its z passes the
      threshold again.
    * A gradient that is not finite, or whose square overflows (above 1.8e19), makes its row NaN:
      the whole row with l21, otherwise the columns concerned. No step repairs that; training checks
      the loss and the weights.
    * A learning rate schedule weights the gradients: that of step t by η_t/η₀, where η₀ is the
      schedule's base rate. The state stays in units of η₀, so a change of the rate does not change
      the weights, and rows that are zero stay zero as the rate decreases.

    Attributes:
        learning_rate: a constant, or a schedule.
        l1: strength of ‖x‖₁.
        l2: strength of ‖x‖₂².
        l21: strength of √dim · ‖x‖₂.
        decay: strength of ‖x‖₂² / 2 in the loss of a step.
        decay_steps: upper limit of the factor of `decay` for rare rows; 1: no factor.
        exact: use the exact proximal step if curvatures differ within a row, instead of the
            published closed form.
        dynamic_l1: l1 depending on how often a row was seen.

    Raises:
        InputError: a parameter is out of range.
    """

    learning_rate: float | LearningRate = 1e-3
    l1: float = field(default=0.0, kw_only=True)
    l2: float = field(default=0.0, kw_only=True)
    l21: float = field(default=0.0, kw_only=True)
    decay: float = field(default=0.0, kw_only=True)
    decay_steps: int = field(default=1, kw_only=True)
    exact: bool = field(default=False, kw_only=True)
    dynamic_l1: DynamicL1 | None = field(default=None, kw_only=True)

    block_rule: ClassVar[BlockRule]
    """The rule on a block of rows in compiled code, of `elastic_embeddings.optimizers.kernel`."""

    def __post_init__(self) -> None:
        # `not` before comparisons: they are false for NaN.
        strengths = self.l1, self.l2, self.l21
        if not 0 < base_rate(self.learning_rate) < math.inf or not all(
            0 <= strength < math.inf for strength in strengths
        ):
            raise InputError(
                f"{self}: learning_rate must be positive, l1, l2 and l21 not negative, all finite"
            )
        if not 0 <= self.decay < math.inf or self.decay_steps < 1:
            raise InputError(f"{self}: decay must not be negative, decay_steps must be at least 1")

    @abstractmethod
    def slots(self, dim: int) -> dict[str, int]:
        """Return names and widths of a row's state, in column order of the packed state."""

    @property
    def slot_names(self) -> tuple[str, ...]:
        """The names of the state, in column order."""
        return tuple(self.slots(1))

    def initial_state(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the packed state float32 [k, S] of new rows with weights float32 [k, dim]."""
        return np.zeros((len(weights), sum(self.slots(weights.shape[1]).values())), np.float32)

    def restated(
        self,
        state: NDArray[np.float32],
        weights: NDArray[np.float32],
        previous: Optimizer,
        counts: NDArray[np.integer] | None = None,
    ) -> NDArray[np.float32]:
        """Return the state in which these weights stay, under this optimizer's learning rate.

        Args:
            state: packed state [k, S], of this class's slots.
            weights: float32 [k, dim], that belong to the state.
            previous: the optimizer that made both, of the same class. If its penalties differ, the
                weights change at the next step of a row.
            counts: [k], how often each row was seen, for `dynamic_l1`; None: often enough.
        """
        return state

    def update(
        self,
        weights: tf.Tensor,
        slots: Mapping[str, tf.Tensor],
        gradients: tf.Tensor,
        step: tf.Tensor,
        counts: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Return the weights and slots after one step, in a graph or eagerly, on any device.

        Args:
            weights: float [.., d]; dense weights may have any shape if l1 = l21 = 0.
            slots: `slots(d)` → float [.., width].
            gradients: float, shaped like the weights.
            step: int64 scalar, 1 at the first step.
            counts: integers [..], how often each row was seen, for `dynamic_l1` and `decay_steps`.

        Returns:
            The new weights and the new slots, in the same shapes.

        Raises:
            InputError: `dynamic_l1` or `decay_steps` is set, and `counts` is None.
        """
        dtype = weights.dtype
        # The constants are computed in float64: 1 - β₂ᵗ would lose digits in float32.
        constants = self._step_constants(tf.cast(step, tf.float64))
        constants = constants._make(_as_tensor(number, dtype) for number in constants)
        gradients = tf.convert_to_tensor(gradients)
        if self.decay:
            gradients += self._decay_strength(step, counts, dtype) * weights
        old_slots = {name: tf.convert_to_tensor(slot) for name, slot in slots.items()}
        linear, curvature, new_slots = self._apply_rule(constants, weights, gradients, old_slots)
        curvature += 2 * self.l2
        # A threshold of 0 tells the proximal step that the last axis is no group: dense weights.
        threshold = self._threshold(weights.shape[-1]) if self.l21 else 0.0
        l1 = self._l1_strength(counts, dtype)
        return proximal_step(linear, curvature, l1, threshold, exact=self.exact), new_slots

    def row_kernel(
        self, dim: int, step: int, storage: Storage = "float32", seed: int = 0
    ) -> RowKernel:
        """Return the update of rows in host memory at one step.

        The result is called with weights [N, dim] and state [N, S] (as stored), rows int32 [U]
        (distinct; row 0 is not updated), keys int64 [n], order int32 [n], offsets int32 [U + 1],
        gradients float32 [n, dim], counts int32 [U], begin and end. The gradients of rows[u] are
        those at `order[offsets[u]:offsets[u + 1]]`, and are added in that order. Rows at positions
        begin to end - 1 are updated without the GIL, so disjoint ranges may run in parallel.

        Args:
            dim: width of the vectors.
            step: 1 at the first step.
            storage: of weights and state; 16-bit numbers are rounded stochastically.
            seed: seed of the rounding, which draws by (seed, step, key).

        Raises:
            InputError: kernels do not support the width.
        """
        if not 1 <= dim <= AREA:
            raise InputError(
                f"the row kernels support widths of 1 to {AREA}, not {dim}: "
                "split the vector over several slabs"
            )
        widths = tuple(self.slots(dim).values())
        # The slots of a rule have one width: `dim`, or 1 in row-wise Adagrad.
        shape = len(widths), widths[0], dim
        kernel = update_kernel(type(self).block_rule, *shape, self.exact, storage)
        constants = self._step_constants(float(step))
        # Rounded once, after the computation in float64, as in `update`.
        constants = constants._make(np.float32(number) for number in constants)
        # C = 0 switches the factor off, see `Penalties`.
        dynamic = self.dynamic_l1 or DynamicL1(0.0, 1)
        l1, l2, l21 = self.l1, 2 * self.l2, self._threshold(dim)
        by_count = dynamic.multiple, dynamic.min_count, self.decay, self.decay_steps
        penalties = Penalties._make(np.float32(each) for each in (l1, l2, l21, *by_count, step))
        # float32 is not rounded, so it needs no salt.
        salt = np.uint64(0) if storage == "float32" else rounding_salt(seed, step)
        return partial(kernel, constants, penalties, salt)

    @abstractmethod
    def _step_constants(self, step: Value) -> NamedTuple:
        """Return the constants of a step; all are floats, or float64 tensors if the step is one."""

    @abstractmethod
    def _apply_rule(
        self, constants: Any, x: tf.Tensor, g: tf.Tensor, slots: Mapping[str, tf.Tensor]
    ) -> RuleResult:
        """Run the rule in a graph, up to the proximal step. `constants`: of `_step_constants`."""

    def _gain(self, step: Value) -> Value:
        return rate_at(self.learning_rate, step) / base_rate(self.learning_rate)

    def _threshold(self, dim: int) -> float:
        return float(self.l21 * float(dim) ** 0.5)

    def _decay_strength(self, step: tf.Tensor, counts: tf.Tensor | None, dtype: tf.DType) -> Value:
        if self.decay_steps == 1:
            return tf.constant(self.decay, dtype)
        most, one = tf.constant(self.decay_steps, dtype), tf.constant(1, dtype)
        count = _float_counts(counts, dtype, "decay_steps")
        return self.decay * decay_multiple(tf.cast(step, dtype), count, most, one)[..., tf.newaxis]

    def _l1_strength(self, counts: tf.Tensor | None, dtype: tf.DType) -> Value:
        if self.dynamic_l1 is None:
            return tf.constant(self.l1, dtype)
        multiple = tf.constant(self.dynamic_l1.multiple, dtype)
        min_count = tf.constant(self.dynamic_l1.min_count, dtype)
        count = _float_counts(counts, dtype, "dynamic_l1")
        return self.l1 * frequency_factor(count, multiple, min_count)[..., tf.newaxis]


@dataclass(frozen=True)
class DualOptimizer(Optimizer):
    """A rule that keeps the linear term z in its state, as the first slot.

    z is the sum of gradients minus the terms that attract to past weights. The penalties are in
    units of z, which grows with every gradient: l21 prunes rarely seen rows first.
    """

    formula: ClassVar[Callable[..., tuple[Any, ...]]]
    """The rule on a row, of `elastic_embeddings.optimizers.formulas`."""

    def _apply_rule(
        self, constants: Any, x: tf.Tensor, g: tf.Tensor, slots: Mapping[str, tf.Tensor]
    ) -> RuleResult:
        state = (slots[name] for name in self.slot_names)
        curvature, *new_state = type(self).formula(constants, x, g, *state)
        return new_state[0], curvature, dict(zip(self.slot_names, new_state, strict=True))

    @property
    @abstractmethod
    def _offset(self) -> float:
        """What is added to the root of the last slot: the curvature is (√slot + offset) / η₀."""

    def restated(
        self,
        state: NDArray[np.float32],
        weights: NDArray[np.float32],
        previous: Optimizer,
        counts: NDArray[np.integer] | None = None,
    ) -> NDArray[np.float32]:
        """Return the state with the z whose proximal step is x; see `Optimizer.restated`.

        With the new curvatures A (2 l2 included) and c = l21 √dim, the closed form of the step is
        inverted by s = A x (1 + c / ‖A x‖), the exact one by s = (A + c / ‖x‖) x. In both cases
        z = -(s + l1 · sign s).
        """
        rate, dim = base_rate(self.learning_rate), weights.shape[1]
        assert isinstance(previous, DualOptimizer)
        if (rate, self._offset) == (base_rate(previous.learning_rate), previous._offset):
            return state
        # The penalties are those that made x: other ones act at the row's next step.
        x, root = weights.astype(np.float64), np.sqrt(state[:, -dim:].astype(np.float64))
        curvature, c = (root + self._offset) / rate + 2 * previous.l2, previous._threshold(dim)
        scaled = x if previous.exact else curvature * x
        norm = np.linalg.norm(scaled, axis=1, keepdims=True)
        added = np.divide(c, norm, out=np.zeros_like(norm), where=norm > 0)
        s = (curvature + added) * x if previous.exact else curvature * x * (1 + added)
        l1: Any = previous.l1
        if previous.dynamic_l1 and counts is not None:
            rule = previous.dynamic_l1
            missing = np.maximum(rule.min_count - counts[:, np.newaxis], 0) / rule.min_count
            l1 = l1 * (1 + rule.multiple * missing)
        # Where x is 0, z is below the thresholds, which have not changed, and stays. So does the z
        # of rows that were never updated, which is 0.
        z = state[:, :dim]
        kept = (x == 0) | ~z.any(axis=1, keepdims=True)
        restated = state.copy()
        restated[:, :dim] = np.where(kept, z, -(s + l1 * np.sign(s)))
        return restated


def _as_tensor(number: Value, dtype: tf.DType) -> tf.Tensor:
    # tf.cast of a Python float would go through float32.
    return tf.cast(number, dtype) if tf.is_tensor(number) else tf.constant(number, dtype)


def _float_counts(counts: tf.Tensor | None, dtype: tf.DType, option: str) -> tf.Tensor:
    if counts is None:
        raise InputError(
            f"{option} depends on how often each row was seen: give counts, or do not set {option}"
        )
    return tf.cast(counts, dtype)
