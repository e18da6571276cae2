"""The logging policy, with known propensities, and the random-control bucket.

The propensity of a record is the probability with which the policy of its bucket chose the shown
item, given the record's candidates and the policy's noisy scores of them. Over the candidates of a
record propensities sum to 1. Both buckets draw candidates alike, so

    mean over logged records of click · (1 / candidates) / propensity

is an unbiased estimate of the random bucket's CTR (inverse propensity scoring).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.settings import PolicySettings

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """The shown candidates.

    Attributes:
        candidate: number of the candidate, int64 [n].
        propensity: probability with which it was chosen, float64 [n].
        is_random: whether the impression is in the random-control bucket, bool [n].
    """

    candidate: NDArray[np.int64]
    propensity: Array
    is_random: NDArray[np.bool_]


def propensities(scores: Array, policy: PolicySettings) -> Array:
    """Return the logging policy's probability of each candidate, float64 [candidates, n]."""
    scaled = scores / policy.temperature
    # The largest exponent of a column is 0, so that nothing overflows.
    weights = np.exp(scaled - scaled.max(axis=0))
    softmax = (1 - policy.exploration) * weights / weights.sum(axis=0)
    return softmax + policy.exploration / len(scores)


def choose(
    rng: np.random.Generator, logits: Array, policy: PolicySettings, random_share: float
) -> Choice:
    """Show one candidate per impression.

    Args:
        rng: source of the noise, the buckets and the choice.
        logits: true logits, float64 [candidates, n], of which the policy sees a noisy score.
        policy: settings of the logging policy.
        random_share: share of impressions in the random-control bucket.
    """
    size, count = logits.shape
    scores = policy.skill * logits + policy.noise * rng.standard_normal(logits.shape)
    probabilities = propensities(scores, policy)
    is_random = np.less(rng.random(count), random_share)
    probabilities[:, is_random] = 1 / size
    # Rounding may leave the sum of a column slightly below the draw, hence the minimum.
    below = np.cumsum(probabilities, axis=0) <= rng.random(count)
    candidate = np.minimum(below.sum(axis=0), size - 1)
    return Choice(candidate, probabilities[candidate, np.arange(count)], is_random)
