"""Step `fine_tune`: train the dense weights over the stored rows, which are not changed.

It trains on the impressions that training saw, not on the held-out slice that the gate measures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from compression.model import CompactModel
from compression.steps.settings import FineTune
from compression.steps.step import CompressionState, Plan, Step
from features.errors import InputError
from training.data.examples import heldout_start, read_examples
from training.data.inputs import Featurizer, Inputs
from training.fit import policies
from training.fit.frozen_rows import FrozenRows
from training.fit.grouped_table import Routing, StepRows
from training.fit.learner import Learner
from training.fit.sampling import sampled
from training.fit.training_loop import train_learner
from training.models.ctr import build_model
from training.packed.dense import unpacked

Table = TypeVar("Table", bound=StepRows)


class FineTunePlan(Plan):
    """Passes over the day, and the learning rate of the dense weights."""

    epochs: int
    learning_rate: float


class FineTuning(Step[FineTune, FineTunePlan]):
    """See `FineTune`. Rows and encodings of the model are the same arrays afterwards."""

    def fit(self, state: CompressionState) -> FineTunePlan:
        """Return passes and rate; raises InputError if there are no impressions."""
        check_impressions(state, "fine_tune")
        return FineTunePlan(epochs=self.settings.epochs, learning_rate=self.settings.learning_rate)

    def apply(self, state: CompressionState, plan: FineTunePlan) -> CompressionState:
        """Train the dense weights; raises UnsoundError if the loss is not finite."""
        # The rows as the export returns them: the dense weights adapt to their rounding.
        trained, inputs = state.model.trained(), training_inputs(state, "fine_tune")
        learner = learner_over(
            state.model, lambda routing: FrozenRows(trained, routing), plan.learning_rate
        )
        rate_to_lower = "learning_rate of compression.steps fine_tune"
        training = state.model.description.training
        train_learner(learner, [inputs], training, plan.epochs, rate_to_lower)
        return replace(state, model=replace(state.model, dense=learner.model.weights()))


def check_impressions(state: CompressionState, kind: str) -> None:
    """Check that a step of a kind has impressions to train on; raises InputError otherwise."""
    if state.impressions is None:
        raise InputError(
            f"compression.steps: {kind} trains on the day's impressions, and none are given: run "
            "stage `compress`"
        )


def training_inputs(state: CompressionState, kind: str) -> Inputs:
    """Return the day's training impressions, without the held-out slice, as inputs of the model."""
    check_impressions(state, kind)
    assert state.impressions is not None
    description, training = state.model.description, state.model.description.training
    schema, relations = description.schema, description.relations
    examples = read_examples(state.impressions, schema, relations, weight=training.weight)
    # Without the held-out slice, and sampled like the training: no new information gets in.
    trained_on = examples.slice(0, heldout_start(len(examples), training.holdout_fraction))
    featurizer = Featurizer(schema, relations, description.scalers, state.model.encodings)
    return sampled(featurizer.inputs(trained_on), trained_on, training)


def learner_over(
    model: CompactModel, table: Callable[[Routing], Table], learning_rate: float
) -> Learner[Table]:
    """Return a learner of a model's dense weights over the rows of a table.

    It has the optimizer of `model.dense` without earlier state, at another learning rate.
    """
    description = model.description
    seed = description.training.seed
    built = build_model(description.schema, description.model, description.relations, seed)
    built.load(unpacked(model.dense))
    settings = description.model.dense.model_copy(update={"learning_rate": learning_rate})
    # No optimizer state: that of training belongs to other weights than the compressed ones.
    rows = table(Routing.of(built.layout, built.groups))
    return Learner(built, rows, policies.dense_optimizer(settings), seed)
