"""What dropping fields costs in quality: a checkpoint's model with all fields, and with some, before and after learning on."""

from __future__ import annotations

from dataclasses import dataclass

from compression.selection.learning import Quality, Source, learn, read_split
from training.fit.learners import Recipe


@dataclass(frozen=True)
class Trial:
    """One set of fields on the held-out slice: weights as inherited, and fine-tuned on the partitions before it."""

    inherited: Quality
    tuned: Quality


def try_recipe(source: Source, recipe: Recipe) -> Trial:
    """Restore the checkpoint into a recipe, score, learn the partitions once without gates, and score again.

    Fields that the recipe lacks are dropped, and with them the rows of the first layers that read them; everything else keeps
    its weights and its optimizer state (`training.models.blocks.carry_over`).

    Raises:
        InputError: missing, damaged or unfit inputs.
        UnsoundError: the loss is not finite.
    """
    split, learner = read_split(source, recipe), source.learner(recipe)
    inherited = Quality.of(learner, split.heldout)
    learn(learner, split, recipe.training, passes=1)
    return Trial(inherited, Quality.of(learner, split.heldout))
