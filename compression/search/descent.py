"""From the whole model down: the level next that costs least AUC a byte saved, then exchanges, until nothing is better.

Greedy in the order of cost over saving, lazily (Minoux 1978): what a level cost when it was last measured is taken for what it
costs now, and only the seemingly best one is measured again; it is taken if it still is the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from compression.search.bench import Measured
from compression.search.space import Point, Space
from features.errors import InputError

_TINY = 1e-5
"""AUC: a cost below this is noise, so that of free levels the one that saves most comes first."""

_WORTH = 0.99
"""A level that leaves more than this of the bytes is not worth its risk, and is passed over."""


@dataclass(frozen=True)
class Goal:
    """What is wanted; None: no limit. With the second limit, the fewest bytes; with the first alone, the best AUC.

    Attributes:
        max_bytes: a plan may leave.
        max_drop: of AUC on the choosing half, with one standard error added (`Measured.cautious_drop`).
    """

    max_bytes: int | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        """Refuse to want nothing.

        Raises:
            InputError: neither limit is given.
        """
        if self.max_bytes is None and self.max_drop is None:
            raise InputError("nothing to search for: give --budget-bytes, --max-auc-drop, or both")

    def allows(self, found: Measured) -> bool:
        """Return whether a plan is within the limits."""
        fits = self.max_bytes is None or found.bytes <= self.max_bytes
        return fits and (self.max_drop is None or found.cautious_drop <= self.max_drop)

    def rank(self, found: Measured) -> tuple[float, float]:
        """Return what is smaller for a better plan."""
        drop = found.cautious_drop
        return (drop, found.bytes) if self.max_drop is None else (found.bytes, drop)

    def best(self, found: list[Measured]) -> Measured:
        """Return the best of some plans.

        Raises:
            InputError: none is within the limits.
        """
        allowed = [one for one in found if self.allows(one)]
        if not allowed:
            least, nearest = (
                min(one.bytes for one in found),
                min(found, key=lambda one: one.cautious_drop),
            )
            raise InputError(
                f"none of {len(found)} plans is within the limits: the smallest takes {least:,} bytes, the best loses "
                f"{nearest.cautious_drop:.5f} of AUC (standard error included); allow more, or measure more plans (--plans)"
            )
        return min(allowed, key=self.rank)


@dataclass
class Trail:
    """Plans measured so far, by point, and how many more may be.

    Attributes:
        space: of the points.
        weigh: returns a point's bytes.
        measure: returns what a point is worth.
        left: points that may still be measured.
        found: what was measured.
    """

    space: Space
    weigh: Callable[[Point], int]
    measure: Callable[[Point], Measured]
    left: int
    found: dict[Point, Measured]

    def at(self, point: Point) -> Measured | None:
        """Return what a point is worth, measured at most once; None when no more may be measured."""
        if point not in self.found:
            if self.left <= 0:
                return None
            self.left -= 1
            self.found[point] = self.measure(point)
        return self.found[point]


def descend(trail: Trail, goal: Goal) -> Measured:
    """Return the best plan that descent and exchanges find.

    Raises:
        InputError: none is within the goal's limits.
    """
    for _ in _exchanges(trail, goal, _greedy(trail, goal)):
        pass
    return goal.best(list(trail.found.values()))


def _greedy(trail: Trail, goal: Goal) -> Point:
    """Take level after level until the budget is met or every next one costs too much; return the last point."""
    point = trail.space.start
    trail.at(point)
    costs = dict.fromkeys(
        range(len(trail.space.axes)), 0.0
    )  # of the next level of each axis, as last measured
    fresh: set[int] = set()
    while costs and not (goal.max_drop is None and goal.allows(trail.found[point])):
        axis = min(costs, key=lambda a: (costs[a], a))
        coarser = _next_lighter(trail, point, axis)
        found = None if coarser is None else trail.at(coarser)
        if coarser is None or found is None or _too_much(found, goal):
            del costs[axis]  # a later level costs no less
        elif axis in fresh:
            point, fresh = coarser, set()
        else:
            fresh.add(axis)
            costs[axis] = _cost(trail.found[point], found)
    return point


def _too_much(found: Measured, goal: Goal) -> bool:
    return goal.max_drop is not None and found.cautious_drop > goal.max_drop


def _next_lighter(trail: Trail, point: Point, axis: int) -> Point | None:
    """The next level of an axis that is worth its risk here."""
    enough, coarser = _WORTH * trail.found[point].bytes, trail.space.coarser(point, axis)
    while coarser is not None and trail.weigh(coarser) > enough:
        coarser = trail.space.coarser(coarser, axis)
    return coarser


def _cost(before: Measured, after: Measured) -> float:
    """AUC lost for each factor e of bytes saved."""
    return (max(0.0, after.cautious_drop - before.cautious_drop) + _TINY) / math.log(
        before.bytes / after.bytes
    )


def _exchanges(trail: Trail, goal: Goal, start: Point) -> Iterator[Point]:
    """Walk to a better neighbour as long as there is one: a level finer, coarser, or one of each."""
    point = start
    while True:
        better = _better_neighbour(trail, goal, point)
        if better is None:
            return
        point = better
        yield point


def _better_neighbour(trail: Trail, goal: Goal, point: Point) -> Point | None:
    now = trail.found[point]
    for near in _neighbours(trail.space, point):
        if not _may_help(trail, goal, near, now):
            continue
        found = trail.at(near)
        if (
            found
            and goal.allows(found)
            and (not goal.allows(now) or goal.rank(found) < goal.rank(now))
        ):
            return near
    return None


def _may_help(trail: Trail, goal: Goal, near: Point, now: Measured) -> bool:
    """Whether the bytes of a neighbour leave it a chance, before it is scored."""
    limit = _WORTH * now.bytes if goal.max_drop is not None and goal.allows(now) else goal.max_bytes
    return limit is None or trail.weigh(near) <= limit


def _neighbours(space: Space, point: Point) -> Iterator[Point]:
    axes = range(len(space.axes))
    for axis in axes:
        finer, coarser = space.finer(point, axis), space.coarser(point, axis)
        if finer:
            yield finer
        if coarser:
            yield coarser
        if coarser:
            yield from (
                both for other in axes if other != axis and (both := space.finer(coarser, other))
            )
