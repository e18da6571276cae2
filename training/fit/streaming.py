"""Training on an endless stream: small batches of impressions, each scored before it is trained on.

`training.fit.score_then_train` does the same for one finite day or hour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from features.timezones import utc_offsets
from training.data.columns import AbsentFields
from training.data.examples import Examples, heldout_start, read_examples
from training.data.inputs import Featurizer
from training.data.layout import FieldLayout
from training.data.scalers import Scaler, scalers_from_numbers
from training.evaluation.metrics import auc, calibration, log_loss
from training.fit.checkpoints import ENCODINGS, Description, read_description, write_description
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.fit.sampling import sampled
from training.fit.training_loop import train_model_and_baseline
from training.models.encoding_inputs import Encodings, read_encodings, write_encodings

_DAY_S = 86_400


@dataclass(frozen=True)
class BatchFigures:
    """Figures of a batch, by the model before it was trained on the batch; NaN where undefined.

    `log_loss` is in nats per impression, `calibration` is expected clicks over clicks.
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
        """Return the figures of a batch that no model scored."""
        return cls(len(label), int(label.sum()), *[math.nan] * 4)


class StreamTrainer:
    """Trains a model on a stream that does not end.

    Scalers and encodings never change: the model that is served meanwhile was trained with them.

    Args:
        config: what the learners were built from.
        learners: to train.
        featurizer: None: there is no model yet; scalers are computed from the first batch.
        day: the last local day that was trained on, counted from 1970; the table's days continue
            from it.
    """

    def __init__(
        self,
        config: LearnerConfig,
        learners: ModelAndBaseline,
        featurizer: Featurizer | None,
        day: int | None = None,
    ) -> None:
        self.config, self.learners, self.day = config, learners, day
        self._dense = FieldLayout.of(config.schema).dense
        self._featurizer = featurizer

    @classmethod
    def new(cls, config: LearnerConfig) -> Self:
        """Begin with an untrained model."""
        return cls(config, ModelAndBaseline.new(config), None)

    @classmethod
    def from_checkpoint(
        cls, config: LearnerConfig, checkpoint: Path, day: int | None = None
    ) -> Self:
        """Begin with a checkpoint's weights, scalers and encodings.

        Raises:
            InputError: it is incomplete or damaged, or does not fit the config.
        """
        saved = read_description(checkpoint)
        known = read_encodings(checkpoint / ENCODINGS)
        names = [relation.name for relation in config.relations]
        encodings = {name: known[name] for name in names if name in known}
        dense = FieldLayout.of(config.schema).dense
        # The checkpoint's scalers, not new ones: its weights were trained with them.
        # A numeric field that the checkpoint does not have is not scaled.
        scalers = {name: saved.scalers.get(name, Scaler()) for name in dense}
        featurizer = Featurizer(config.schema, config.relations, scalers, encodings)
        learners = ModelAndBaseline.from_checkpoint(config, checkpoint, saved)
        return cls(config, learners, featurizer, day)

    @property
    def has_begun(self) -> bool:
        """Whether there is a model to score with."""
        return self._featurizer is not None

    @property
    def encodings(self) -> Encodings:
        """The frozen encodings that the model reads, by relation."""
        return self._featurizer.encodings if self._featurizer else {}

    def train_on_heldout(self, partition: Path, fraction: float) -> int:
        """Train on the last `fraction` of the `impressions` that the checkpoint held out.

        Returns:
            The number of impressions.
        """
        assert self._featurizer
        config, training = self.config, self.config.training
        examples = read_examples(
            partition, config.schema, config.relations, AbsentFields.NULL, training.weight
        )
        heldout = examples.slice(heldout_start(len(examples), fraction), len(examples))
        inputs = sampled(self._featurizer.inputs(heldout), heldout, training)
        train_model_and_baseline(self.learners, inputs, training, "held-out slice", None)
        return len(heldout)

    def score(self, examples: Examples) -> NDArray[np.float32] | None:
        """Return probabilities float32 [n] by the current model; None if there is none yet."""
        if self._featurizer is None:
            return None
        return self.learners.model.predict(self._featurizer.inputs(examples))

    def train_on(self, examples: Examples, scores: NDArray[np.float32] | None) -> None:
        """Train on impressions by the settings in `training`.

        Args:
            examples: n impressions.
            scores: float32 [n], as `score` returned them before.

        Raises:
            UnsoundError: the loss or a dense weight is not finite; the model must not be used.
        """
        config = self.config
        # 1. The first batch: scalers from its numbers, and a start at its click rate.
        if self._featurizer is None:
            scalers = scalers_from_numbers(self._dense, examples.numbers, examples.present)
            self._featurizer = Featurizer(config.schema, config.relations, scalers, {})
            self.learners.start_at_click_rate(examples.label)

        # 2. Begin a day of the table if the last impression is of a later local day than before.
        day = local_day(int(examples.timestamp_ms[-1]), config.schema.timezone)
        if self.day is None or day > self.day:
            self.learners.start_day()
            self.day = day

        # 3. Train.
        inputs = sampled(self._featurizer.inputs(examples), examples, config.training, scores)
        train_model_and_baseline(self.learners, inputs, config.training, "micro-batch", None)

    def description(self) -> Description:
        """Return the current content of `model.json`."""
        config, step = self.config, self.learners.model.table.step
        scalers = self._featurizer.scalers if self._featurizer else {}
        relations = tuple(config.relations)
        return Description(config.schema, config.model, config.training, scalers, relations, step)

    def save(self, folder: Path) -> None:
        """Write a checkpoint; `from_checkpoint` continues from it exactly."""
        folder.mkdir(parents=True, exist_ok=True)
        write_description(folder, self.description())
        write_encodings(folder / ENCODINGS, self.encodings)
        self.learners.save(folder)


def local_day(timestamp_ms: int, timezone: str) -> int:
    """Return the local day of epoch milliseconds, counted from 1970-01-01."""
    # A zone's offset is constant from one change, such as summer time, to the next.
    starts, offsets = utc_offsets(timezone)
    seconds = timestamp_ms // 1000
    place = int(np.searchsorted(np.array(starts), seconds, side="right")) - 1
    return int((seconds + offsets[place]) // _DAY_S)
