"""FSCD on an arm: gates that learn on its model, and the uses that half of its bytes have room for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from frappe_peers.data import Frappe

from compression.selection.footprint import Budget, Footprint, choose, needs
from compression.selection.ranking import FieldRanking, TrainingSplit, rank, train_on_split
from compression.settings import SelectionSettings
from crosses_parts.arms import Arm
from crosses_parts.columns import inputs_of
from crosses_parts.learning import footprint_of, recipe_of
from training.fit.model_and_baseline import ModelAndBaseline

SHARE = 0.5


@dataclass(frozen=True)
class Chosen:
    """What half the bytes have room for.

    Attributes:
        ranking: importance and cost of every use.
        fscd: uses kept in the order of importance.
        cheapest: uses kept in the order of their rows, the fewest first: what needs no gates.
    """

    ranking: FieldRanking
    fscd: frozenset[str]
    cheapest: frozenset[str]

    def as_dict(self) -> dict[str, Any]:
        """Return the uses as data for JSON, the most important first."""
        complexities, importance = self.ranking.footprint.complexities, self.ranking.importance
        return {
            name: {
                "importance": importance[name],
                "rows": complexities[name].rows,
                "kept": name in self.fscd,
                "kept_by_cheapest": name in self.cheapest,
            }
            for name in self.ranking.order()
        }


def choose_half(
    arm: Arm, data: Frappe, settings: Mapping[str, Any], selection: SelectionSettings, seed: int
) -> Chosen:
    """Learn the training rows once, then on with gates, and choose; validation and test rows have no part in it.

    Raises:
        InputError: half the bytes have no room for any field.
    """
    recipe = recipe_of(arm, settings, seed, len(data.train))
    learner, split = (
        ModelAndBaseline.new(recipe).model,
        TrainingSplit((inputs_of(arm, data.train),), inputs_of(arm, data.valid)),
    )
    train_on_split(learner, split, recipe.training, passes=1)
    ranking = rank(learner, split, recipe, selection, footprint_of(arm, learner))
    sizes = footprint_of(arm, learner)  # by now values that had to wait for their row have it
    return Chosen(
        ranking,
        *(halved(arm, sizes, order) for order in (ranking.order(), cheapest_first(ranking))),
    )


def cheapest_first(ranking: FieldRanking) -> tuple[str, ...]:
    """Return the uses by their rows, the fewest first; of equals by name."""
    complexities = ranking.footprint.complexities
    return tuple(sorted(complexities, key=lambda name: (complexities[name].rows, name)))


def halved(arm: Arm, footprint: Footprint, order: tuple[str, ...]) -> frozenset[str]:
    """Return the uses that half the bytes have room for, taken in this order.

    Raises:
        InputError: there is room for none.
    """
    whole = footprint.of(frozenset(footprint.complexities)).bytes
    return choose(order, needs(arm.schema(), ()), footprint.of, Budget(bytes=int(SHARE * whole)))
