"""Greedy search: from the whole model down, then exchanges of levels until nothing is better.

The next level is the one that costs least AUC per byte saved. The greedy part is lazy (Minoux,
1978): the cost of a level when it was last evaluated stands for its cost now; only the level that
seems best is evaluated again, and it is chosen if it is still the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from compression.search.evaluator import EvaluatedPlan
from compression.search.space import Levels, SearchSpace
from features.errors import InputError

_TINY = 1e-5
"""AUC: a smaller cost is noise. Of levels that cost nothing, the one that saves most is first."""

_MIN_SAVING = 0.99
"""A level that leaves more than this share of the bytes is skipped: it is not worth its risk."""


@dataclass(frozen=True)
class Goal:
    """The limits of a plan; None: no limit.

    With `max_drop`, the plan with the fewest bytes is searched; with `max_bytes` alone, the one
    with the best AUC.

    Attributes:
        max_bytes: of the compressed model.
        max_drop: of AUC on the choosing half, with one standard error added
            (`EvaluatedPlan.cautious_drop`).
    """

    max_bytes: int | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        if self.max_bytes is None and self.max_drop is None:
            raise InputError("nothing to search for: give --budget-bytes, --max-auc-drop, or both")

    def allows(self, plan: EvaluatedPlan) -> bool:
        """Return whether a plan is within the limits."""
        fits = self.max_bytes is None or plan.bytes <= self.max_bytes
        return fits and not self.drops_too_much(plan)

    def drops_too_much(self, plan: EvaluatedPlan) -> bool:
        """Return whether a plan loses more AUC than allowed."""
        return self.max_drop is not None and plan.cautious_drop > self.max_drop

    def rank(self, plan: EvaluatedPlan) -> tuple[float, float]:
        """Return a sort key that is smaller for a better plan."""
        drop = plan.cautious_drop
        return (drop, plan.bytes) if self.max_drop is None else (plan.bytes, drop)

    def best(self, plans: list[EvaluatedPlan]) -> EvaluatedPlan:
        """Return the best of some plans.

        Raises:
            InputError: none is within the limits.
        """
        allowed = [plan for plan in plans if self.allows(plan)]
        if not allowed:
            raise InputError(
                f"none of {len(plans)} plans is within the limits: the smallest takes "
                f"{min(plan.bytes for plan in plans):,} bytes, the best loses "
                f"{min(plan.cautious_drop for plan in plans):.5f} of AUC (standard error included);"
                " allow more, or measure more plans (--plans)"
            )
        return min(allowed, key=self.rank)


@dataclass
class SearchState:
    """The plans `evaluated` so far with their results, and how many more may be (`left`)."""

    space: SearchSpace
    bytes_of: Callable[[Levels], int]
    evaluate: Callable[[Levels], EvaluatedPlan]
    left: int
    evaluated: dict[Levels, EvaluatedPlan]

    def result(self, levels: Levels) -> EvaluatedPlan | None:
        """Return the result of a plan, evaluated at most once; None if no more may be evaluated."""
        if levels not in self.evaluated:
            if self.left <= 0:
                return None
            self.left -= 1
            self.evaluated[levels] = self.evaluate(levels)
        return self.evaluated[levels]


def greedy_search(state: SearchState, goal: Goal) -> EvaluatedPlan:
    """Return the best plan that descent and exchanges find.

    Raises:
        InputError: none is within the goal's limits.
    """
    # 1. Down to the limits; 2. exchanges of levels, as a greedy path may pass the best.
    levels: Levels | None = _descend(state, goal)
    while levels is not None:
        levels = _better_neighbour(state, goal, levels)
    # Of all evaluated plans, not only of the last one: evaluations may have run out.
    return goal.best(list(state.evaluated.values()))


def _descend(state: SearchState, goal: Goal) -> Levels:
    """Go level by level until the budget is met or every next level costs too much."""
    levels = state.space.start
    state.result(levels)
    # Cost of the next level of each axis, as last evaluated, and the axes evaluated at `levels`.
    costs = dict.fromkeys(range(len(state.space.axes)), 0.0)
    fresh: set[int] = set()
    while costs and not (goal.max_drop is None and goal.allows(state.evaluated[levels])):
        # Of equal costs the first axis, so that a search can be repeated.
        axis = min(costs, key=lambda a: (costs[a], a))
        coarser = _next_smaller(state, levels, axis)
        plan = None if coarser is None else state.result(coarser)
        if coarser is None or plan is None or goal.drops_too_much(plan):
            # Later levels of this axis cost no less.
            del costs[axis]
        elif axis in fresh:
            # Its cost is up to date, and still the least one.
            levels, fresh = coarser, set()
        else:
            fresh.add(axis)
            before = state.evaluated[levels]
            # Per factor e of bytes: the first halving of a model counts like the last one.
            lost = max(0.0, plan.cautious_drop - before.cautious_drop)
            costs[axis] = (lost + _TINY) / math.log(before.bytes / plan.bytes)
    return levels


def _next_smaller(state: SearchState, levels: Levels, axis: int) -> Levels | None:
    """The next level of an axis that saves enough bytes."""
    limit = _MIN_SAVING * state.evaluated[levels].bytes
    coarser = state.space.moved(levels, axis, 1)
    while coarser is not None and state.bytes_of(coarser) > limit:
        coarser = state.space.moved(coarser, axis, 1)
    return coarser


def _better_neighbour(state: SearchState, goal: Goal, levels: Levels) -> Levels | None:
    now = state.evaluated[levels]
    # With a limit on the loss, a plan within it can only be beaten by a smaller one.
    limit = goal.max_bytes
    # A plan that is smaller by less than 1 - `_MIN_SAVING` is not worth an evaluation.
    if goal.max_drop is not None and goal.allows(now):
        limit = int(_MIN_SAVING * now.bytes)
    for neighbour in _neighbours(state.space, levels):
        # Bytes are known without scoring, which is the slow part.
        if limit is not None and state.bytes_of(neighbour) > limit:
            continue
        plan = state.result(neighbour)
        if plan is None or not goal.allows(plan):
            continue
        if not goal.allows(now) or goal.rank(plan) < goal.rank(now):
            return neighbour
    return None


def _neighbours(space: SearchSpace, levels: Levels) -> Iterator[Levels]:
    """Plans one level finer or coarser on an axis, or coarser on one axis and finer on another."""
    axes = range(len(space.axes))
    for axis in axes:
        finer, coarser = space.moved(levels, axis, -1), space.moved(levels, axis, 1)
        if finer:
            yield finer
        if coarser:
            yield coarser
            both = (space.moved(coarser, other, -1) for other in axes if other != axis)
            yield from (exchanged for exchanged in both if exchanged)
