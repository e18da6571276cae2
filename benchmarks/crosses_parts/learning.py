"""One model of ours on an arm's inputs, learned until validation AUC stalls, and what it takes then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf
from frappe_peers.cache import Result
from frappe_peers.data import Frappe, Split
from frappe_peers.falling_rate import Falling
from frappe_peers.loop import fit, shuffled
from frappe_peers.ours import model_settings
from numpy.typing import NDArray

from compression.selection.footprint import Footprint, measure
from crosses_parts.arms import Arm
from crosses_parts.columns import inputs_of
from elastic_embeddings.core.threads import set_threads
from training.data.inputs import Inputs
from training.fit.learner import Learner, ahead
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline


class Trainer:
    """A fresh model that learns an arm's inputs (`frappe_peers.loop.Trainer`)."""

    def __init__(self, arm: Arm, data: Frappe, settings: Mapping[str, Any], seed: int) -> None:
        self._rates = Falling()
        recipe = replace(
            recipe_of(arm, settings, seed, len(data.train)), wrap_optimizer=self._rates.around
        )
        self.learner = ModelAndBaseline.new(recipe).model
        self._known = [
            (split, inputs_of(arm, split)) for split in (data.train, data.valid, data.test)
        ]
        self._batch, self._seed = settings["batch"], seed

    def learn_epoch(self, number: int) -> None:
        """Learn the training rows once."""
        train = self._known[0][1]
        rows = shuffled(len(train), self._batch, (self._seed, number))
        for prepared in ahead(lambda chosen: self.learner.prepare(train.take(chosen)), rows):
            self.learner.train_step(prepared)

    def probabilities(self, split: Split) -> NDArray[np.floating]:
        """Return the click probabilities of one of the data's splits."""
        return self.learner.predict(next(made for known, made in self._known if known is split))

    def stalled(self) -> None:
        """Learn on at a tenth of the rate."""
        self._rates.fall()


@dataclass(frozen=True)
class Taken:
    """What a model takes.

    Attributes:
        rows: in the table.
        bytes: of a model that answers: keys and vectors of rows that are not zero, dense weights.
        bytes_of_rows: the table's part of them.
        bytes_with_state: of one that learns: rows with optimizer state, their share of the index, dense weights with state.
    """

    rows: int
    bytes: int
    bytes_of_rows: int
    bytes_with_state: int

    @classmethod
    def by(cls, arm: Arm, learner: Learner) -> Taken:
        """Measure a model that has learned."""
        statistics = learner.table.statistics()
        dense = sum(weight.nbytes for weight in learner.model.weights().values())
        size = footprint_of(arm, learner).of(frozenset(learner.model.layout.keyed))
        in_table = sum(field.bytes for field in statistics.fields.values())
        return cls(
            statistics.rows,
            size.bytes,
            size.bytes - dense,
            in_table + dense * (1 + len(learner.optimizer.slot_names)),
        )


def footprint_of(arm: Arm, learner: Learner) -> Footprint:
    """Return what any set of the arm's uses takes in this model (`compression.selection`)."""
    nothing = np.zeros((0, 1), np.float32)
    none = Inputs(
        keys=np.zeros((0, 0), np.int64), lists=(), dense=nothing, cross=nothing, label=nothing[:, 0]
    )
    return measure(arm.schema(), learner, none, {})


def recipe_of(arm: Arm, settings: Mapping[str, Any], seed: int, rows: int) -> LearnerConfig:
    """Return how an arm's model is built and learned, with the settings of `frappe_peers.registry`."""
    model = arm.model(model_settings(dict(settings)))
    return LearnerConfig(arm.schema(), model, arm.training(settings["batch"], seed, rows), ())


def use_threads(count: int) -> None:
    """Let TensorFlow and our kernels use so many threads; before the first operation of the process."""
    tf.config.threading.set_intra_op_parallelism_threads(count)
    set_threads(count)


def run(arm: Arm, data: Frappe, settings: Mapping[str, Any], seed: int) -> Result:
    """Learn an arm with one seed, to the best epoch by validation AUC."""
    trainer = Trainer(arm, data, settings, seed)
    fitted = fit(trainer, data, settings["max_epochs"], settings["patience"])
    speed = fitted.examples_per_s(len(data.train))
    figures = {
        "valid_auc": fitted.valid_auc,
        "examples_per_s": speed,
        **asdict(Taken.by(arm, trainer.learner)),
    }
    return Result(figures, fitted.valid, fitted.test)
