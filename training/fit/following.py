"""Learning without an end: small batches of impressions as they come, each scored before it is learned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from features.errors import UnsoundError
from features.timezones import utc_offsets
from training.data.columns import AbsentFields
from training.data.examples import Examples, heldout_start, read_examples
from training.data.inputs import Featurizer
from training.data.layout import Layout
from training.data.scalers import Scaler, scalers_from_numbers
from training.evaluation.metrics import auc, calibration, log_loss
from training.fit.checkpoints import ENCODINGS, Description, read_description, write_description
from training.fit.learners import Learners, Recipe
from training.fit.sampling import sampled
from training.fit.stream import learn
from training.models.cross_files import read_encodings, write_encodings
from training.models.cross_input import Encodings

_DAY_S = 86_400


@dataclass(frozen=True)
class BatchFigures:
    """What a batch came to, by the model that had not learned it; NaN where undefined.

    Attributes:
        rows: impressions.
        clicks: of these.
        expected_clicks: the sum of the probabilities.
        auc: of the batch.
        log_loss: mean, nats.
        calibration: expected clicks over clicks.
    """

    rows: int
    clicks: int
    expected_clicks: float
    auc: float
    log_loss: float
    calibration: float

    @classmethod
    def of(cls, label: NDArray[np.float32], scores: NDArray[np.float32]) -> Self:
        """Compute the figures of labels and probabilities, float32 [n] each."""
        figures = auc(label, scores), log_loss(label, scores), calibration(label, scores)
        return cls(len(label), int(label.sum()), float(np.sum(scores, dtype=np.float64)), *figures)

    @classmethod
    def unscored(cls, label: NDArray[np.float32]) -> Self:
        """Return the figures where there was no model."""
        return cls(len(label), int(label.sum()), *[math.nan] * 4)


class Follower:
    """Learners that go on for ever, and what their model reads.

    Scalers and encodings stay what they are at the beginning: the model that is served meanwhile was learned with them.

    Args:
        recipe: what the learners are built from.
        learners: as they are.
        featurizer: None: nothing is known yet, scalers are taken from the first batch.
        day: the last local day of which something was learned, counted from 1970; the table's days go on with it.
    """

    def __init__(
        self,
        recipe: Recipe,
        learners: Learners,
        featurizer: Featurizer | None,
        day: int | None = None,
    ) -> None:
        self.recipe, self.learners, self.day = recipe, learners, day
        self._featurizer = featurizer

    @classmethod
    def fresh(cls, recipe: Recipe) -> Self:
        """Begin with nothing learned."""
        return cls(recipe, Learners.fresh(recipe), None)

    @classmethod
    def restored(cls, recipe: Recipe, checkpoint: Path, day: int | None = None) -> Self:
        """Begin with what a checkpoint learned, its scalers and its encodings.

        Raises:
            InputError: it is incomplete or damaged, or does not fit the recipe.
        """
        saved = read_description(checkpoint)
        known = read_encodings(checkpoint / ENCODINGS)
        encodings = {
            relation.name: known[relation.name]
            for relation in recipe.relations
            if relation.name in known
        }
        scalers = {
            name: saved.scalers.get(name, Scaler()) for name in Layout.of(recipe.schema).dense
        }
        featurizer = Featurizer(recipe.schema, recipe.relations, scalers, encodings)
        return cls(recipe, Learners.restored(recipe, checkpoint, saved), featurizer, day)

    @property
    def has_begun(self) -> bool:
        """Whether there is a model to score with."""
        return self._featurizer is not None

    @property
    def encodings(self) -> Encodings:
        """The frozen encodings that the model reads, by relation."""
        return self._featurizer.encodings if self._featurizer else {}

    def learn_heldout(self, partition: Path, fraction: float) -> int:
        """Learn the last `fraction` of an `impressions` artifact, which its checkpoint held out; return the impressions."""
        assert self._featurizer
        schema, training = self.recipe.schema, self.recipe.training
        examples = read_examples(
            partition, schema, self.recipe.relations, AbsentFields.NULL, training.weight
        )
        heldout = examples.slice(heldout_start(len(examples), fraction), len(examples))
        learn(
            self.learners,
            sampled(self._featurizer.inputs(heldout), heldout, training),
            training,
            "held-out slice",
            None,
        )
        return len(heldout)

    def score(self, examples: Examples) -> NDArray[np.float32] | None:
        """Return probabilities float32 [n] by the model as it is; None if nothing is learned yet."""
        return (
            self.learners.model.predict(self._featurizer.inputs(examples))
            if self._featurizer
            else None
        )

    def learn(self, examples: Examples, scores: NDArray[np.float32] | None) -> None:
        """Learn impressions, which were scored before, as `training` says.

        Raises:
            UnsoundError: the loss or a dense weight is not finite; what was learned is of no use any more.
        """
        if self._featurizer is None:
            self._begin(examples)
        assert self._featurizer
        self._turn_days(examples)
        lesson = sampled(self._featurizer.inputs(examples), examples, self.recipe.training, scores)
        learn(self.learners, lesson, self.recipe.training, "micro-batch", None)
        self._refuse_unsound()

    def description(self) -> Description:
        """Return what `model.json` says of the model as it is."""
        recipe = self.recipe
        scalers = self._featurizer.scalers if self._featurizer else {}
        step = self.learners.model.table.step
        return Description(
            recipe.schema, recipe.model, recipe.training, scalers, tuple(recipe.relations), step
        )

    def save(self, folder: Path) -> None:
        """Write a checkpoint, from which `restored` goes on as if nothing had been between."""
        folder.mkdir(parents=True, exist_ok=True)
        write_description(folder, self.description())
        write_encodings(folder / ENCODINGS, self.encodings)
        self.learners.save(folder)

    def _begin(self, examples: Examples) -> None:
        schema = self.recipe.schema
        scalers = scalers_from_numbers(Layout.of(schema).dense, examples.numbers, examples.present)
        self._featurizer = Featurizer(schema, self.recipe.relations, scalers, {})
        self.learners.start_at_click_rate(examples.label)

    def _turn_days(self, examples: Examples) -> None:
        """Let the table's days go on when the last impression is of a later local day than any before."""
        day = local_day(int(examples.timestamp_ms[-1]), self.recipe.schema.timezone)
        if self.day is None or day > self.day:
            self.learners.start_day()
            self.day = day

    def _refuse_unsound(self) -> None:
        wrong = [
            name
            for name, weight in self.learners.model.model.weights().items()
            if not np.isfinite(weight).all()
        ]
        if wrong:
            raise UnsoundError(
                f"the dense weights {wrong} are not finite: lower the learning rates or check the numbers"
            )


def local_day(timestamp_ms: int, timezone: str) -> int:
    """Return the local day of epoch milliseconds, counted from 1970-01-01."""
    starts, offsets = utc_offsets(timezone)
    seconds = timestamp_ms // 1000
    place = int(np.searchsorted(np.array(starts), seconds, side="right")) - 1
    return int((seconds + offsets[place]) // _DAY_S)
