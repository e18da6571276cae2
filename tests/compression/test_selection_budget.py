"""Budgets by hand: what stays, with what it is made of, and what is passed over."""

import pytest

from compression.selection.footprint import Budget, ModelSize, choose, needs
from features.errors import InputError
from features.schema import (
    Categorical,
    Cross,
    MultiValued,
    Numeric,
    Relation,
    Schema,
    Time,
    Timestamp,
)

SCHEMA = Schema(
    label="click",
    user="u",
    item="i",
    timestamp=Timestamp(column="t"),
    forbidden=frozenset({"dwell"}),
    extras=("propensity",),
    timezone="+08:00",
    fields=(
        Categorical(name="ad"),
        Categorical(name="person", vocabulary="people"),
        MultiValued(name="tags"),
        Numeric(name="price"),
        Time(name="hour"),
        Cross(name="ad_hour", of=("ad", "hour")),
    ),
)
RELATIONS = (Relation(left="ad", right="person"), Relation(left="ad_hour", right="person"))
BYTES = {
    "ad": 100,
    "person": 60,
    "tags": 30,
    "price": 0,
    "hour": 5,
    "ad_hour": 80,
    "ad__person": 20,
    "ad_hour__person": 20,
}
COST = {name: 1.0 for name in BYTES} | {"tags": 4.0, "ad__person": 2.0}
RANKING = ("ad_hour", "tags", "price", "ad__person", "person", "hour", "ad", "ad_hour__person")
PARTS = needs(SCHEMA, RELATIONS)


def size_of(kept):
    return ModelSize(
        len(kept), 10 + sum(BYTES[name] for name in kept), sum(COST[name] for name in kept)
    )


def test_what_cannot_be_without_what():
    assert {
        "ad_hour": {"ad", "hour"},
        "ad__person": {"ad", "person"},
        "ad_hour__person": {"ad_hour", "person", "ad", "hour"},
    } == PARTS


CASES = {
    "no limit": (Budget(), set(BYTES)),
    "a cross brings its parts": (Budget(keep=3), {"ad_hour", "ad", "hour"}),
    "a cross without room for its parts is passed over": (Budget(keep=2), {"tags", "price"}),
    "one input": (Budget(keep=1), {"tags"}),
    "the exact number of bytes is allowed": (Budget(bytes=195), {"ad_hour", "ad", "hour", "price"}),
    "a byte less": (Budget(bytes=194), {"tags", "price", "person", "hour"}),
    "what is large is passed over, what is small still fits": (
        Budget(bytes=45),
        {"tags", "price", "hour"},
    ),
    "values per impression": (Budget(cost=4.0), {"ad_hour", "ad", "hour", "price"}),
    "every limit holds": (Budget(keep=5, bytes=230, cost=7.9), {"ad_hour", "ad", "hour", "tags"}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_most_important_that_fit_stay(case):
    budget, expected = CASES[case]
    assert choose(RANKING, PARTS, size_of, budget) == expected


def test_nothing_fits():
    with pytest.raises(InputError, match=r"not even one field fits.*smallest model takes 10 bytes"):
        choose(RANKING, PARTS, size_of, Budget(bytes=9))
