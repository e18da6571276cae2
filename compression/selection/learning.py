"""A checkpoint learned on over some partitions, and what it is worth on the last slice of the last of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from features.schema import Relation, Schema
from training.data.examples import heldout_start, read_examples
from training.data.inputs import Featurizer, Inputs
from training.data.layout import Layout
from training.evaluation.metrics import auc, log_loss
from training.fit.checkpoints import ENCODINGS, Description, read_description
from training.fit.learner import Learner
from training.fit.learners import Learners, Recipe
from training.fit.passes import learn_passes
from training.models.cross_files import read_encodings
from training.models.cross_input import Encodings
from training.settings import TrainingSettings


@dataclass(frozen=True)
class Source:
    """What is learned on: a checkpoint, and partitions of later days in the order of time.

    Attributes:
        checkpoint: a `checkpoint` folder (docs/architecture.md).
        partitions: `impressions` folders; the last slice of the last one is held out.
    """

    checkpoint: Path
    partitions: tuple[Path, ...]

    def description(self) -> Description:
        """What the checkpoint was trained with."""
        return read_description(self.checkpoint)

    def encodings(self, relations: Sequence[Relation]) -> Encodings:
        """The checkpoint's encodings of these relations."""
        known = read_encodings(self.checkpoint / ENCODINGS)
        return {r.name: known[r.name] for r in relations if r.name in known}

    def learner(self, recipe: Recipe) -> Learner:
        """The checkpoint's model, as far as the recipe has a place for it."""
        return Learners.restored(recipe, self.checkpoint, self.description()).model


@dataclass(frozen=True)
class Split:
    """Impressions to learn, by partition, and the held-out slice."""

    learned: tuple[Inputs, ...]
    heldout: Inputs

    def __len__(self) -> int:
        """Return how many impressions are to be learned."""
        return sum(len(part) for part in self.learned)


@dataclass(frozen=True)
class Quality:
    """How well a model ranks and predicts the held-out slice."""

    auc: float
    log_loss: float

    @classmethod
    def of(cls, learner: Learner, heldout: Inputs) -> Quality:
        """Score the slice; nothing is learned."""
        probability = learner.predict(heldout)
        return cls(auc(heldout.label, probability), log_loss(heldout.label, probability))


def read_split(source: Source, recipe: Recipe) -> Split:
    """Read the partitions as the checkpoint's model reads them: its scalers, its encodings.

    Raises:
        InputError: a partition or the checkpoint is missing, damaged or unfit.
        NoDataError: a partition has no impression.
    """
    featurizer = _featurizer(source, recipe.schema, recipe.relations)
    parts = [read_examples(folder, recipe.schema, recipe.relations) for folder in source.partitions]
    start = heldout_start(len(parts[-1]), recipe.training.holdout_fraction)
    learned = [*parts[:-1], parts[-1].slice(0, start)]
    heldout = featurizer.inputs(parts[-1].slice(start, len(parts[-1])))
    return Split(tuple(featurizer.inputs(part) for part in learned), heldout)


def learn(
    learner: Learner,
    split: Split,
    training: TrainingSettings,
    passes: int,
    tell: Callable[[float], None] | None = None,
) -> None:
    """Learn the split's partitions in order, `passes` times over.

    Args:
        learner: learns.
        split: what it learns.
        training: batch size, shuffling, seed.
        passes: how often.
        tell: called before each step with the share of the examples that is done.

    Raises:
        UnsoundError: the loss is not finite.
    """
    learn_passes(
        learner, split.learned, training, passes, "selection.learning_rate or the model's", tell
    )


def _featurizer(source: Source, schema: Schema, relations: Sequence[Relation]) -> Featurizer:
    saved, dense = source.description(), Layout.of(schema).dense
    scalers = {name: scaler for name, scaler in saved.scalers.items() if name in dense}
    return Featurizer(schema, relations, scalers, source.encodings(relations))
