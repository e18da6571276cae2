"""The simulated world: effects add up, drift moves them, the mean is the base rate."""

from datetime import date

import numpy as np
import pytest

from simulator.impressions import sigmoid
from simulator.popularity import draw_users
from simulator.settings import EffectSettings, ShiftedCtr, SimulatorSettings
from simulator.world import (
    COUNTRIES,
    DEVICES,
    POSITIONS,
    SLOTS,
    TAG_SETS,
    Property,
    VisitContext,
    World,
)

NONE = {name: 0.0 for name in EffectSettings.model_fields}


def world(**kwargs):
    return World(SimulatorSettings(**kwargs))


def context(count, seed=0):
    rng = np.random.default_rng(seed)
    sizes = (len(SLOTS), len(DEVICES), POSITIONS, 24)
    return VisitContext(*(rng.integers(0, size, count) for size in sizes))


def logits(a_world, users, items, day_index=0):
    return a_world.visit(users, context(len(users)), day_index).logits(items)


def only(**scales):
    return EffectSettings(**{**NONE, **scales})


def test_without_effects_every_impression_has_the_base_rate():
    ids = np.arange(100)
    flat = world(effects=only(), base_ctr=0.2)
    np.testing.assert_allclose(sigmoid(logits(flat, ids, ids)), 0.2, rtol=1e-12)


@pytest.mark.parametrize(
    "part",
    [
        name
        for name in NONE
        if name not in ("context", "interaction", "advertiser", "category", "segment")
    ],
)
def test_each_continuous_effect_has_the_standard_deviation_asked_for(part):
    rng = np.random.default_rng(5)
    users, items = rng.integers(0, 10**9, 100_000), rng.integers(0, 10**9, 100_000)
    values = logits(world(effects=only(**{part: 0.7})), users, items)
    assert values.std() == pytest.approx(0.7, rel=0.02)
    assert values.mean() == pytest.approx(
        logits(world(effects=only()), users[:1], items[:1])[0] * np.sqrt(1 + np.pi * 0.49 / 8),
        abs=0.02,
    )


@pytest.mark.parametrize("part", ["category", "advertiser"])
def test_table_effects_depend_on_the_group_alone(part):
    a_world = world(effects=only(**{part: 0.5}), categories=10, advertisers=10)
    items = np.arange(2_000)
    groups = getattr(a_world, part)(items)
    values = logits(a_world, items, items)
    means = np.array([values[groups == g].mean() for g in range(10)])
    np.testing.assert_allclose(values, means[groups], atol=1e-9)
    assert means.std() > 0.2


def test_interactions_cannot_be_written_as_a_sum_over_slot_and_category():
    table = world(effects=only(interaction=0.5)).effects.slot_category
    residual = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    assert residual.std() > 0.3


def test_the_latent_part_is_an_inner_product_of_traits():
    a_world = world(effects=only(latent=0.5), latent_dim=5)
    users, items = np.arange(50), np.arange(100, 150)
    mine, theirs = (
        a_world.traits(users, Property.USER, 3)[1:],
        a_world.traits(items, Property.ITEM, 3)[1:],
    )
    expected = a_world.base + 0.5 * (mine.astype(float) * theirs).sum(axis=0) / np.sqrt(5)
    np.testing.assert_allclose(logits(a_world, users, items, 3), expected, rtol=1e-6)


def test_segments_and_topics_act_through_a_matrix_of_low_rank_that_does_not_drift():
    a_world = world(effects=only(segment=0.5), segments=12, topics=9, segment_dim=2)
    users, items = np.arange(3_000), np.arange(3_000)[::-1]
    segment, topic = a_world.segment(users), a_world.topic(items)
    values = logits(a_world, users, items, 0) - a_world.base
    table = np.full((12, 9), np.nan)
    table[segment, topic] = values
    assert np.isfinite(table).all()
    np.testing.assert_allclose(values, table[segment, topic], atol=1e-9)
    assert np.linalg.matrix_rank(table, tol=1e-6) == 2
    # A pair's effect follows from others': that is what can be learned about unseen ones.
    known = np.delete(np.delete(table, 5, 0), 3, 1)
    weights, *_ = np.linalg.lstsq(known.T, np.delete(table[5], 3), rcond=None)
    assert weights @ np.delete(table[:, 3], 5) == pytest.approx(table[5, 3], abs=1e-6)
    np.testing.assert_array_equal(values, logits(a_world, users, items, 9) - a_world.base)


