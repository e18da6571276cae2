"""Which impressions of a stream to train on, and the correction for those that are left out.

* **Negatives** are kept with probability `negative_rate`. The odds of a click in the sample are the
  stream's odds over the rate. The loss is therefore computed from logit + log(1 / rate), and
  the model's own logit stays that of the whole stream (prior correction: King and Zeng, Logistic
  Regression in Rare Events Data, 2001; He et al., ADKDD 2014, section 6.3, correct when serving
  instead).
* **Informative impressions** are kept with a probability that grows with |p - y|, the length of the
  logit's gradient, and weighted by its inverse, so that gradients are unbiased (Horvitz and
  Thompson, 1952).

Both draws are a function of `(record_id, seed)` alone: order and file do not matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from elastic_embeddings.core.hashing import uniform
from training.data.examples import Examples
from training.data.inputs import Inputs
from training.settings import TrainingSettings

FLOOR_OF_RATE = 0.1
"""Least probability to be kept, as a share of the rate: no weight exceeds ten times the average."""

_LEAST_SURPRISE = 1e-9
"""Less than a float32 probability's resolution at 1; bounds the search for the slope."""


@dataclass(frozen=True)
class Sample:
    """The impressions that are kept.

    Attributes:
        rows: int64 [k], positions, ascending.
        importance: float32 [k], see `Inputs`; None: all have the same weight.
    """

    rows: NDArray[np.int64]
    importance: NDArray[np.float32] | None = None


def sampled(
    inputs: Inputs,
    examples: Examples,
    settings: TrainingSettings,
    before: NDArray[np.float32] | None = None,
) -> Inputs:
    """Return the inputs to train on, corrected for those that are left out.

    Args:
        inputs: of `examples`.
        examples: n impressions.
        settings: rates and seed.
        before: float32 [n], probabilities of a click before training; None: `informative_rate` has
            no effect.
    """
    if settings.negative_rate == 1 and (before is None or settings.informative_rate == 1):
        return inputs
    sample = draw(examples, settings, before)
    shift = log_odds_shift(settings.negative_rate)
    return replace(inputs.take(sample.rows), importance=sample.importance, log_odds_shift=shift)


def draw(
    examples: Examples, settings: TrainingSettings, before: NDArray[np.float32] | None = None
) -> Sample:
    """Return the sample; arguments as of `sampled`."""
    # 1. Negatives.
    chance = uniform(examples.record_id, 2, settings.seed)
    # All clicks are kept here: `log_odds_shift` holds only if negatives alone are left out.
    rows = np.flatnonzero((examples.label > 0) | (chance[:, 0] < settings.negative_rate))
    if before is None or settings.informative_rate == 1 or not len(rows):
        return Sample(rows)

    # 2. Informative impressions among the remaining ones, by the second random number.
    kept = keep_probabilities(before[rows], examples.label[rows], settings.informative_rate)
    inside = np.flatnonzero(chance[rows, 1] < kept)
    # Inverse probabilities times their mean: the weights of the kept ones average about 1, so
    # the learning rate keeps its meaning.
    return Sample(rows[inside], (kept.mean() / kept[inside]).astype(np.float32))


def log_odds_shift(negative_rate: float) -> float:
    """Return log(1 / rate): keeping this share of negatives adds it to the log-odds of a click."""
    return -math.log(negative_rate)


def keep_probabilities(
    probability: NDArray[np.float32], label: NDArray[np.float32], rate: float
) -> NDArray[np.float64]:
    """Return the probability to keep each impression, float64 [n].

    It is max(floor, min(1, c · |p - y|)), with c such that the average is `rate`.

    Args:
        probability: float32 [n], of a click, by the model before training on the impression.
        label: float32 [n], 0 or 1.
        rate: in (0, 1]. The average is below it only if too few impressions have |p - y| > 0.
    """
    surprise = np.abs(probability.astype(np.float64) - label)
    floor = rate * FLOOR_OF_RATE
    # At this slope the least surprise above 0 is kept for certain: a steeper one changes nothing.
    steepest = 1 / max(surprise[surprise > 0].min(initial=1.0), _LEAST_SURPRISE)

    def chances(slope: float) -> NDArray[np.float64]:
        """Return the probabilities for one c."""
        return np.maximum(floor, np.minimum(1.0, slope * surprise))

    def excess(slope: float) -> float:
        return chances(slope).mean() - rate

    if excess(steepest) <= 0:
        return chances(steepest)
    # The average grows with the slope, so there is one root between 0 and the steepest.
    return chances(brentq(excess, 0.0, steepest, xtol=1e-12, rtol=1e-12))
