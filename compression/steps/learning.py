"""What steps that learn share: the day's impressions as the model reads them, and a learner of its dense weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from compression.model import CompactModel
from compression.steps.work import Work
from features.errors import InputError
from training.data.examples import heldout_start, read_examples
from training.data.inputs import Featurizer, Inputs
from training.fit import policies
from training.fit.grouped_table import StepRows
from training.fit.learner import Learner
from training.fit.routing import Routing
from training.fit.sampling import sampled
from training.models.build import build_model
from training.packed.dense import unpacked

Table = TypeVar("Table", bound=StepRows)


def day_of(work: Work, kind: str) -> Path:
    """Return the impressions that a step of a kind learns; raises InputError where there are none."""
    if work.impressions is None:
        raise InputError(
            f"compression.steps: {kind} learns the day's impressions, and none are given: run stage `compress`"
        )
    return work.impressions


def lesson(work: Work, partition: Path) -> Inputs:
    """Return what training learned of a partition, without the held-out slice, as the model reads it now."""
    told, training = work.model.description, work.model.description.training
    examples = read_examples(partition, told.schema, told.relations, weight=training.weight)
    learned = examples.slice(0, heldout_start(len(examples), training.holdout_fraction))
    inputs = Featurizer(told.schema, told.relations, told.scalers, work.model.encodings).inputs(
        learned
    )
    return sampled(inputs, learned, training)


def learner_over(
    model: CompactModel, table: Callable[[Routing], Table], learning_rate: float
) -> Learner[Table]:
    """Return a learner that begins with a model's dense weights, and learns them at a rate over a table's rows.

    The rule is `model.dense`'s from its first step on: no state of an optimizer is taken over.
    """
    told = model.description
    built = build_model(told.schema, told.model, told.relations, told.training.seed)
    built.load(unpacked(model.dense))
    rule = policies.dense_optimizer(
        told.model.dense.model_copy(update={"learning_rate": learning_rate})
    )
    return Learner(built, table(Routing.of(built.layout, built.groups)), rule, told.training.seed)
