"""What every rule shares: strengths, the two executions of a step, and the packed state. Frozen data, no state of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from elastic_embeddings.errors import InputError
from elastic_embeddings.optimizers.elementwise import Value
from elastic_embeddings.optimizers.kernel import Layout, Penalties, RowKernel, update_kernel
from elastic_embeddings.optimizers.learning_rates import LearningRate, base_rate, rate_at
from elastic_embeddings.optimizers.proximal import (
    DynamicL1,
    frequency_factor,
    missed_steps,
    proximal_step,
)
from elastic_embeddings.optimizers.rounding import Storage, rounding_salt

Advanced = tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]
"""Linear term, curvature and new slots."""


@dataclass(frozen=True)
class Optimizer(ABC):
    """A rule with a sparse group lasso, where the last axis of the weights is one group.

    Every rule turns a row's gradient and state into a linear term z and curvatures A, and takes the proximal step
    (`elastic_embeddings.optimizers.proximal`) with l1, l2 and l21 √dim. It runs in a graph (`update`) or in a compiled kernel over
    rows in host memory (`row_kernel`); both are the same formulas.

    * Rows that are not in a batch are left alone altogether; t is the table's step, not the row's.
    * `decay` adds decay · x to the gradient of a row, once a step however often the batch has it: decay · ‖x‖² / 2 of the
      batch's rows is part of the loss. Unlike l2, which is a prior on the whole sum and only shortens steps, it pulls at
      every step. A row that was in every n-th batch is pulled min(n, `decay_steps`) times as hard, as though it had been
      pulled in the steps between: that is what holds back rare rows over several passes, as L2 on a whole table does. n is
      taken to be step / count.
    * A row set to zero keeps its state, and comes back when its z passes the threshold again.
    * A schedule weights gradients: that of step t enters with η_t/η₀, η₀ the schedule's base, and all else stays in
      units of η₀. So weights never jump with the rate, and rows that are zero stay zero as the rate fades.

    Attributes:
        learning_rate: constant, or a schedule.
        l1: strength of ‖x‖₁.
        l2: strength of ‖x‖₂².
        l21: strength of √dim · ‖x‖₂.
        decay: strength of ‖x‖₂² / 2 in the loss of a step.
        decay_steps: the most steps that one step of a rare row's decay stands for; 1: none but itself.
        exact: take the exact proximal step where the curvatures differ within a row, not the published closed form.
        dynamic_l1: l1 by how often a row was seen.

    Raises:
        InputError: a parameter out of range.
    """

    learning_rate: float | LearningRate = 1e-3
    l1: float = field(default=0.0, kw_only=True)
    l2: float = field(default=0.0, kw_only=True)
    l21: float = field(default=0.0, kw_only=True)
    decay: float = field(default=0.0, kw_only=True)
    decay_steps: int = field(default=1, kw_only=True)
    exact: bool = field(default=False, kw_only=True)
    dynamic_l1: DynamicL1 | None = field(default=None, kw_only=True)

    advance: ClassVar[Callable[..., None]]
    """The rule on a block of rows in compiled code."""

    def __post_init__(self) -> None:
        if base_rate(self.learning_rate) <= 0 or min(self.l1, self.l2, self.l21) < 0:
            raise InputError(f"{self}: learning_rate must be positive, l1, l2 and l21 not negative")
        if self.decay < 0 or self.decay_steps < 1:
            raise InputError(f"{self}: decay must not be negative, decay_steps must be at least 1")

    @abstractmethod
    def slots(self, dim: int) -> dict[str, int]:
        """Return the names and widths of a row's state, in column order of the packed state."""

    @property
    def slot_names(self) -> tuple[str, ...]:
        """The names of the state, in column order."""
        return tuple(self.slots(1))

    def initial_state(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the packed state float32 [k, sum of slot widths] of new rows with weights float32 [k, dim]."""
        return np.zeros((len(weights), sum(self.slots(weights.shape[1]).values())), np.float32)

    def restated(
        self, state: NDArray[np.float32], before: Optimizer, dim: int
    ) -> NDArray[np.float32]:
        """Return what packed state [k, S] becomes, so that weights stay what they are under another learning rate.

        Args:
            state: of this class's slots.
            before: the optimizer that learned it, of the same class. Where its strengths differ, the weights follow
                at a row's next step.
            dim: width of the vectors.
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
            weights: tensor float [.., d]; dense weights of any shape are served with l1 = l21 = 0.
            slots: `slots(d)` → float [.., width].
            gradients: float, shaped as the weights.
            step: int64 scalar, 1 at the first step.
            counts: integers [..], how often each row was seen; `dynamic_l1` and `decay_steps` need them.

        Returns:
            The new weights and the new slots, shaped as they came.

        Raises:
            InputError: `dynamic_l1` or `decay_steps` is set and no counts were given.
        """
        numbers = self._numbers(tf.cast(step, tf.float64))
        cast = numbers._make(_as_tensor(number, weights.dtype) for number in numbers)
        state = {name: tf.convert_to_tensor(slot) for name, slot in slots.items()}
        pulled = tf.convert_to_tensor(gradients)
        if self.decay:
            pulled += self._decay(step, counts, weights.dtype) * weights
        linear, curvature, advanced = self._advanced(cast, weights, pulled, state)
        threshold = self._threshold(weights.shape[-1]) if self.l21 else 0.0
        l1 = self._l1(counts, weights.dtype)
        return proximal_step(
            linear, curvature + 2 * self.l2, l1, threshold, exact=self.exact
        ), advanced

    def row_kernel(
        self, dim: int, step: int, storage: Storage = "float32", seed: int = 0
    ) -> RowKernel:
        """Return the update of rows in host memory at one step.

        The result is called with weights [N, dim], state [N, S] (as stored), rows int32 [U] (distinct; row 0 gets no
        update), order int32 [n], offsets int32 [U + 1] (the gradients of row place u are those at
        `order[offsets[u]:offsets[u + 1]]`, and are summed in that order), gradients float32 [n, dim], counts int32 [U],
        lo and hi. It updates places lo … hi - 1 without the GIL, so disjoint ranges may run in parallel.

        Args:
            dim: width of the vectors.
            step: 1 at the first step.
            storage: of weights and state; 16-bit kinds are uint16 bits and rounded stochastically.
            seed: of the rounding.

        Raises:
            InputError: a width that kernels do not serve.
        """
        widths = self.slots(dim)
        layout = Layout(
            type(self).advance, len(widths), next(iter(widths.values())), dim, self.exact, storage
        )
        numbers = self._numbers(float(step))
        cast = numbers._make(np.float32(number) for number in numbers)
        salt = (
            rounding_salt(seed, step) if storage != "float32" else np.uint64(0)
        )  # float32 is not rounded
        return partial(update_kernel(layout), cast, self._penalties(dim, step), salt)

    @abstractmethod
    def _numbers(self, step: Value) -> NamedTuple:
        """What a step needs beside the row; the step is a Python float or a float64 tensor, and so is the result."""

    @abstractmethod
    def _advanced(
        self, numbers: Any, x: tf.Tensor, g: tf.Tensor, slots: Mapping[str, tf.Tensor]
    ) -> Advanced:
        """The rule in a graph, up to the proximal step."""

    def _gain(self, step: Value) -> Value:
        return rate_at(self.learning_rate, step) / base_rate(self.learning_rate)

    def _threshold(self, dim: int) -> float:
        return self.l21 * float(dim) ** 0.5

    def _penalties(self, dim: int, step: int) -> Penalties:
        dynamic = self.dynamic_l1 or DynamicL1(0.0, 1)
        strengths = (
            self.l1,
            2 * self.l2,
            self._threshold(dim),
            dynamic.multiple,
            dynamic.min_count,
        )
        decay = (self.decay, self.decay_steps, step)
        return Penalties._make(np.float32(strength) for strength in (*strengths, *decay))

    def _decay(self, step: tf.Tensor, counts: tf.Tensor | None, dtype: tf.DType) -> Value:
        if self.decay_steps == 1:
            return tf.constant(self.decay, dtype)
        if counts is None:
            raise InputError(
                "decay_steps needs to know how often each row was seen: give counts, or leave decay_steps at 1"
            )
        most, one = tf.constant(self.decay_steps, dtype), tf.constant(1, dtype)
        return (
            self.decay
            * missed_steps(tf.cast(step, dtype), tf.cast(counts, dtype), most, one)[..., tf.newaxis]
        )

    def _l1(self, counts: tf.Tensor | None, dtype: tf.DType) -> Value:
        if self.dynamic_l1 is None:
            return tf.constant(self.l1, dtype)
        if counts is None:
            raise InputError(
                "dynamic_l1 needs to know how often each row was seen: give counts, or leave dynamic_l1 out"
            )
        multiple, least = (
            tf.constant(number, dtype)
            for number in (self.dynamic_l1.multiple, self.dynamic_l1.min_count)
        )
        return self.l1 * frequency_factor(tf.cast(counts, dtype), multiple, least)[..., tf.newaxis]


@dataclass(frozen=True)
class DualOptimizer(Optimizer):
    """A rule whose linear term z is kept in the state, as its first slot: the sum of gradients less what pulls to past weights.

    Strengths are in units of z, which adds up gradients: l21 prunes rows that were seen rarely first.
    """

    def restated(
        self, state: NDArray[np.float32], before: Optimizer, dim: int
    ) -> NDArray[np.float32]:
        """Rescale z ∝ x/η₀; otherwise the next step would scale x by the ratio of the rates. See `Optimizer.restated`."""
        scaled = state.copy()
        scaled[:, :dim] *= np.float32(
            base_rate(before.learning_rate) / base_rate(self.learning_rate)
        )
        return scaled


def _as_tensor(number: Value, dtype: tf.DType) -> tf.Tensor:
    """A constant in the full precision of its type, which `tf.cast` of a Python float would lose."""
    return tf.cast(number, dtype) if tf.is_tensor(number) else tf.constant(number, dtype)
