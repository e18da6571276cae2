"""A learning rate that falls when validation AUC stalls, as FuxiCTR's does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import tensorflow as tf

from elastic_embeddings.optimizers.formulas import Value
from elastic_embeddings.optimizers.learning_rates import LearningRate, base_rate, rate_at
from elastic_embeddings.optimizers.optimizer import Optimizer

_FALL = 10.0


def _one() -> tf.Variable:
    return tf.Variable(1.0, dtype=tf.float64, trainable=False)


@dataclass(frozen=True)
class Falling:
    """The factor of all rates of a run: 1, and after every fall a tenth of what it was.

    A variable, so that it also falls in a graph that is already traced.
    """

    factor: tf.Variable = field(default_factory=_one)

    def fall(self) -> None:
        """Let all rates fall."""
        self.factor.assign(self.factor / _FALL)

    def around(self, optimizer: Optimizer) -> Optimizer:
        """Return the optimizer with its rate times the factor (`training.fit.model_and_baseline.LearnerConfig.wrap_optimizer`)."""
        return replace(optimizer, learning_rate=_Scaled(optimizer.learning_rate, self.factor))


@dataclass(frozen=True, eq=False)
class _Scaled(LearningRate):
    before: float | LearningRate
    factor: tf.Variable

    @property
    def base(self) -> float:
        """The base of the rate before the factor."""
        return base_rate(self.before)

    def _at(self, step: Value) -> Value:
        factor = self.factor if tf.is_tensor(step) else float(self.factor)
        return rate_at(self.before, step) * factor
