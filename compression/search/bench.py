"""What a plan is worth: its bytes, and how well the model that it leaves ranks the held-out slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from compression.model import CompactModel
from compression.pruning import without_zero_rows
from compression.search.certainty import drop_error
from compression.search.heldout import HeldOut
from compression.steps.sequence import run_step
from compression.steps.settings import StepSettings
from compression.steps.work import Work, work_on
from training.data.examples import Examples
from training.evaluation.metrics import auc, log_loss
from training.evaluation.metrics.bootstrap import Interval, interval, resample_users
from training.evaluation.scoring import Scorer
from training.fit.checkpoints import Description, read_checkpoint

Scores = NDArray[np.float32]

_REMEMBERED = 3
"""Models between steps are kept for plans with the same beginning, up to so many times the whole model's bytes; those go first
that were not used for longest."""


@dataclass(frozen=True)
class Measured:
    """A plan and what it is worth.

    Attributes:
        name: `searched`, or of a baseline.
        steps: the plan.
        bytes: of keys, rows, dense weights and encodings, as they are stored.
        rows: keys of all tables.
        drop: AUC of the trained model minus this one's, on the choosing half.
        error: standard error of `drop`.
        drop_reported: the same on the reported half.
        auc_reported: of this model on the reported half.
        log_loss_reported: the same, in nats.
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
    scores: Scores

    @property
    def cautious_drop(self) -> float:
        """`drop` and one standard error: of many plans some seem to lose nothing by chance, and a search looks for those."""
        return self.drop + self.error


class Bench:
    """Compresses and scores.

    Args:
        work: the checkpoint's model without zero rows.
        heldout: the day's slice.
    """

    def __init__(self, work: Work, heldout: HeldOut) -> None:
        self.work = work
        self._heldout = heldout
        self._works: dict[tuple[StepSettings, ...], Work] = {}
        self._read: dict[tuple[str, ...], Examples] = {}
        self.bytes = work.model.nbytes
        self._trained = self._scores(work.model)

    @classmethod
    def of(cls, checkpoint: Path, partition: Path, tolerance: float) -> Self:
        """Read a checkpoint and the day whose last slice it did not learn.

        Raises:
            InputError: one of them is missing, damaged or unfit.
        """
        model = without_zero_rows(CompactModel.of(read_checkpoint(checkpoint)), tolerance)
        return cls(work_on(model, checkpoint, partition), HeldOut.of(partition, model.description))

    def weigh(self, steps: Sequence[StepSettings]) -> int:
        """Return the bytes that a plan leaves; nothing is scored."""
        return self.after(tuple(steps)).model.nbytes

    def measure(self, name: str, steps: Sequence[StepSettings]) -> Measured:
        """Compress, score, compare with the trained model on both halves."""
        model = self.after(tuple(steps)).model
        return self.compare(name, tuple(steps), model.nbytes, model.rows, self._scores(model))

    def compare(
        self, name: str, steps: tuple[StepSettings, ...], size: int, rows: int, scores: Scores
    ) -> Measured:
        """Compare the scores that a model gave the held-out slice, float32 [n], with the trained model's, on both halves."""
        trained = self._trained
        label, user, reported, choosing = (
            getattr(self._heldout, n) for n in ("label", "user", "reported", "choosing")
        )
        return Measured(
            name=name,
            steps=steps,
            bytes=size,
            rows=rows,
            drop=auc(label[choosing], trained[choosing]) - auc(label[choosing], scores[choosing]),
            error=drop_error(label[choosing], trained[choosing], scores[choosing], user[choosing]),
            drop_reported=auc(label[reported], trained[reported])
            - auc(label[reported], scores[reported]),
            auc_reported=auc(label[reported], scores[reported]),
            log_loss_reported=log_loss(label[reported], scores[reported]),
            scores=scores[reported],
        )

    def interval(self, measured: Measured) -> Interval:
        """Return where the drop on the reported half lies, under draws of its users."""
        half = self._heldout.reported
        models = {"trained": self._trained[half], "compressed": measured.scores}
        drawn = resample_users(self._heldout.label[half], models, self._heldout.user[half])
        return interval(drawn["trained"].auc - drawn["compressed"].auc)

    def after(self, steps: tuple[StepSettings, ...]) -> Work:
        """Return the model after a plan, made from the longest beginning of it that is remembered."""
        if not steps:
            return self.work
        done = self._works.pop(steps, None) or run_step(self.after(steps[:-1]), steps[-1])[0]
        self._works[steps] = done
        while (
            len(self._works) > 1
            and sum(work.model.nbytes for work in self._works.values()) > _REMEMBERED * self.bytes
        ):
            del self._works[next(iter(self._works))]
        return done

    def _scores(self, model: CompactModel) -> Scores:
        return Scorer(model.trained()).score(self._examples(model.description))

    def _examples(self, told: Description) -> Examples:
        inputs = (*told.schema.names(), *(relation.name for relation in told.relations))
        if inputs not in self._read:
            self._read = {inputs: self._heldout.examples(told)}
        return self._read[inputs]
