"""Step `fine_tune`: the dense weights learn on over the rows as they are stored, which stay as they are.

What it learns are the impressions that training learned, not the held-out slice that the gate measures on. It begins with the
model's weights and with no state of the optimizer, so the rule is `model.dense`'s from its first step on.
"""

from __future__ import annotations

from dataclasses import replace

from compression.compact import CompactModel
from compression.steps.settings import FineTune
from compression.steps.step import Plan, Step
from compression.steps.work import Work
from features.errors import InputError
from training import policies
from training.examples import heldout_start, read_examples
from training.frozen_rows import FrozenRows
from training.inputs import Featurizer, Inputs
from training.learner import Learner
from training.models.build import build_model
from training.online.sampling import sampled
from training.packed.dense import unpacked
from training.passes import learn_passes
from training.routing import Routing


class FineTunePlan(Plan):
    """Passes over the day, and the rate of the dense weights."""

    epochs: int
    learning_rate: float


class FineTuning(Step[FineTune, FineTunePlan]):
    """See `FineTune`. The model's rows and encodings are the same arrays after it."""

    def fit(self, work: Work) -> FineTunePlan:
        """Return the passes and the rate; raises InputError where there is no day to learn."""
        if work.impressions is None:
            raise InputError(
                "compression.steps: fine_tune learns the day's impressions, and none are given: run stage `compress`"
            )
        return FineTunePlan(epochs=self.settings.epochs, learning_rate=self.settings.learning_rate)

    def apply(self, work: Work, plan: FineTunePlan) -> Work:
        """Learn; raises UnsoundError where the loss is not finite, and what reading the impressions raises."""
        learner, training = _learner(work.model, plan.learning_rate), work.model.description.training
        learn_passes(learner, [_lesson(work)], training, plan.epochs, "learning_rate of compression.steps fine_tune")
        return replace(work, model=replace(work.model, dense=learner.model.weights()))


def _learner(model: CompactModel, learning_rate: float) -> Learner[FrozenRows]:
    told = model.description
    built = build_model(told.schema, told.model, told.relations, told.training.seed)
    built.load(unpacked(model.dense))
    rows = FrozenRows(model.trained(), Routing.of(built.layout, built.groups))
    rule = policies.dense_optimizer(told.model.dense.model_copy(update={"learning_rate": learning_rate}))
    return Learner(built, rows, rule, told.training.seed)


def _lesson(work: Work) -> Inputs:
    """What training learned of the day, as the model reads it now."""
    told, training = work.model.description, work.model.description.training
    assert work.impressions
    examples = read_examples(work.impressions, told.schema, told.relations, weight=training.weight)
    learned = examples.slice(0, heldout_start(len(examples), training.holdout_fraction))
    inputs = Featurizer(told.schema, told.relations, told.scalers, work.model.encodings).inputs(learned)
    return sampled(inputs, learned, training)
