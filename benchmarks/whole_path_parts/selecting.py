"""FSCD between two stages: gates learn on from a checkpoint of the stage, and what a budget has no room for is dropped."""

from __future__ import annotations

from dataclasses import dataclass

from compression_parts.learned import Learned

from compression.selection.footprint import Budget
from compression.selection.ranking import SelectionData, rank_fields
from compression.selection.report import FieldSelection
from compression.settings import SelectionSettings
from training.fit.model_and_baseline import LearnerConfig
from whole_path_parts.stages import Stage
from whole_path_parts.walk import Walk

_LEARNED_ON = 3
"""Last slices that the gates learn; the held-out part of the last one has no part in it. They begin where statistics
were learned, with the second slice at the soonest."""

_GATES = SelectionSettings(online=0.5)
"""As for KuaiRand in docs/measurements.md, where it was chosen on days that are learned here, not held out."""


@dataclass(frozen=True)
class Chosen:
    """Importance of every input, and those that the budget had no room for."""

    importance: dict[str, float]
    dropped: frozenset[str]


def choose(walk: Walk, stage: Stage, learned: Learned, share: float) -> Chosen:
    """Rank a learned stage's inputs, and keep what fits into a share of its bytes."""
    world = walk.world
    first = min(max(2, len(world.days) - _LEARNED_ON), len(world.days) - 1)
    source = SelectionData(learned.of_day(first - 1), tuple(world.days[first:]))
    recipe = LearnerConfig(stage.schema, stage.model, stage.training, stage.relations)
    ranking = rank_fields(source, recipe, _GATES)
    whole = ranking.footprint.of(frozenset(ranking.importance)).bytes
    kept = FieldSelection.kept_of(ranking, recipe, Budget(bytes=int(share * whole)))
    order = {name: round(ranking.importance[name], 4) for name in ranking.order()}
    return Chosen(order, frozenset(order) - kept)
