"""Are the probabilities right: log loss, information gain and calibration, as figures and as a curve."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

BINS = 20
"""Bins of a calibration curve."""


def log_loss(label: Floats, probability: Floats) -> float:
    """Return the mean of -log p(label) in nats; probabilities are kept 1e-7 away from 0 and 1. NaN without rows."""
    return float(np.mean(log_losses(label, probability))) if len(label) else float("nan")


def log_losses(label: Floats, probability: Floats) -> NDArray[np.float64]:
    """Return -log p(label) of each row, float64 [n], as `log_loss` averages it."""
    p = np.clip(probability.astype(np.float64), _NEVER, 1 - _NEVER)
    return -np.where(label > 0, np.log(p), np.log1p(-p))


def relative_information_gain(label: Floats, probability: Floats) -> float:
    """Return 1 - log loss / entropy of the click rate: 0 is as good as always saying the rate, 1 is perfect.

    It is 1 - the normalised entropy of He et al., ADKDD 2014. NaN without both classes.
    """
    rate = float(np.mean(label, dtype=np.float64)) if len(label) else 0.0
    if not 0 < rate < 1:
        return float("nan")
    entropy = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
    return float(1 - log_loss(label, probability) / entropy)


def calibration(label: Floats, probability: Floats) -> float:
    """Return expected over observed clicks, Σp / Σy; 1 is right, above is too high. NaN without clicks."""
    clicks = float(label.sum(dtype=np.float64))
    return float(probability.sum(dtype=np.float64)) / clicks if clicks else float("nan")


def expected_calibration_error(label: Floats, probability: Floats, bins: int = BINS) -> float:
    """Return the mean |observed - expected CTR| over bins of equally many rows, weighted by rows. NaN without rows."""
    if not len(label):
        return float("nan")
    curve = calibration_curve(label, probability, bins)
    return float(np.average(np.abs(curve.observed - curve.predicted), weights=curve.rows))


@dataclass(frozen=True)
class CalibrationCurve:
    """Impressions in bins by probability, ascending; b bins.

    Attributes:
        predicted: float64 [b], mean probability.
        observed: float64 [b], click rate.
        rows: int64 [b].
        low, high: float64 [b], Wilson interval of the click rate.
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    rows: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def calibration_curve(
    label: Floats, probability: Floats, bins: int = BINS, level: float = 0.95
) -> CalibrationCurve:
    """Compare predicted and observed click rates, in bins of equally many rows.

    Equal probabilities share a bin, so that the order of the rows is of no account; bins that come out empty are left out.

    Args:
        label: [n], 0 or 1.
        probability: [n].
        bins: at most so many.
        level: of the intervals.
    """
    bin_of = _equal_bins(probability, bins)
    rows = np.bincount(bin_of, minlength=bins)
    filled = rows > 0
    clicks, expected = (
        np.bincount(bin_of, values, bins)[filled] for values in (label, probability)
    )
    low, high = wilson_interval(clicks, rows[filled], level)
    return CalibrationCurve(expected / rows[filled], clicks / rows[filled], rows[filled], low, high)


def wilson_interval(
    clicks: NDArray[np.number], rows: NDArray[np.integer], level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return low and high float64 [b] of the click rate behind clicks [b] of rows [b], each at least 1 (Wilson, 1927).

    With rate r, n rows and z the normal quantile: (r + z²/2n ± z √(r(1 - r)/n + z²/4n²)) / (1 + z²/n).
    """
    z, rate = NormalDist().inv_cdf((1 + level) / 2), clicks / rows
    middle = rate + z**2 / (2 * rows)
    reach = z * np.sqrt(rate * (1 - rate) / rows + z**2 / (4 * rows**2))
    scale = 1 + z**2 / rows
    return np.clip((middle - reach) / scale, 0, 1), np.clip((middle + reach) / scale, 0, 1)


_NEVER = 1e-7


def _equal_bins(probability: Floats, bins: int) -> NDArray[np.int64]:
    """Return each row's bin, int64 [n]: that of its rank, where rows that tie take the rank of the first of them."""
    _, codes, sizes = np.unique(probability, return_inverse=True, return_counts=True)
    first = np.cumsum(sizes) - sizes
    return (first * min(bins, len(probability)) // max(1, len(probability)))[codes]
