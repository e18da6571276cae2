"""Fields ranked by gates that learned on a checkpoint's model, each beside its cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from compression.selection.complexity import Footprint, measure, score
from compression.selection.learning import Source, Split, learn, read_split
from compression.settings import SelectionSettings
from training.fit.learner import Learner
from training.fit.learners import Recipe
from training.models.gates import LOGITS, Draw, GatedModel, GateRule


@dataclass(frozen=True)
class Ranking:
    """What the gates learned.

    Attributes:
        importance: use → δ, the chance to be kept.
        footprint: what the uses cost.
        scores: use → `G(c)`, the weight of its cost in the penalty of FSCD.
    """

    importance: Mapping[str, float]
    footprint: Footprint
    scores: Mapping[str, float]

    def order(self) -> tuple[str, ...]:
        """Return the uses, the most important first; of equals the cheaper one, then by name."""
        return tuple(
            sorted(
                self.importance, key=lambda name: (-self.importance[name], self.scores[name], name)
            )
        )


def rank_fields(
    source: Source,
    recipe: Recipe,
    settings: SelectionSettings,
    tell: Callable[[float], None] | None = None,
) -> Ranking:
    """Let gates and weights learn on from a checkpoint, and rank the uses of its fields by the gates.

    Args:
        source: the checkpoint, and what to learn.
        recipe: of the model; its schema's fields are what is ranked.
        settings: of the gates.
        tell: called before each step with the share that is done.

    Raises:
        InputError: missing, damaged or unfit inputs.
        UnsoundError: the loss is not finite.
    """
    split, learner = read_split(source, recipe), source.learner(recipe)
    footprint = measure(recipe.schema, learner, split.heldout, source.encodings(recipe.relations))
    return rank(learner, split, recipe, settings, footprint, tell)


def rank(
    learner: Learner,
    split: Split,
    recipe: Recipe,
    settings: SelectionSettings,
    footprint: Footprint,
    tell: Callable[[float], None] | None = None,
) -> Ranking:
    """Put gates before the learner's model, learn the split, and return what they say. The learner learns along."""
    scores = {
        name: score(complexity, settings) for name, complexity in footprint.complexities.items()
    }
    gated = GatedModel(learner.model, gate_rule(recipe, settings), costs(scores, recipe, settings))
    learn(
        _with_gates(learner, gated, recipe),
        split,
        recipe.training,
        settings.passes,
        _both(gated.progress, tell),
    )
    return Ranking(gated.keep(), footprint, scores)


def gate_rule(recipe: Recipe, settings: SelectionSettings) -> GateRule:
    """Return the gates of FSCD or of DropRank (whose penalty rises over the first half: `min(1, epoch / (E / 2))`)."""
    fscd = settings.method == "fscd"
    return GateRule(
        draw=Draw.BATCH if fscd else Draw.EXAMPLE,
        temperatures=settings.temperatures,
        initial_keep=settings.initial_keep,
        keep_range=settings.keep_range,
        speed=settings.learning_rate / recipe.model.dense.learning_rate,
        ramp=0.0 if fscd else 0.5,
    )


def costs(
    scores: Mapping[str, float], recipe: Recipe, settings: SelectionSettings
) -> NDArray[np.float64]:
    """Return the price of keeping each use, float64 [uses] in nats: `α_j / N` of FSCD (N: the batch), or λ of DropRank."""
    if settings.method == "droprank":
        return np.full(len(scores), settings.drop_weight)
    return np.array(list(scores.values())) / recipe.training.batch_size


def _with_gates(learner: Learner, gated: GatedModel, recipe: Recipe) -> Learner:
    """The same table and the same state of the weights, learned through gates."""
    through = Learner(gated, learner.table, learner.optimizer, recipe.training.seed)
    through.slots.update({name: slots for name, slots in learner.slots.items() if name != LOGITS})
    return through


def _both(progress: tf.Variable, tell: Callable[[float], None] | None) -> Callable[[float], None]:
    def set_and_tell(share: float) -> None:
        """Let the gates know, and whoever listens."""
        progress.assign(share)
        if tell:
            tell(share)

    return set_and_tell
