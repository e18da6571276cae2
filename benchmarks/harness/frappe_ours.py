"""Models of this project on Frappe, trained as a day is: no id is known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from elastic_embeddings.core.threads import set_threads
from elastic_embeddings.optimizers.formulas import Value
from elastic_embeddings.optimizers.learning_rates import LearningRate, base_rate, rate_at
from elastic_embeddings.optimizers.optimizer import Optimizer
from features import keys as feature_keys
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


class Trainer:
    """A fresh model that is trained on Frappe (`harness.frappe_data.Trainer`).

    Args:
        config: of the model.
        data: all splits.
        inputs_of: what the model reads of a split.
    """

    def __init__(
        self, config: LearnerConfig, data: Frappe, inputs_of: Callable[[Split], Inputs]
    ) -> None:
        self._rates = Falling()
        config = replace(config, wrap_optimizer=self._rates.around)
        self.learner = ModelAndBaseline.new(config).model
        self._training = config.training
        self._train = inputs_of(data.train)
        self._scored = [(split, inputs_of(split)) for split in (data.valid, data.test)]

    def learn_epoch(self, number: int) -> None:
        """Train on all training rows once, in the order that the number draws."""
        order = (self._training.seed, number)
        rows = shuffled(len(self._train), self._training.batch_size, order)
        for prepared in ahead(lambda batch: self.learner.prepare(self._train.take(batch)), rows):
            self.learner.train_step(prepared)

    def probabilities(self, split: Split) -> NDArray[np.floating]:
        """Return the click probabilities float [n] of the validation or the test rows."""
        return self.learner.predict(
            next(inputs for known, inputs in self._scored if known is split)
        )

    def stalled(self) -> None:
        """Continue at a tenth of the learning rate, as FuxiCTR does."""
        self._rates.fall()


def inputs_of_keys(columns: Sequence[NDArray[np.int64]], label: NDArray[np.float32]) -> Inputs:
    """Return inputs of nothing but keys: one column int64 [n] for each field."""
    nothing = np.zeros((len(label), 0), np.float32)
    keys_of = np.stack(columns, axis=1)
    return Inputs(keys=keys_of, lists=(), dense=nothing, cross=nothing, label=label)


def use_threads(count: int) -> None:
    """Set the threads of TensorFlow and of the kernels, before the process's first operation."""
    tf.config.threading.set_intra_op_parallelism_threads(count)
    set_threads(count)


def create(data: Frappe, settings: dict[str, Any], seed: int) -> Trainer:
    """Return the trainer of `settings["kind"]`, one of `ModelSettings.kind`."""
    use_threads(settings["threads"])
    training = TrainingSettings(batch_size=settings["batch"], seed=seed)
    config = LearnerConfig(_SCHEMA, model_settings(settings), training, ())
    keys = [_keys(name, size) for name, size in zip(FIELDS, data.sizes, strict=True)]

    def inputs_of(split: Split) -> Inputs:
        """Return the keys of a split's codes."""
        columns = [known[split.codes[:, field]] for field, known in enumerate(keys)]
        return inputs_of_keys(columns, split.label)

    return Trainer(config, data, inputs_of)


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
    hashed: NDArray[np.int64] = feature_keys.keys(f"frappe_{name}", tf.constant(strings)).numpy()
    return hashed
