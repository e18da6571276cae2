"""Which impressions of a stream are learned, and what keeps the model right about those that are not.

* **Negatives** are kept with the probability `negative_rate`. The odds of a click in the sample are the stream's over the
  rate, so the loss is taken of logit + log(1 / rate) and the model's own logit stays that of the whole stream (the prior
  correction of King and Zeng, Logistic Regression in Rare Events Data, 2001; He et al., ADKDD 2014, section 6.3, make the
  same correction when serving).
* **Informative impressions**: kept with a probability that grows with |p - y|, the length of the logit's gradient, and
  weighted by one over it, so that gradients are unbiased (Horvitz and Thompson, 1952).

Both draws are a function of `(record_id, seed)` alone, whatever the order and the file an impression comes in.
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
"""Least chance to be kept as a share of the rate: no impression counts for more than ten times the average."""


@dataclass(frozen=True)
class Sample:
    """What is kept of impressions.

    Attributes:
        rows: int64 [k], positions kept, ascending.
        importance: float32 [k], see `Inputs`; None: all count the same.
    """

    rows: NDArray[np.int64]
    importance: NDArray[np.float32] | None = None


def sampled(
    inputs: Inputs,
    examples: Examples,
    settings: TrainingSettings,
    before: NDArray[np.float32] | None = None,
) -> Inputs:
    """Return what is to be learned of impressions, corrected for what is not.

    Args:
        inputs: of `examples`.
        examples: n impressions.
        settings: rates and seed.
        before: float32 [n], the probabilities of a click before it was learned; None: `informative_rate` does not apply.
    """
    if settings.negative_rate == 1 and (before is None or settings.informative_rate == 1):
        return inputs
    sample = draw(examples, settings, before)
    shift = log_odds_shift(settings.negative_rate)
    return replace(inputs.take(sample.rows), importance=sample.importance, log_odds_shift=shift)


def draw(
    examples: Examples, settings: TrainingSettings, before: NDArray[np.float32] | None = None
) -> Sample:
    """Return the sample: negatives first, then the informative among what is left; arguments as of `sampled`."""
    chance = uniform(examples.record_id, 2, settings.seed)
    rows = np.flatnonzero((examples.label > 0) | (chance[:, 0] < settings.negative_rate))
    if before is None or settings.informative_rate == 1 or not len(rows):
        return Sample(rows)
    kept = keep_probabilities(before[rows], examples.label[rows], settings.informative_rate)
    inside = np.flatnonzero(chance[rows, 1] < kept)
    return Sample(rows[inside], (kept.mean() / kept[inside]).astype(np.float32))


def log_odds_shift(negative_rate: float) -> float:
    """Return what keeping this share of the negatives adds to the log-odds of a click: log(1 / rate)."""
    return -math.log(negative_rate)


def keep_probabilities(
    probability: NDArray[np.float32], label: NDArray[np.float32], rate: float
) -> NDArray[np.float64]:
    """Return the chance of each impression to be kept, float64 [n]: max(floor, min(1, c · |p - y|)), rate on average.

    Args:
        probability: float32 [n], of a click, by the model before it learned the impression.
        label: float32 [n], 0 or 1.
        rate: in (0, 1]. The average stays below it only where too few impressions have anything left to teach (p = y).
    """
    surprise = np.abs(probability.astype(np.float64) - label)
    floor = rate * FLOOR_OF_RATE
    steepest = 1 / max(surprise[surprise > 0].min(initial=1.0), _LEAST_SURPRISE)

    def chances(slope: float) -> NDArray[np.float64]:
        """Return the chances for one c."""
        return np.maximum(floor, np.minimum(1.0, slope * surprise))

    if chances(steepest).mean() <= rate:
        return chances(steepest)
    return chances(
        brentq(lambda slope: chances(slope).mean() - rate, 0.0, steepest, xtol=1e-12, rtol=1e-12)
    )


_LEAST_SURPRISE = 1e-9
"""Below a float32 probability's resolution at 1; bounds the search for c."""
