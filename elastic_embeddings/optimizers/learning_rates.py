"""Learning rate schedules: immutable formulas of the step, a Python number or a tensor."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import tensorflow as tf

from elastic_embeddings.errors import InputError
from elastic_embeddings.optimizers.formulas import Value, cos, maximum, minimum


class LearningRate(ABC):
    """A positive rate for each step; step 1 is the first."""

    @property
    @abstractmethod
    def base(self) -> float:
        """The rate η₀ that is the unit of the optimizer's state and penalties."""

    def at(self, step: Value) -> Value:
        """Return the rate of a step: a float, or a float64 tensor if the step is a tensor."""
        # float64, because float32 does not hold every step above 2²⁴.
        return self._at(tf.cast(step, tf.float64) if tf.is_tensor(step) else float(step))

    @abstractmethod
    def _at(self, step: Value) -> Value:
        """Return the rate of a step, a float or a float64 tensor."""


@dataclass(frozen=True)
class ExponentialDecay(LearningRate):
    """`initial · factor ^ ((step - 1) / every)`.

    >>> ExponentialDecay(0.1, 0.5, 10).at(11)
    0.05

    Raises:
        InputError: a parameter is not positive, or the factor is above 1.
    """

    initial: float
    factor: float
    every: int

    def __post_init__(self) -> None:
        if not 0 < self.initial < math.inf or not 0 < self.factor <= 1 or self.every < 1:
            raise InputError(
                f"{self}: initial must be positive, factor in (0, 1], every at least 1 step"
            )

    @property
    def base(self) -> float:
        """The initial rate."""
        return self.initial

    def _at(self, step: Value) -> Value:
        return self.initial * self.factor ** ((step - 1) / self.every)


@dataclass(frozen=True)
class CosineDecay(LearningRate):
    """Half a cosine from `initial` at step 1 to `final_fraction · initial` at step 1 + `steps`.

    The rate is constant after that.

    Raises:
        InputError: the rate is not positive, the fraction outside (0, 1], or `steps` below 1.
    """

    initial: float
    steps: int
    final_fraction: float = 0.01

    def __post_init__(self) -> None:
        valid = 0 < self.initial < math.inf and 0 < self.final_fraction <= 1
        if not valid or self.steps < 1:
            raise InputError(
                f"{self}: initial must be positive, steps at least 1, final_fraction in (0, 1]"
            )

    @property
    def base(self) -> float:
        """The initial rate."""
        return self.initial

    def _at(self, step: Value) -> Value:
        # `0 * step + 1` is a 1 of the step's type, float or tensor.
        progress = minimum((step - 1) / self.steps, 0 * step + 1)
        share = (1 + cos(math.pi * progress)) / 2
        return self.initial * (self.final_fraction + (1 - self.final_fraction) * share)


@dataclass(frozen=True)
class Warmup(LearningRate):
    """A factor that grows linearly to 1 over `steps` steps, times another rate.

    >>> Warmup(0.1, 4).at(1)
    0.025

    Attributes:
        after: the other rate, a constant or a schedule, of the same step.
        steps: the factor is 1 from step `since + steps` on.
        since: the last step before a pause in training. Steps up to it have the factor of the
            step after it.

    Raises:
        InputError: the rate is not positive, `steps` below 1, or `since` negative.
    """

    after: float | LearningRate
    steps: int
    since: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.base < math.inf or self.steps < 1 or self.since < 0:
            raise InputError(
                f"{self}: after must be positive, steps at least 1, since not negative"
            )

    @property
    def base(self) -> float:
        """The base of the rate it grows to."""
        return base_rate(self.after)

    def _at(self, step: Value) -> Value:
        one = 0 * step + 1
        # At least one step after `since`: a rate is never 0 or negative.
        share = minimum(maximum(step - self.since, one) / self.steps, one)
        return share * rate_at(self.after, step)


def base_rate(rate: float | LearningRate) -> float:
    """Return a constant itself, or the base of a schedule."""
    return rate.base if isinstance(rate, LearningRate) else rate


def rate_at(rate: float | LearningRate, step: Value) -> Value:
    """Return a constant itself, or the rate of a schedule at a step."""
    return rate.at(step) if isinstance(rate, LearningRate) else rate
