"""The logging policy: its propensities by hand, and what they are good for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from simulator.policy import choose, propensities
from simulator.settings import PolicySettings

SCORES = arrays(np.float64, (5, 7), elements=st.floats(-50, 50))


def test_softmax_mixed_with_exploration_by_hand():
    policy = PolicySettings(candidates=2, temperature=1.0, exploration=0.2)
    scores = np.array([[np.log(3.0)], [0.0]])
    np.testing.assert_allclose(
        propensities(scores, policy), [[0.8 * 0.75 + 0.1], [0.8 * 0.25 + 0.1]], rtol=1e-12
    )


def test_a_low_temperature_is_greedy_but_for_exploration():
    policy = PolicySettings(candidates=3, temperature=1e-3, exploration=0.3)
    chances = propensities(np.array([[0.0], [1.0], [-1.0]]), policy)
    np.testing.assert_allclose(chances.ravel(), [0.1, 0.8, 0.1], atol=1e-12)


@given(scores=SCORES, temperature=st.floats(0.01, 10), exploration=st.floats(0, 1))
def test_propensities_sum_to_one_over_the_candidates_and_respect_the_floor(
    scores, temperature, exploration
):
    policy = PolicySettings(candidates=5, temperature=temperature, exploration=exploration)
    chances = propensities(scores, policy)
    np.testing.assert_allclose(chances.sum(axis=0), 1, rtol=1e-12)
    assert chances.min() >= exploration / 5 * (1 - 1e-12)


def test_the_recorded_propensity_is_how_often_the_candidate_is_chosen():
    policy = PolicySettings(candidates=4, noise=0.0, temperature=0.7, exploration=0.1)
    count = 200_000
    logits = np.tile([[0.0], [0.5], [-1.0], [1.0]], count)
    chosen = choose(np.random.default_rng(1), logits, policy, random_share=0.0)
    expected = propensities(logits[:, :1], policy).ravel()
    shares = np.bincount(chosen.candidate, minlength=4) / count
    assert np.all(np.abs(shares - expected) < 5 * np.sqrt(expected * (1 - expected) / count))
    np.testing.assert_array_equal(chosen.propensity, expected[chosen.candidate])
    assert not chosen.is_random.any()


def test_the_random_bucket_has_its_share_and_chooses_uniformly():
    policy = PolicySettings(candidates=8)
    logits = np.tile(np.linspace(-3, 3, 8)[:, None], 100_000)
    chosen = choose(np.random.default_rng(2), logits, policy, random_share=0.25)
    bucket = chosen.candidate[chosen.is_random]
    assert len(bucket) / 100_000 == pytest.approx(0.25, abs=0.01)
    assert set(chosen.propensity[chosen.is_random]) == {1 / 8}
    counts = np.bincount(bucket, minlength=8)
    assert np.abs(counts - counts.mean()).max() < 5 * np.sqrt(counts.mean())
    assert chosen.candidate[~chosen.is_random].mean() > bucket.mean() + 1


def test_skill_makes_the_policy_prefer_what_is_clicked():
    logits = np.random.default_rng(3).standard_normal((8, 20_000))
    means = []
    for skill in (-1.0, 0.0, 1.0):
        chosen = choose(
            np.random.default_rng(4), logits, PolicySettings(skill=skill), random_share=0.0
        )
        means.append(logits[chosen.candidate, np.arange(20_000)].mean())
    assert means[0] < -0.3 < means[1] < 0.3 < means[2]
    assert abs(means[1]) < 0.05
