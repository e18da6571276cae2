"""How sure a figure is: intervals by resampling users.

Impressions of one user are alike, so resampling rows would make intervals too narrow. Whole users are drawn instead, with
replacement and as many as there are (the cluster bootstrap: Davison and Hinkley 1997, 3.8); a user drawn twice counts twice.
Models judged on the same impressions meet the same draws, so that the interval of their difference is that of a pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from training.evaluation.metrics.probability import log_losses
from training.evaluation.metrics.ranking import Floats, Integers, Ranking, auc_by_group

RESAMPLES = 200
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """Where a figure lies; both ends NaN where nothing can be said."""

    low: float
    high: float


@dataclass(frozen=True)
class Resamples:
    """One model's figures under each draw of users, float64 [resamples]; NaN where a draw leaves one undefined."""

    auc: NDArray[np.float64]
    log_loss: NDArray[np.float64]
    calibration: NDArray[np.float64]
    gauc: NDArray[np.float64]

    def intervals(self, level: float = LEVEL) -> dict[str, Interval]:
        """Return the interval of each figure by its name."""
        return {field.name: interval(getattr(self, field.name), level) for field in fields(self)}


def interval(values: NDArray[np.float64], level: float = LEVEL) -> Interval:
    """Return the percentile interval of resampled figures [resamples]; undefined ones are left out."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def resample_users(
    label: Floats,
    probabilities: Mapping[str, Floats],
    user: Integers,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Resamples]:
    """Compute every model's figures under the same draws of users.

    Args:
        label: [n], 0 or 1.
        probabilities: each model's, [n], by its name.
        user: [n], any integers; equal ones are one user.
        resamples: how many draws.
        seed: the same seed and data give the same figures.

    Returns:
        By model. With fewer than two users all is NaN: one user says nothing of others.
    """
    codes = np.unique(user, return_inverse=True)[1]
    users = int(codes.max(initial=-1)) + 1
    models = {
        name: _Model.of(label, probability, codes) for name, probability in probabilities.items()
    }
    figures = {name: np.full((resamples, len(fields(Resamples))), np.nan) for name in models}
    for number, weight in enumerate(_draws(users, resamples, seed)):
        for name, model in models.items():
            figures[name][number] = model.under(weight)
    return {name: Resamples(*table.T) for name, table in figures.items()}


@dataclass(frozen=True)
class _Model:
    """What a draw needs of a model: u users.

    Attributes:
        ranking: of the impressions.
        ordered: int64 [n], the user of each, in the order of the ranking.
        sums: float64 [u, 6], by user: log loss, probability, clicks, rows, AUC · rows and rows where the AUC is defined.
    """

    ranking: Ranking
    ordered: NDArray[np.int64]
    sums: NDArray[np.float64]

    @classmethod
    def of(cls, label: Floats, probability: Floats, codes: NDArray[np.int64]) -> Self:
        """Sum up by user; every code from 0 on has a row."""
        within, rows = auc_by_group(label, probability, codes)
        sums = [
            np.bincount(codes, values)
            for values in (log_losses(label, probability), probability, label)
        ]
        scored = np.where(np.isfinite(within), rows, 0)
        table = np.stack(
            [*sums, rows, np.nan_to_num(within) * scored, scored], axis=1, dtype=np.float64
        )
        ranking = Ranking.of(label, probability)
        return cls(ranking, codes[ranking.order], table)

    def under(self, weight: NDArray[np.float64]) -> tuple[float, float, float, float]:
        """Return AUC, log loss, calibration and GAUC where users count as their weight [u]."""
        loss, expected, clicks, rows, ranked, scored = (
            float(total) for total in weight @ self.sums
        )
        ratios = ((loss, rows), (expected, clicks), (ranked, scored))
        log_loss, calibration, gauc = (
            top / bottom if bottom else float("nan") for top, bottom in ratios
        )
        return self.ranking.auc_of_ordered(weight[self.ordered]), log_loss, calibration, gauc


def _draws(users: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield how often each user is drawn, float64 [users]; nothing where there are fewer than two."""
    draw = np.random.default_rng(seed)
    for _ in range(resamples if users > 1 else 0):
        yield np.bincount(draw.integers(users, size=users), minlength=users).astype(np.float64)
