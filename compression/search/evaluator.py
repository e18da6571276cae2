"""Evaluate a plan: its bytes, and how well the compressed model ranks the held-out impressions.

Plans are chosen on one half of the held-out users and reported on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from compression.model import CompactModel
from compression.pruning import without_zero_rows
from compression.steps.sequence import run_step
from compression.steps.settings import StepSettings
from compression.steps.step import CompressionState, read_state
from features.errors import InputError
from training.data.examples import Examples, heldout_start, read_examples
from training.evaluation.metrics import (
    Interval,
    auc,
    auc_difference_error,
    in_reported_half,
    interval,
    log_loss,
    resample_users,
)
from training.evaluation.scoring import Scorer
from training.fit.checkpoints import Description, read_checkpoint

Floats = NDArray[np.float32]

_CACHE_SIZE = 3
"""Size of the cache of models between steps, in multiples of the whole model's bytes."""


@dataclass(frozen=True)
class HeldOutHalves:
    """The held-out slice of a day in two halves of its users.

    Attributes:
        partition: the day's `impressions` artifact.
        rows: number of held-out impressions, the last ones of the day, n.
        label: float32 [n].
        user: int64 [n], codes.
        reported: bool [n], users of the half that is reported; plans are chosen on the others.
    """

    partition: Path
    rows: int
    label: Floats
    user: NDArray[np.int64]
    reported: NDArray[np.bool_]

    @classmethod
    def of(cls, partition: Path, description: Description) -> Self:
        """Read the slice that the model's training held out.

        Raises:
            InputError: a half has impressions of one label only, so it has no AUC.
        """
        day = read_examples(partition, description.schema, description.relations)
        start = heldout_start(len(day), description.training.holdout_fraction)
        examples = day.slice(start, len(day))
        reported = in_reported_half(examples.users)[examples.user]
        for half, name in ((reported, "reported"), (~reported, "choosing")):
            if len(np.unique(examples.label[half])) < 2:
                raise InputError(
                    f"{partition}: the {name} half of the held-out users has {int(half.sum())} "
                    "impressions of one label; search on a larger day, or raise "
                    "training.holdout_fraction"
                )
        return cls(partition, len(examples), examples.label, examples.user, reported)

    @property
    def choosing(self) -> NDArray[np.bool_]:
        """The other half, bool [n]."""
        return ~self.reported

    def examples(self, description: Description) -> Examples:
        """Return the slice as a model of this description, perhaps of fewer fields, reads it."""
        day = read_examples(self.partition, description.schema, description.relations)
        # Counted from the end: the day has the same rows for every set of fields.
        return day.slice(len(day) - self.rows, len(day))


@dataclass(frozen=True)
class EvaluatedPlan:
    """A plan and its result.

    Attributes:
        name: `searched`, or of a baseline.
        steps: the plan.
        bytes: of keys, rows, dense weights and encodings in stored form.
        rows: keys of all tables.
        drop: AUC of the trained model minus this one's, on the choosing half.
        error: standard error of `drop`.
        drop_reported: the drop on the reported half.
        auc_reported: AUC of this model on the reported half.
        log_loss_reported: its log loss there, in nats.
        scores: float32 [m], of the reported half.
    """

    name: str
    steps: tuple[StepSettings, ...]
    bytes: int
    rows: int
    drop: float
    error: float
    drop_reported: float
    auc_reported: float
    log_loss_reported: float
    scores: Floats

    @property
    def cautious_drop(self) -> float:
        """`drop` plus one standard error.

        Among many plans some seem to lose nothing by chance, and a search would select those.
        """
        return self.drop + self.error


class PlanEvaluator:
    """Compresses a model without zero rows by plans, and scores the results."""

    def __init__(self, state: CompressionState, heldout: HeldOutHalves) -> None:
        self.state = state
        self.bytes = state.model.nbytes
        self._heldout = heldout
        self._states: dict[tuple[StepSettings, ...], CompressionState] = {}
        self._examples: dict[tuple[str, ...], Examples] = {}
        # Scored once: every plan is compared with it.
        self._trained = self._score(state.model)

    @classmethod
    def of(cls, checkpoint: Path, partition: Path, tolerance: float) -> Self:
        """Read a checkpoint, and the day whose last slice it was not trained on.

        Raises:
            InputError: one of them is missing, damaged or unfit.
        """
        model = without_zero_rows(CompactModel.of(read_checkpoint(checkpoint)), tolerance)
        heldout = HeldOutHalves.of(partition, model.description)
        return cls(read_state(model, checkpoint, partition), heldout)

    def bytes_after(self, steps: Sequence[StepSettings]) -> int:
        """Return the bytes after a plan, without scoring."""
        return self.after(tuple(steps)).model.nbytes

    def measure(self, name: str, steps: Sequence[StepSettings]) -> EvaluatedPlan:
        """Compress, score, and compare with the trained model on both halves."""
        model = self.after(tuple(steps)).model
        return self.compare(name, tuple(steps), model.nbytes, model.rows, self._score(model))

    def compare(
        self, name: str, steps: tuple[StepSettings, ...], size: int, rows: int, scores: Floats
    ) -> EvaluatedPlan:
        """Compare a model's scores of the held-out slice, float32 [n], with the trained model's."""
        heldout = self._heldout
        # Plans are chosen by the choosing half. The other one has no part in the choice, so its
        # figures are not better by selection.
        label, choosing, reported = heldout.label, heldout.choosing, heldout.reported
        trained, auc_reported = self._trained, auc(label[reported], scores[reported])
        return EvaluatedPlan(
            name=name,
            steps=steps,
            bytes=size,
            rows=rows,
            drop=auc(label[choosing], trained[choosing]) - auc(label[choosing], scores[choosing]),
            error=auc_difference_error(
                label[choosing], trained[choosing], scores[choosing], heldout.user[choosing]
            ),
            drop_reported=auc(label[reported], trained[reported]) - auc_reported,
            auc_reported=auc_reported,
            log_loss_reported=log_loss(label[reported], scores[reported]),
            scores=scores[reported],
        )

    def interval(self, plan: EvaluatedPlan) -> Interval:
        """Return a bootstrap interval, over users, of the drop on the reported half."""
        # Users are drawn, not impressions: those of one user are not independent.
        half = self._heldout.reported
        models = {"trained": self._trained[half], "compressed": plan.scores}
        drawn = resample_users(self._heldout.label[half], models, self._heldout.user[half])
        return interval(drawn["trained"].auc - drawn["compressed"].auc)

    def after(self, steps: tuple[StepSettings, ...]) -> CompressionState:
        """Return the state after a plan, computed from its longest prefix in the cache."""
        if not steps:
            return self.state
        # Removed and put back at the end of the dictionary: its order is that of last use.
        state = self._states.pop(steps, None) or run_step(self.after(steps[:-1]), steps[-1])[0]
        self._states[steps] = state
        # The newest state stays in any case: the caller needs it.
        while (
            len(self._states) > 1
            and sum(s.model.nbytes for s in self._states.values()) > _CACHE_SIZE * self.bytes
        ):
            del self._states[next(iter(self._states))]
        return state

    def _score(self, model: CompactModel) -> Floats:
        description = model.description
        inputs = (*description.schema.names(), *(r.name for r in description.relations))
        # The examples of one set of fields are kept: most plans drop the same fields.
        if inputs not in self._examples:
            self._examples = {inputs: self._heldout.examples(description)}
        return Scorer(model.trained()).score(self._examples[inputs])
