"""Step `fine_tune`: the dense weights learn on over the rows as they are stored, which stay as they are.

What it learns are the impressions that training learned, not the held-out slice that the gate measures on.
"""

from __future__ import annotations

from dataclasses import replace

from compression.steps.learning import day_of, learner_over, lesson
from compression.steps.settings import FineTune
from compression.steps.step import Plan, Step
from compression.steps.work import Work
from training.fit.frozen_rows import FrozenRows
from training.fit.passes import learn_passes


class FineTunePlan(Plan):
    """Passes over the day, and the rate of the dense weights."""

    epochs: int
    learning_rate: float


class FineTuning(Step[FineTune, FineTunePlan]):
    """See `FineTune`. The model's rows and encodings are the same arrays after it."""

    def fit(self, work: Work) -> FineTunePlan:
        """Return the passes and the rate; raises InputError where there is no day to learn."""
        day_of(work, "fine_tune")
        return FineTunePlan(epochs=self.settings.epochs, learning_rate=self.settings.learning_rate)

    def apply(self, work: Work, plan: FineTunePlan) -> Work:
        """Learn; raises UnsoundError where the loss is not finite, and what reading the impressions raises."""
        trained, inputs = work.model.trained(), lesson(work, day_of(work, "fine_tune"))
        learner = learner_over(
            work.model, lambda routing: FrozenRows(trained, routing), plan.learning_rate
        )
        cure = "learning_rate of compression.steps fine_tune"
        learn_passes(learner, [inputs], work.model.description.training, plan.epochs, cure)
        return replace(work, model=replace(work.model, dense=learner.model.weights()))
