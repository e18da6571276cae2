"""Lift: arms, known answers, coverage of the intervals, and the experiment in the simulator."""

import numpy as np
import pytest

from features.errors import UnsoundError
from validation.lift.experiment import assign_arms, lifts
from validation.lift.plain_models import FUSION, LOGISTIC, TREES, PlainModels
from validation.lift.simulated import RANDOM, TRUTH, run_experiment

AB = ("a", "b")


def find(found, metric, arm="b"):
    return next(each for each in found if (each.metric, each.arm) == (metric, arm))


def test_a_user_stays_in_one_arm_and_another_salt_deals_anew():
    users = np.arange(100_000).repeat(2)
    arms = assign_arms(users, 4, "first")
    assert np.array_equal(arms[::2], arms[1::2])
    assert np.array_equal(arms, assign_arms(users, 4, "first"))
    other = assign_arms(users, 4, "second")
    shares = np.bincount(arms[::2] * 4 + other[::2], minlength=16) / 100_000
    # Independent: each of the 16 pairs of arms has a sixteenth; four standard errors of 0.00077.
    np.testing.assert_allclose(shares, 1 / 16, atol=0.0031)


def test_clicks_per_impression_and_users_with_a_click_by_hand():
    # Arm a: users with 1 of 2 and 0 of 2 clicks. Arm b: 2 of 2, 1 of 2, both users clicked.
    users = np.array([1, 1, 2, 2, 3, 3, 4, 4])
    arms = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    clicks = np.array([1, 0, 0, 0, 1, 1, 1, 0], bool)
    found = lifts(users, arms, clicks, AB, ["a"])
    pvctr, uvctr = find(found, "pvctr"), find(found, "uvctr")
    assert (pvctr.control_value, pvctr.value, pvctr.lift) == (0.25, 0.75, 2.0)
    assert (uvctr.control_value, uvctr.value, uvctr.lift) == (0.5, 1.0, 1.0)
    assert pvctr.low < 2.0 < pvctr.high


def draw(rng, users, rates):
    """Impressions of users whose click rates differ, in two arms."""
    arms = rng.integers(2, size=users)
    own = rng.beta(2, 18, users)
    counts = rng.integers(1, 8, users)
    of = np.repeat(np.arange(users), counts)
    chance = np.minimum(own[of] * np.array(rates)[arms[of]], 1)
    return of, arms[of], rng.random(len(of)) < chance


@pytest.mark.covers("audit-L9")
@pytest.mark.slow
def test_intervals_cover_the_true_lift_and_equal_arms_seldom_differ():
    rng, covered, differ = np.random.default_rng(4), 0, 0
    for _ in range(300):
        better = find(lifts(*draw(rng, 3000, (1.0, 1.1)), AB, ["a"]), "pvctr")
        covered += better.low <= 0.1 <= better.high
        equal = find(lifts(*draw(rng, 3000, (1.0, 1.0)), AB, ["a"]), "pvctr")
        differ += equal.p_value < 0.05
    # Three standard errors of a share of 0.05 in 300 are 0.038.
    assert 0.912 <= covered / 300 <= 0.988
    assert differ / 300 <= 0.088


def test_impressions_of_one_user_are_not_independent():
    rng = np.random.default_rng(1)
    users, arms, clicks = draw(rng, 2000, (1.0, 1.0))
    once = find(lifts(users, arms, clicks, AB, ["a"]), "pvctr")
    # Everything three times: as many users, so the interval must not become narrower.
    thrice = lifts(*(np.tile(each, 3) for each in (users, arms, clicks)), AB, ["a"])
    again = find(thrice, "pvctr")
    assert again.high - again.low == pytest.approx(once.high - once.low, rel=1e-9)


def test_a_user_in_two_arms_and_unequal_arms_are_refused():
    with pytest.raises(UnsoundError, match="1 users are in more than one arm"):
        lifts(np.array([1, 1, 2]), np.array([0, 1, 1]), np.ones(3, bool), AB, ["a"])
    users, rng = np.arange(4000), np.random.default_rng(0)
    arms = (users >= 1800).astype(int)
    with pytest.raises(UnsoundError, match="2200 users in 'b' and 1800 in 'a' differ by more"):
        lifts(users, arms, rng.random(4000) < 0.5, AB, ["a"])
    with pytest.raises(UnsoundError, match="no user is in the arm 'b'"):
        lifts(users, np.zeros(4000, int), rng.random(4000) < 0.5, AB, ["a"])


def test_the_experiment_knows_its_truth():
    rng = np.random.default_rng(3)
    probability = rng.beta(1, 9, (20_000, 6))
    users = rng.integers(8000, size=20_000)
    noisy = probability + 0.05 * rng.standard_normal(probability.shape)
    arms = {"perfect": probability, "noisy": noisy, "blind": np.zeros_like(probability)}
    result = run_experiment(users, probability, arms, (RANDOM,), "salt", 7)
    # Showing the best candidate earns the mean of the maxima; random and blind earn the mean.
    assert result.metrics["perfect"]["pvctr"] == pytest.approx(probability.max(axis=1).mean())
    assert result.metrics["blind"]["pvctr"] == pytest.approx(probability.mean(), rel=0.02)
    expected = probability.max(axis=1).mean() / probability.mean() - 1
    perfect = result.find("pvctr", "perfect", RANDOM)
    assert result.true_lift(perfect) == pytest.approx(expected, rel=0.03)
    assert perfect.low < result.true_lift(perfect) < perfect.high
    blind = result.find("pvctr", "blind", RANDOM)
    assert blind.low < 0 < blind.high
    assert sum(result.visits.values()) == 20_000
    assert 0.5 < result.auc["noisy"] < result.auc[TRUTH] == result.auc["perfect"]


@pytest.mark.slow
def test_the_plain_models_learn_the_rates_of_ids_and_their_fusion_is_the_mean():
    import pandas as pd

    rng = np.random.default_rng(5)
    item = rng.integers(200, size=20_000)
    rate = rng.beta(2, 10, 200)
    price = rng.random(20_000)
    rows = pd.DataFrame({"item": item, "price": np.where(rng.random(20_000) < 0.1, np.nan, price)})
    plain = PlainModels(["item"], ["price"]).fit(rows, rng.random(20_000) < rate[item])
    unseen = pd.DataFrame({"item": [*range(200), 10_000], "price": 0.5})
    found = plain.probabilities(unseen)
    for name in (LOGISTIC, TREES):
        assert np.corrcoef(found[name][:200], rate)[0, 1] > 0.8
        assert 0.05 < found[name][200] < 0.4  # an id that it never saw
    np.testing.assert_allclose(found[FUSION], (found[LOGISTIC] + found[TREES]) / 2)