def test_drift_moves_probabilities_slowly_and_without_limit():
    a_world, ids = world(drift_per_day=0.05), np.arange(20_000)
    today = logits(a_world, ids, ids, 0)
    moved = [np.std(logits(a_world, ids, ids, days) - today) for days in (0, 1, 5, 15)]
    assert moved[0] == 0
    assert 0 < moved[1] < moved[2] < moved[3]
    assert moved[1] < 0.1 < moved[3]
    still = world(drift_per_day=0.0)
    np.testing.assert_array_equal(logits(still, ids, ids, 0), logits(still, ids, ids, 30))


def test_dearer_items_are_clicked_less():
    a_world, items = world(effects=only(price=0.7)), np.arange(1_000)
    assert np.corrcoef(a_world.log_price(items), logits(a_world, items, items))[
        0, 1
    ] == pytest.approx(-1)


def test_probabilities_of_extreme_log_odds_are_finite():
    np.testing.assert_allclose(
        sigmoid(np.array([-1e4, 0.0, np.log(3.0), 1e4])), [0, 0.5, 0.75, 1], rtol=1e-15
    )


def test_the_inner_product_drifts_as_a_whole():
    """Users turn by x and items by 2x: corr(0, x) = (cos x + cos 3x) / 2."""
    a_world, rng = world(effects=only(latent=1.0), drift_per_day=0.1), np.random.default_rng(8)
    users, items = rng.integers(0, 10**9, 50_000), rng.integers(0, 10**9, 50_000)
    today = logits(a_world, users, items, 0)
    found = [np.corrcoef(today, logits(a_world, users, items, day))[0, 1] for day in (3, 8, 20, 30)]
    turned = 0.1 * np.array([3, 8, 20, 30])
    np.testing.assert_allclose(found, (np.cos(turned) + np.cos(3 * turned)) / 2, atol=0.03)


def test_drift_keeps_the_spread_of_the_world():
    a_world, ids = world(drift_per_day=0.3), np.arange(50_000)
    spreads = [logits(a_world, ids, ids, day).std() for day in (0, 7, 20)]
    assert max(spreads) / min(spreads) < 1.02


def test_a_shifted_day_adds_its_logit_and_leaves_the_others():
    fault = ShiftedCtr(logit_shift=-0.75, days=(date(2026, 1, 3),))
    plain, shifted, ids = world(), world(faults=(fault,)), np.arange(10)
    np.testing.assert_allclose(
        logits(shifted, ids, ids, 2), logits(plain, ids, ids, 2) - 0.75, rtol=1e-12
    )
    np.testing.assert_array_equal(logits(shifted, ids, ids, 1), logits(plain, ids, ids, 1))


def test_the_mean_probability_of_random_impressions_is_about_the_base_rate():
    rng = np.random.default_rng(6)
    for seed in range(4):
        a_world = world(base_ctr=0.1, seed=seed, users=10**8)
        users, items = draw_users(rng, a_world.settings, 50_000), rng.integers(0, 5_000, 50_000)
        assert 0.07 < sigmoid(logits(a_world, users, items)).mean() < 0.14


def test_properties_are_within_their_ranges_and_fixed_for_an_id():
    a_world, ids = world(categories=7, advertisers=11), np.arange(10**9, 10**9 + 5_000)
    for values, size in [
        (a_world.country(ids), len(COUNTRIES)),
        (a_world.tag_set(ids), TAG_SETS),
        (a_world.category(ids), 7),
        (a_world.advertiser(ids), 11),
        (a_world.segment(ids), 400),
        (a_world.topic(ids), 300),
    ]:
        assert set(values) <= set(range(size))
        assert len(set(values)) > min(size, 100) / 2
    np.testing.assert_array_equal(a_world.category(ids[::-1]), a_world.category(ids)[::-1])


def test_another_seed_is_another_world():
    ids = np.arange(1_000)
    assert np.corrcoef(logits(world(seed=1), ids, ids), logits(world(seed=2), ids, ids))[0, 1] < 0.5
    np.testing.assert_array_equal(logits(world(seed=1), ids, ids), logits(world(seed=1), ids, ids))
