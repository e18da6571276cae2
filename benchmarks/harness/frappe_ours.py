"""Models of this project on Frappe, trained as a day is: no id is known beforehand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from elastic_embeddings.core.threads import set_threads
from elastic_embeddings.optimizers.formulas import Value
from elastic_embeddings.optimizers.learning_rates import LearningRate, base_rate, rate_at
from elastic_embeddings.optimizers.optimizer import Optimizer
from features import keys
from features.schema import Categorical, Schema, Timestamp
from harness.frappe_data import FIELDS, UNKNOWN, Frappe, Split, shuffled
from training.data.inputs import Inputs
from training.fit.learner import ahead
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.settings import ModelSettings, OptimizerSettings, TrainingSettings

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
        """Return the optimizer with its rate times the factor
        (`training.fit.model_and_baseline.LearnerConfig.wrap_optimizer`).
        """
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


_SCHEMA = Schema(
    label="label",
    user="user",
    item="item",
    timestamp=Timestamp(column="absent"),
    fields=tuple(Categorical(name=f"frappe_{name}", column=name) for name in FIELDS),
)


class _Trainer:
    def __init__(self, recipe: LearnerConfig, data: Frappe, batch: int) -> None:
        self._rates = Falling()
        self._learner = ModelAndBaseline.new(
            replace(recipe, wrap_optimizer=self._rates.around)
        ).model
        self._batch, self._seed = batch, recipe.training.seed
        self._keys = [_keys(name, size) for name, size in zip(FIELDS, data.sizes, strict=True)]
        self._train = self._inputs(data.train)

    def learn_epoch(self, number: int) -> None:
        """Learn all training rows once, in the order that the number draws."""
        rows = shuffled(len(self._train), self._batch, (self._seed, number))
        for prepared in ahead(lambda chosen: self._learner.prepare(self._train.take(chosen)), rows):
            self._learner.train_step(prepared)

    def probabilities(self, split: Split) -> NDArray[np.floating]:
        """Return the probability of each row, float [n]."""
        return self._learner.predict(self._inputs(split))

    def stalled(self) -> None:
        """Learn on at a tenth of the rate, as FuxiCTR does."""
        self._rates.fall()

    def _inputs(self, split: Split) -> Inputs:
        columns = [known[split.codes[:, field]] for field, known in enumerate(self._keys)]
        nothing = np.zeros((len(split), 0), np.float32)
        return Inputs(
            keys=np.stack(columns, axis=1),
            lists=(),
            dense=nothing,
            cross=nothing,
            label=split.label,
        )


def create(data: Frappe, settings: dict[str, Any], seed: int) -> _Trainer:
    """Return the trainer of `settings["kind"]`, one of `ModelSettings.kind`."""
    tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
    set_threads(settings["threads"])
    training = TrainingSettings(batch_size=settings["batch"], seed=seed)
    return _Trainer(
        LearnerConfig(_SCHEMA, model_settings(settings), training, ()), data, settings["batch"]
    )


def model_settings(settings: dict[str, Any]) -> ModelSettings:
    """Return the model of a run's settings."""
    dense = OptimizerSettings(learning_rate=settings["learning_rate"])
    return ModelSettings(
        kind=settings["kind"],
        dim=settings["dim"],
        hidden=tuple(settings["hidden"]),
        norm=settings["norm"],
        dropout=settings["dropout"],
        cross_layers=settings["cross_layers"],
        matmul=settings["matmul"],
        deep=OptimizerSettings(**settings["rows"]),
        wide=OptimizerSettings(**settings["wide_rows"]),
        dense=dense,
    )


def _keys(name: str, size: int) -> NDArray[np.int64]:
    """Return the keys int64 [size + 1] of a field's codes; that of `UNKNOWN` never gets a row, as
    no training row has it.
    """
    strings = [str(code) for code in range(UNKNOWN, size + 1)]
    hashed: NDArray[np.int64] = keys.keys(f"frappe_{name}", tf.constant(strings)).numpy()
    return hashed
