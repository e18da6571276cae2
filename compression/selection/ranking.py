"""Rank the fields of a checkpoint's model by gates that are trained on later days."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compression.selection.footprint import Footprint, measure
from compression.settings import SelectionSettings
from features.schema import Relation
from training.data.examples import heldout_start, read_examples
from training.data.inputs import Featurizer, Inputs
from training.data.layout import FieldLayout
from training.evaluation.metrics import auc, log_loss
from training.fit.checkpoints import ENCODINGS, read_description
from training.fit.learner import Learner
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.fit.training_loop import train_learner
from training.models.encoding_inputs import Encodings, read_encodings
from training.models.gates import LOGITS, Draw, GatedModel, GateRule
from training.settings import TrainingSettings


@dataclass(frozen=True)
class SelectionData:
    """What a selection is trained on: a checkpoint, and partitions of later days in order of time.

    Attributes:
        checkpoint: a `checkpoint` folder (docs/architecture.md).
        partitions: `impressions` folders; the last slice of the last one is held out.
    """

    checkpoint: Path
    partitions: tuple[Path, ...]

    def encodings(self, relations: Sequence[Relation]) -> Encodings:
        """Return the checkpoint's encodings of these relations."""
        known = read_encodings(self.checkpoint / ENCODINGS)
        return {r.name: known[r.name] for r in relations if r.name in known}

    def learner(self, config: LearnerConfig) -> Learner:
        """Return the checkpoint's model; fields that are not configured are dropped from it."""
        return ModelAndBaseline.from_checkpoint(
            config, self.checkpoint, read_description(self.checkpoint)
        ).model


@dataclass(frozen=True)
class TrainingSplit:
    """Impressions to train on, by partition, and the held-out slice."""

    train: tuple[Inputs, ...]
    heldout: Inputs

    def __len__(self) -> int:
        return sum(len(part) for part in self.train)


@dataclass(frozen=True)
class HeldOutQuality:
    """How well a model ranks and predicts the held-out slice."""

    auc: float
    log_loss: float

    @classmethod
    def of(cls, learner: Learner, heldout: Inputs) -> HeldOutQuality:
        """Score the slice without training."""
        probability = learner.predict(heldout)
        return cls(auc(heldout.label, probability), log_loss(heldout.label, probability))


def read_split(data: SelectionData, config: LearnerConfig) -> TrainingSplit:
    """Read the partitions with the scalers and the encodings of the checkpoint.

    Raises:
        InputError: a partition or the checkpoint is missing, damaged or unfit.
        NoDataError: a partition has no impression.
    """
    schema, relations = config.schema, config.relations
    dense, saved = FieldLayout.of(schema).dense, read_description(data.checkpoint).scalers
    # The checkpoint's scalers and encodings: its weights were trained with them.
    scalers = {name: scaler for name, scaler in saved.items() if name in dense}
    featurizer = Featurizer(schema, relations, scalers, data.encodings(relations))
    # Only the last slice of the last day is held out; all that precedes it is trained on.
    *parts, last = [read_examples(folder, schema, relations) for folder in data.partitions]
    start = heldout_start(len(last), config.training.holdout_fraction)
    parts.append(last.slice(0, start))
    heldout = featurizer.inputs(last.slice(start, len(last)))
    return TrainingSplit(tuple(featurizer.inputs(part) for part in parts), heldout)


def train_on_split(
    learner: Learner,
    split: TrainingSplit,
    training: TrainingSettings,
    passes: int,
    report: Callable[[float], None] | None = None,
) -> None:
    """Train on the split's partitions in order, `passes` times.

    `report` is called before each step with the share of the examples that is done.

    Raises:
        UnsoundError: the loss is not finite.
    """
    rate_to_lower = "selection.learning_rate or the model's"
    train_learner(learner, split.train, training, passes, rate_to_lower, report)


@dataclass(frozen=True)
class FieldRanking:
    """The trained gates.

    Attributes:
        importance: use → δ, the probability that it is kept.
        footprint: what the uses cost.
        scores: use → `G(c)`, the weight of its cost in the penalty of FSCD.
    """

    importance: Mapping[str, float]
    footprint: Footprint
    scores: Mapping[str, float]

    def order(self) -> tuple[str, ...]:
        """Return the uses, the most important first; ties by lower cost, then by name."""
        names = self.importance
        return tuple(sorted(names, key=lambda n: (-self.importance[n], self.scores[n], n)))


def rank_fields(
    data: SelectionData,
    config: LearnerConfig,
    settings: SelectionSettings,
    report: Callable[[float], None] | None = None,
) -> FieldRanking:
    """Train gates and weights from a checkpoint on, and rank the uses of its fields by the gates.

    `report` is called before each step with the share of the examples that is done.

    Raises:
        InputError: missing, damaged or unfit inputs.
        UnsoundError: the loss is not finite.
    """
    # Costs are measured before training: what the current checkpoint would cost to serve.
    split, learner = read_split(data, config), data.learner(config)
    footprint = measure(config.schema, learner, split.heldout, data.encodings(config.relations))
    return rank(learner, split, config, settings, footprint, report)


def rank(
    learner: Learner,
    split: TrainingSplit,
    config: LearnerConfig,
    settings: SelectionSettings,
    footprint: Footprint,
    report: Callable[[float], None] | None = None,
) -> FieldRanking:
    """Put gates in front of the learner's model, train both, and return the ranking."""
    scores = {name: cost.score(settings) for name, cost in footprint.complexities.items()}
    # 1. Put a gate in front of every use.
    gated = GatedModel(learner.model, gate_rule(config, settings), costs(scores, config, settings))
    # 2. Use the same table and optimizer state; the gates of an earlier ranking start again.
    through_gates = Learner(gated, learner.table, learner.optimizer, config.training.seed)
    slots = {name: slots for name, slots in learner.slots.items() if name != LOGITS}
    through_gates.slots.update(slots)

    def progress(share: float) -> None:
        # The temperature of the gates and the ramp of the penalty follow the progress.
        gated.progress.assign(share)
        if report:
            report(share)

    # 3. Train gates and weights together: a gate's value depends on what the model makes of it.
    train_on_split(through_gates, split, config.training, settings.passes, progress)
    return FieldRanking(gated.keep(), footprint, scores)


def gate_rule(config: LearnerConfig, settings: SelectionSettings) -> GateRule:
    """Return the gates of FSCD or DropRank.

    DropRank's penalty rises over the first half: `min(1, epoch / (E / 2))`.
    """
    # The gates' rate relative to that of the dense weights, which the learner applies to both.
    fscd = settings.method == "fscd"
    return GateRule(
        draw=Draw.BATCH if fscd else Draw.EXAMPLE,
        temperatures=settings.temperatures,
        initial_keep=settings.initial_keep,
        keep_range=settings.keep_range,
        speed=settings.learning_rate / config.model.dense.learning_rate,
        # FSCD's penalty has its full size from the first step.
        ramp=0.0 if fscd else 0.5,
    )


def costs(
    scores: Mapping[str, float], config: LearnerConfig, settings: SelectionSettings
) -> NDArray[np.float64]:
    """Return the price of each use, float64 [uses] in nats: FSCD's `α_j / N` or DropRank's λ."""
    if settings.method == "droprank":
        return np.full(len(scores), settings.drop_weight)
    return np.array(list(scores.values())) / config.training.batch_size
