"""The logging policy, which knows its propensities, and the random-control bucket beside it.

A **propensity** is the probability with which the policy of that record's bucket chose the shown item, given the
record's candidate set and the policy's (noisy) scores of it; over the candidates of a record they sum to 1. Which
items were candidates is not part of it: both buckets draw candidates alike, so that

    mean over logged records of click · (1 / candidates) / propensity

is an unbiased estimate of the CTR that the random bucket gets (inverse propensity scoring).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.settings import PolicySettings


@dataclass(frozen=True)
class Choice:
    """What was shown: the candidate's number int64 [n], its propensity float64 [n], and whether chance chose it bool [n]."""

    candidate: npt.NDArray[np.int64]
    propensity: npt.NDArray[np.float64]
    is_random: npt.NDArray[np.bool_]


def propensities(
    scores: npt.NDArray[np.float64], policy: PolicySettings
) -> npt.NDArray[np.float64]:
    """Return float64 [candidates, n]: the logging policy's probability of each candidate; columns sum to 1."""
    scaled = scores / policy.temperature
    weights = np.exp(scaled - scaled.max(axis=0))
    return (1 - policy.exploration) * weights / weights.sum(axis=0) + policy.exploration / len(
        scores
    )


def choose(
    rng: np.random.Generator,
    logits: npt.NDArray[np.float64],
    policy: PolicySettings,
    random_share: float,
) -> Choice:
    """Show one candidate per impression.

    Args:
        rng: source of the noise, the buckets and the choice.
        logits: float64 [candidates, n], true logits, of which the policy sees a noisy score.
        policy: its settings.
        random_share: share of impressions in the random-control bucket.
    """
    size, count = logits.shape
    probabilities = propensities(
        policy.skill * logits + policy.noise * rng.standard_normal(logits.shape), policy
    )
    is_random = np.less(rng.random(count), random_share)
    probabilities[:, is_random] = 1 / size
    below = np.cumsum(probabilities, axis=0) <= rng.random(count)
    candidate = np.minimum(below.sum(axis=0), size - 1)
    return Choice(candidate, probabilities[candidate, np.arange(count)], is_random)
