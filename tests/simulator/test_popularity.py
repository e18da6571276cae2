"""Power laws, candidates and new items."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.popularity import draw_candidates, draw_users, power_law
from simulator.settings import PolicySettings, SimulatorSettings


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.4])
def test_rank_frequencies_match_the_integral_of_the_density(exponent):
    size, draws = 50, 400_000
    counts = np.bincount(power_law(rng().random(draws), size, exponent), minlength=size)
    edges = np.arange(1, size + 2, dtype=float)
    integral = np.log(edges) if exponent == 1 else edges ** (1 - exponent) / (1 - exponent)
    expected = draws * np.diff(integral) / (integral[-1] - integral[0])
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))


@pytest.mark.parametrize("exponent", [0.7, 1.0])
def test_a_shift_evens_out_the_first_ranks(exponent):
    size, shift, draws = 1_000, 20.0, 400_000
    counts = np.bincount(power_law(rng().random(draws), size, exponent, shift), minlength=size)
    weights = (np.arange(size) + 1.5 + shift) ** -exponent
    expected = draws * weights / weights.sum()
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected) + 0.001 * expected)


@given(
    draw=st.floats(0, 1, exclude_max=True),
    size=st.integers(1, 10**9),
    exponent=st.floats(0, 3),
    shift=st.floats(0, 1000),
)
def test_every_rank_is_within_bounds(draw, size, exponent, shift):
    assert 0 <= power_law(np.array([draw]), size, exponent, shift)[0] < size


def test_the_tail_is_long_most_users_are_rare_and_few_are_frequent():
    settings = SimulatorSettings(users=100_000, user_exponent=1.0)
    _, counts = np.unique(draw_users(rng(), settings, 100_000), return_counts=True)
    ranked = np.sort(counts)[::-1]
    assert (counts == 1).mean() > 0.5
    assert ranked[: len(ranked) // 100].sum() > 0.4 * counts.sum()
    # on log-log axes the head of the rank-frequency curve falls with the exponent
    ranks = np.arange(1, 201)
    slope = np.polyfit(np.log(ranks + 0.5), np.log(ranked[:200]), 1)[0]
    assert slope == pytest.approx(-1.0, abs=0.1)


def test_candidates_of_one_impression_are_distinct():
    settings = SimulatorSettings(items=50, new_items_per_day=20, fresh_share=0.5, item_exponent=1.5)
    candidates = np.sort(draw_candidates(rng(), settings, 5, 20_000), axis=0)
    assert np.all(np.diff(candidates, axis=0) > 0)


def test_every_item_that_exists_can_be_shown_and_no_other():
    settings = SimulatorSettings(
        items=21, new_items_per_day=11, fresh_share=0.5, item_exponent=0.2, fresh_decay=0.9
    )
    seen = np.unique(draw_candidates(rng(), settings, 2, 50_000))
    np.testing.assert_array_equal(seen, np.arange(21 + 3 * 11))


def test_new_items_take_their_share_and_fade_geometrically():
    settings = SimulatorSettings(
        items=1_000, new_items_per_day=100, fresh_share=0.3, fresh_decay=0.5
    )
    items = draw_candidates(rng(), settings, 10, 50_000).ravel()
    arrival = (items[items >= 1_000] - 1_000) // 100
    assert len(arrival) / len(items) == pytest.approx(0.3, abs=0.01)
    assert [(arrival == day).mean() for day in (10, 9, 8)] == pytest.approx(
        [0.5, 0.25, 0.125], abs=0.01
    )


def test_without_new_items_only_the_first_ones_are_shown():
    settings = SimulatorSettings(items=100, new_items_per_day=0, fresh_share=1.0)
    assert draw_candidates(rng(), settings, 10, 5_000).max() == 99


def test_fewer_new_items_than_candidates_leave_the_other_lanes_to_old_ones():
    settings = SimulatorSettings(
        items=100, new_items_per_day=3, fresh_share=1.0, policy=PolicySettings(candidates=8)
    )
    candidates = draw_candidates(rng(), settings, 0, 1_000)
    np.testing.assert_array_equal(candidates[:3], np.repeat([[100], [101], [102]], 1_000, axis=1))
    assert candidates[3:].max() < 100
