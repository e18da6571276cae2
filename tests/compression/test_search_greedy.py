"""Greedy search: within its limits, no neighbour is better, compared with trying every plan."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.search.evaluator import EvaluatedPlan
from compression.search.greedy_search import Goal, SearchState, greedy_search
from compression.search.search import pareto
from compression.search.space import Axis, SearchSpace
from features.errors import InputError

SPACE = SearchSpace(
    tuple(Axis(name, tuple(range(size))) for name, size in (("a", 5), ("b", 4), ("c", 3)))
)
EVERY = list(product(range(5), range(4), range(3)))


def measured(drop, size, error=0.0, name="searched"):
    return EvaluatedPlan(name, (), size, 1, drop, error, drop, 0.7, 0.5, np.zeros(1, np.float32))


class World:
    """Every level costs and saves something; by default the most expensive ones come last."""

    def __init__(self, seed, ordered=True):
        draw = np.random.default_rng(seed)
        self.saves, self.costs, self.asked = [], [], []
        for axis in SPACE.axes:
            saves, costs = (
                f(len(axis.levels) - 1)
                for f in (lambda n: draw.uniform(0.05, 1, n), lambda n: draw.exponential(1e-3, n))
            )
            order = np.argsort(costs / saves) if ordered else np.arange(len(saves))
            self.saves.append(np.cumsum([0, *saves[order]]))
            self.costs.append(np.cumsum([0, *costs[order]]))

    def weigh(self, point):
        return int(
            1e6 * np.exp(-sum(saved[level] for saved, level in zip(self.saves, point, strict=True)))
        )

    def drop(self, point):
        return float(sum(cost[level] for cost, level in zip(self.costs, point, strict=True)))

    def measure(self, point):
        self.asked.append(point)
        return measured(self.drop(point), self.weigh(point))

    def search(self, goal, most=1000):
        return greedy_search(SearchState(SPACE, self.weigh, self.measure, most, {}), goal)


@given(st.integers(0, 10_000), st.floats(0.05, 0.95))
@settings(max_examples=60, deadline=None)
def test_a_budget_is_kept_and_little_is_lost_against_trying_everything(seed, share):
    world = World(seed)
    sizes = [world.weigh(point) for point in EVERY]
    budget = int(min(sizes) + share * (max(sizes) - min(sizes)))
    found = world.search(Goal(max_bytes=budget))
    best = min(world.drop(point) for point in EVERY if world.weigh(point) <= budget)
    assert found.bytes <= budget
    assert best <= found.drop <= 1.5 * best + 0.001
    assert len(world.asked) == len(set(world.asked)) < len(EVERY)


@given(st.integers(0, 10_000), st.floats(0.0, 0.01))
@settings(max_examples=60, deadline=None)
def test_a_loss_is_kept_and_little_is_wasted_against_trying_everything(seed, allowed):
    world = World(seed)
    found = world.search(Goal(max_drop=allowed))
    best = min(world.weigh(point) for point in EVERY if world.drop(point) <= allowed)
    assert found.drop <= allowed
    assert best <= found.bytes <= 2 * best
    assert len(world.asked) == len(set(world.asked))


@given(st.integers(0, 10_000), st.floats(0.0, 0.01), st.booleans())
@settings(max_examples=60, deadline=None)
def test_in_any_world_the_limit_is_kept_and_no_neighbour_is_better(seed, allowed, by_bytes):
    world = World(seed, ordered=False)
    goal = Goal(max_bytes=400_000) if by_bytes else Goal(max_drop=allowed)
    found = world.search(goal)
    assert goal.allows(found)
    (at,) = [p for p in EVERY if (world.weigh(p), world.drop(p)) == (found.bytes, found.drop)]
    for near in (
        tuple(np.add(at, step))
        for step in product((-1, 0, 1), repeat=3)
        if sorted(np.abs(step)) == [0, 0, 1]
    ):
        if near in EVERY and goal.allows(other := measured(world.drop(near), world.weigh(near))):
            assert goal.rank(other) >= goal.rank(found) or other.bytes > 0.99 * found.bytes


def test_with_both_limits_both_hold_or_it_is_said():
    world = World(3)
    found = world.search(Goal(max_bytes=500_000, max_drop=0.005))
    assert found.bytes <= 500_000
    assert found.drop <= 0.005
    with pytest.raises(
        InputError, match=r"none of \d+ plans is within the limits: the smallest takes [\d,]+ bytes"
    ):
        World(3).search(Goal(max_bytes=1, max_drop=0.005))


def test_no_more_plans_are_measured_than_allowed():
    world = World(5)
    found = world.search(Goal(max_drop=0.004), most=6)
    assert len(world.asked) == 6
    assert found.drop <= 0.004


def test_what_is_not_certain_counts_as_lost():
    certain, lucky = measured(0.001, 100), measured(-0.001, 90, error=0.003)
    assert Goal(max_drop=0.0015).best([certain, lucky]) is certain
    assert Goal(max_drop=0.0025).best([certain, lucky]) is lucky
    assert Goal(max_bytes=100).best([certain, lucky]) is certain


def test_nothing_wanted_is_refused():
    with pytest.raises(InputError, match="--budget-bytes, --max-auc-drop"):
        Goal()


@given(st.lists(st.tuples(st.floats(-0.01, 0.05), st.integers(1, 50)), min_size=1, max_size=30))
def test_the_front_is_what_no_other_beats(pairs):
    plans = [measured(drop, size) for drop, size in pairs]
    front = pareto(plans)
    for one in front:
        assert not any(
            o.bytes <= one.bytes
            and o.drop <= one.drop
            and (o.bytes, o.drop) != (one.bytes, one.drop)
            for o in plans
        )
    for one in plans:
        assert any(f.bytes <= one.bytes and f.drop <= one.drop for f in front)
    assert [f.bytes for f in front] == sorted({f.bytes for f in front}, reverse=True)
