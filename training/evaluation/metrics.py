"""Figures of click probabilities: probability, ranking, intervals by user, and slices.

A figure that is undefined on the data is NaN, never an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from features.errors import InputError

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]

BINS = 20
"""Bins of a calibration curve."""

RESAMPLES = 200
"""Draws of users behind an interval."""

LEVEL = 0.95
"""Coverage of an interval."""

_LEAST_PROBABILITY = 1e-7


# Are the probabilities right?


def log_loss(label: Floats, probability: Floats) -> float:
    """Return the mean of -log p(label) in nats, of probabilities clipped to [1e-7, 1 - 1e-7]."""
    return float(np.mean(log_losses(label, probability))) if len(label) else float("nan")


def log_losses(label: Floats, probability: Floats) -> NDArray[np.float64]:
    """Return -log p(label) of each row, float64 [n]."""
    p = np.clip(probability.astype(np.float64), _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    # log1p(-p) keeps the digits of the small probabilities of clicks, which 1 - p would lose.
    return -np.where(label > 0, np.log(p), np.log1p(-p))


def relative_information_gain(label: Floats, probability: Floats) -> float:
    """Return 1 - log loss / entropy of the click rate: 0 for the click rate itself, 1 is perfect.

    It is 1 - the normalised entropy of He et al., ADKDD 2014. NaN without both classes.
    """
    rate = float(np.mean(label, dtype=np.float64)) if len(label) else 0.0
    if not 0 < rate < 1:
        return float("nan")
    entropy = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
    return float(1 - log_loss(label, probability) / entropy)


def calibration(label: Floats, probability: Floats) -> float:
    """Return expected over observed clicks, Σp / Σy: above 1 is too high. NaN without clicks."""
    clicks = float(label.sum(dtype=np.float64))
    return float(probability.sum(dtype=np.float64)) / clicks if clicks else float("nan")


def expected_calibration_error(label: Floats, probability: Floats, bins: int = BINS) -> float:
    """Return the mean |observed - expected CTR| over bins of equal rows, weighted by rows."""
    if not len(label):
        return float("nan")
    curve = calibration_curve(label, probability, bins)
    return float(np.average(np.abs(curve.observed - curve.predicted), weights=curve.rows))


@dataclass(frozen=True)
class CalibrationCurve:
    """Impressions in b bins by probability, ascending.

    Attributes:
        predicted: float64 [b], mean probability.
        observed: float64 [b], click rate.
        rows: int64 [b].
        low: float64 [b], of the Wilson interval of the click rate.
        high: float64 [b].
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    rows: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def calibration_curve(
    label: Floats, probability: Floats, bins: int = BINS, level: float = LEVEL
) -> CalibrationCurve:
    """Compare predicted and observed click rates, in bins of equally many rows.

    Args:
        label: [n], 0 or 1.
        probability: [n].
        bins: most bins; empty ones are left out.
        level: of the intervals.
    """
    # A row's bin follows from its rank. Equal probabilities get the rank of the first of them, so
    # they share a bin and the order of the rows does not matter.
    _, codes, sizes = np.unique(probability, return_inverse=True, return_counts=True)
    first = np.cumsum(sizes) - sizes
    bin_of = (first * min(bins, len(probability)) // max(1, len(probability)))[codes]
    rows = np.bincount(bin_of, minlength=bins)
    filled = rows > 0
    clicks, expected = (
        np.bincount(bin_of, values, bins)[filled] for values in (label, probability)
    )
    low, high = wilson_interval(clicks, rows[filled], level)
    return CalibrationCurve(expected / rows[filled], clicks / rows[filled], rows[filled], low, high)


def wilson_interval(
    clicks: NDArray[np.number], rows: NDArray[np.integer], level: float = LEVEL
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return low and high float64 [b] of the click rate behind clicks [b] of rows [b].

    Wilson (1927), with rate r, n ≥ 1 rows and z the normal quantile:
    (r + z²/2n ± z √(r(1 - r)/n + z²/4n²)) / (1 + z²/n).
    """
    z, rate = NormalDist().inv_cdf((1 + level) / 2), clicks / rows
    middle = rate + z**2 / (2 * rows)
    reach = z * np.sqrt(rate * (1 - rate) / rows + z**2 / (4 * rows**2))
    scale = 1 + z**2 / rows
    return np.clip((middle - reach) / scale, 0, 1), np.clip((middle + reach) / scale, 0, 1)


# Are clicks ranked above non-clicks?


def auc(label: Floats, probability: Floats) -> float:
    """Return the area under the ROC curve: how often a click ranks above a non-click."""
    if not len(label) or label.min() == label.max() or np.isnan(probability).any():
        return float("nan")
    return float(roc_auc_score(label, probability))


def auc_within(label: Floats, probability: Floats, inside: NDArray[np.bool_]) -> float:
    """Return the AUC of the rows where `inside` is true."""
    return auc(label[inside], probability[inside])


def grouped_auc(label: Floats, probability: Floats, group: Integers) -> float:
    """Return the AUC within each group (for GAUC: the user), averaged by the group's rows.

    Groups without both classes are left out, as in Zhu et al., KDD 2017.
    """
    within, rows = auc_by_group(label, probability, group)
    scored = np.isfinite(within)
    return float(np.average(within[scored], weights=rows[scored])) if scored.any() else float("nan")


def auc_by_group(
    label: Floats, probability: Floats, group: Integers
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return each group's AUC float64 [g] and rows int64 [g], groups ascending.

    The AUC of Mann and Whitney is (R - c(c + 1)/2) / (c · d), where R is the sum of the clicks'
    ranks within the group, ties have their mean rank, and there are c clicks and d non-clicks.
    """
    # 1. Sort by group and, within it, by probability.
    order = np.lexsort((probability, group))
    opens = _changes(group[order])
    starts, rows = _runs(opens)
    clicked = (label[order] > 0).astype(np.float64)

    # 2. Rank from 1 within the group. Rows that tie share the mean of their ranks.
    ties, sizes = _runs(opens | _changes(probability[order]))
    before = ties - starts[np.cumsum(opens)[ties] - 1]
    ranks = np.repeat(before + (sizes + 1) / 2, sizes)

    # 3. Sum by group.
    clicks = _sum_by_run(clicked, starts)
    above = _sum_by_run(ranks * clicked, starts) - clicks * (clicks + 1) / 2
    pairs = clicks * (rows - clicks)
    # A NaN has no rank, although a sort puts it last.
    pairs[_sum_by_run(np.isnan(probability[order]).astype(np.float64), starts) > 0] = 0
    return np.divide(above, pairs, out=np.full(len(starts), np.nan), where=pairs > 0), rows


def auc_error(label: Floats, scores: Floats, user: Integers) -> float:
    """Return the standard error of an AUC; arguments and source as for `auc_difference_error`."""
    if not 0 < np.count_nonzero(label > 0) < len(label):
        return float("nan")
    return _error(_contributions(label, scores), user)


def normal_interval(figure: float, error: float, level: float = LEVEL) -> Interval:
    """Return the interval of a figure with this standard error, by the normal distribution.

    For AUCs and their differences it covers what it says; 200 resamples of the same users covered
    0.90 to 0.93 where they said 0.95 (`tests/training/test_metrics_bootstrap.py`).
    """
    reach = NormalDist().inv_cdf((1 + level) / 2) * error
    return Interval(figure - reach, figure + reach)


def auc_difference_error(label: Floats, first: Floats, second: Floats, user: Integers) -> float:
    """Return the standard error of AUC(first) - AUC(second) on the same impressions.

    The contribution of an impression is the share of impressions of the other label that it is
    ranked correctly against (DeLong et al., Biometrics 1988). Those of one user are summed before
    squaring, because they are not independent (Obuchowski, Biometrics 1997).

    Args:
        label: [n], 0 or 1; NaN unless both occur.
        first: [n], scores of one model.
        second: [n], scores of the other one.
        user: [n] ≥ 0.
    """
    if not 0 < np.count_nonzero(label > 0) < len(label):
        return float("nan")
    return _error(_contributions(label, first) - _contributions(label, second), user)


def _error(contributions: NDArray[np.float64], user: Integers) -> float:
    by_user = np.bincount(user, contributions)
    # One user says nothing about another one.
    return float(np.sqrt(np.sum(np.square(by_user)))) if len(by_user) > 1 else float("nan")


def _contributions(label: Floats, scores: Floats) -> NDArray[np.float64]:
    """By how much each impression moves the AUC, float64 [n], with sum 0."""
    # The share of the other label that an impression beats, centred, over the size of its label.
    clicked = label > 0
    shares = np.empty(len(label))
    shares[clicked] = _share_below(scores[~clicked], scores[clicked])
    shares[~clicked] = 1 - _share_below(scores[clicked], scores[~clicked])
    # The mean share of either label is the AUC.
    shares -= shares[clicked].mean()
    return shares / np.where(clicked, clicked.sum(), (~clicked).sum())


def _share_below(others: Floats, scores: Floats) -> NDArray[np.float64]:
    """Share of others below each score; ties count half."""
    ordered = np.sort(others)
    low = np.searchsorted(ordered, scores, side="left")
    high = np.searchsorted(ordered, scores, side="right")
    shares: NDArray[np.float64] = (low + high) / (2 * len(ordered))
    return shares


def in_reported_half(users: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Return which users, bool [u], are in the half on which a choice is reported.

    The other half is for choosing: a figure of the same impressions that made the choice would be
    too good.
    """
    # Python's own hash of a string is salted: it differs from process to process.
    bits = (hashlib.blake2b(str(user).encode(), digest_size=1).digest()[0] & 1 for user in users)
    return np.fromiter(bits, bool, len(users))


@dataclass(frozen=True)
class RankedLabels:
    """Impressions sorted by probability: one sort serves any number of weightings.

    Attributes:
        order: int64 [n], row numbers by ascending probability.
        ends: int64 [t], the last position of each run of equal probabilities in that order.
            NaN are last.
        ranked: rows before the first NaN.
        clicked: float64 [n], 0 or 1, in that order.
    """

    order: NDArray[np.int64]
    ends: NDArray[np.int64]
    clicked: NDArray[np.float64]
    ranked: int

    @classmethod
    def of(cls, label: Floats, probability: Floats) -> Self:
        """Sort impressions: label [n], 0 or 1, probability [n]."""
        order = np.argsort(probability, kind="stable")
        starts, sizes = _runs(_changes(probability[order]))
        ranked = int(np.count_nonzero(~np.isnan(probability)))
        return cls(order, starts + sizes - 1, (label[order] > 0).astype(np.float64), ranked)

    def weighted_auc(self, weight: NDArray[np.float64]) -> float:
        """Return the AUC where a pair of click and non-click counts as the product of its weights.

        Weights float64 [n], none negative, are in the order of the probabilities. Ties count half.
        NaN without both classes among the rows of positive weight, or with a NaN among them.
        """
        if weight[self.ranked :].any():
            return float("nan")
        # The area below the curve of clicks over non-clicks, counted from the least probable row.
        of_clicks = weight * self.clicked
        clicks, others = (
            np.append(0.0, np.cumsum(part)[self.ends]) for part in (of_clicks, weight - of_clicks)
        )
        pairs = float(clicks[-1] * others[-1])
        # Points are at the ends of ties only: the trapezoid between two counts a tie half.
        return float(np.trapezoid(others, clicks)) / pairs if pairs else float("nan")


def _changes(ordered: NDArray) -> NDArray[np.bool_]:
    """Return where a sorted array [n] has a new value; the first row has one."""
    changes = np.ones(len(ordered), bool)
    changes[1:] = ordered[1:] != ordered[:-1]
    return changes


def _runs(changes: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return starts and lengths of the runs that begin where `changes` is true."""
    starts = np.flatnonzero(changes)
    return starts, np.diff(starts, append=len(changes))


def _sum_by_run(values: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the sums of the runs that begin at `starts`; `starts[0]` is 0."""
    # With one row per run there is nothing to add up.
    return values if len(starts) == len(values) else np.add.reduceat(values, starts)


# How certain is a figure? Impressions of one user are alike, so resampling rows would make
# intervals too narrow. Whole users are drawn instead, with replacement and as many as there are
# (the cluster bootstrap: Davison and Hinkley 1997, 3.8). Models on the same impressions get the
# same draws, so the interval of their difference is that of paired figures.


@dataclass(frozen=True)
class Interval:
    """An interval of a figure; both ends are NaN if it is undefined."""

    low: float
    high: float


@dataclass(frozen=True)
class Resamples:
    """One model's figures under each draw of users, float64 [resamples]; NaN where undefined."""

    auc: NDArray[np.float64]
    log_loss: NDArray[np.float64]
    calibration: NDArray[np.float64]
    gauc: NDArray[np.float64]

    def intervals(self, level: float = LEVEL) -> dict[str, Interval]:
        """Return the interval of each figure by its name."""
        return {field.name: interval(getattr(self, field.name), level) for field in fields(self)}


def interval(values: NDArray[np.float64], level: float = LEVEL) -> Interval:
    """Return the percentile interval of resampled figures [resamples], NaN left out."""
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
        resamples: number of draws.
        seed: the same seed and data give the same figures.

    Returns:
        Figures by model; all NaN with fewer than two users.
    """
    # Codes without gaps, because the sums by user are arrays by code.
    codes = np.unique(user, return_inverse=True)[1]
    users = int(codes.max(initial=-1)) + 1
    models = {name: _UserSums.of(label, p, codes) for name, p in probabilities.items()}
    figures = {name: np.full((resamples, len(fields(Resamples))), np.nan) for name in models}
    for number, weight in enumerate(_draws(users, resamples, seed)):
        for name, model in models.items():
            figures[name][number] = model.under(weight)
    return {name: Resamples(*table.T) for name, table in figures.items()}


@dataclass(frozen=True)
class _UserSums:
    """A model's figures as sums by user: a draw of users weights them, without another pass.

    Attributes:
        ranking: of the impressions.
        ordered: int64 [n], the user of each impression, in the order of the ranking.
        sums: float64 [u, 6], by user: log loss, probability, clicks, rows, AUC · rows, and rows
            where the AUC is defined.
    """

    ranking: RankedLabels
    ordered: NDArray[np.int64]
    sums: NDArray[np.float64]

    @classmethod
    def of(cls, label: Floats, probability: Floats, codes: NDArray[np.int64]) -> Self:
        """Sum up by user; codes have no gaps."""
        within, rows = auc_by_group(label, probability, codes)
        losses = log_losses(label, probability)
        sums = [np.bincount(codes, values) for values in (losses, probability, label)]
        scored = np.where(np.isfinite(within), rows, 0)
        # A user without both classes has the AUC NaN and the weight 0: NaN times 0 would stay NaN.
        columns = [*sums, rows, np.nan_to_num(within) * scored, scored]
        ranking = RankedLabels.of(label, probability)
        return cls(ranking, codes[ranking.order], np.stack(columns, axis=1, dtype=np.float64))

    def under(self, weight: NDArray[np.float64]) -> tuple[float, float, float, float]:
        """Return AUC, log loss, calibration and GAUC for weights [u] of the users."""
        loss, expected, clicks, rows, ranked, scored = (float(t) for t in weight @ self.sums)
        ratios = ((loss, rows), (expected, clicks), (ranked, scored))
        log_loss, calibration, gauc = (
            top / bottom if bottom else float("nan") for top, bottom in ratios
        )
        return self.ranking.weighted_auc(weight[self.ordered]), log_loss, calibration, gauc


def _draws(users: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield how often each user is drawn, float64 [users]; nothing with fewer than two users."""
    draw = np.random.default_rng(seed)
    for _ in range(resamples if users > 1 else 0):
        yield np.bincount(draw.integers(users, size=users), minlength=users).astype(np.float64)


# On which impressions is a model good?


@dataclass(frozen=True)
class Slice:
    """Some of the impressions: `inside` bool [n]."""

    name: str
    inside: NDArray[np.bool_]


def everything(rows: int) -> Slice:
    """Return the slice `all` of so many impressions."""
    return Slice("all", np.ones(rows, bool))


@dataclass(frozen=True)
class SliceFigures:
    """One model on one slice; NaN where undefined. `auc_low` and `auc_high` are 95 % by user."""

    name: str
    rows: int
    clicks: int
    users: int
    auc: float
    auc_low: float
    auc_high: float
    log_loss: float
    calibration: float


def slice_table(
    label: Floats,
    probability: Floats,
    user: Integers,
    slices: Sequence[Slice],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[SliceFigures, ...]:
    """Return the figures of each slice, in their order.

    Args:
        label: [n], 0 or 1.
        probability: [n].
        user: [n], any integers; equal ones are one user.
        slices: they may overlap or be empty.
        resamples: draws of users behind an interval.
        seed: of the draws.

    Raises:
        InputError: a slice has another number of impressions.
    """
    wrong = {part.name: part.inside.shape for part in slices if part.inside.shape != label.shape}
    if wrong:
        raise InputError(
            f"slices {wrong} are not of the {len(label)} impressions: give one bool per impression"
        )
    table = []
    for part in slices:
        # Each slice draws its own users: some users have no impression in it.
        y, p, users = label[part.inside], probability[part.inside], user[part.inside]
        reach = interval(resample_users(y, {part.name: p}, users, resamples, seed)[part.name].auc)
        table.append(
            SliceFigures(
                name=part.name,
                rows=len(y),
                clicks=int(np.count_nonzero(y)),
                users=len(np.unique(users)),
                auc=auc(y, p),
                auc_low=reach.low,
                auc_high=reach.high,
                log_loss=log_loss(y, p),
                calibration=calibration(y, p),
            )
        )
    return tuple(table)
