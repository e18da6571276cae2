"""Does a model rank clicks above non-clicks: AUC, with weights, and within groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]


def auc(label: Floats, probability: Floats) -> float:
    """Return the area under the ROC curve: how often a click ranks above a non-click. NaN without both classes."""
    if not _has_both(label):
        return float("nan")
    return float(roc_auc_score(label, probability))


def auc_within(label: Floats, probability: Floats, inside: NDArray[np.bool_]) -> float:
    """Return the AUC of the rows where `inside` is true."""
    return auc(label[inside], probability[inside])


def weighted_auc(label: Floats, probability: Floats, weight: Floats) -> float:
    """Return the AUC where a pair of click and non-click counts as the product of their weights [n], none negative.

    Ties count half. NaN without both classes among the rows of positive weight.
    """
    return Ranking.of(label, probability).auc(weight)


def grouped_auc(label: Floats, probability: Floats, group: Integers) -> float:
    """Return the AUC within each group (for GAUC: the user), averaged by the group's rows.

    Groups without both classes are left out, as in Zhu et al., KDD 2017; NaN when none is left.
    """
    within, rows = auc_by_group(label, probability, group)
    scored = np.isfinite(within)
    return float(np.average(within[scored], weights=rows[scored])) if scored.any() else float("nan")


def auc_by_group(
    label: Floats, probability: Floats, group: Integers
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return each group's AUC float64 [g] and rows int64 [g], groups ascending; NaN where a group has one class.

    The AUC is that of Mann and Whitney: (R - c(c + 1)/2) / (c · d), R the sum of the clicks' ranks within the group,
    ties at their mean rank, c clicks and d non-clicks.
    """
    order = np.lexsort((probability, group))
    opens = _changes(group[order])
    starts, rows = _runs(opens)
    clicked = (label[order] > 0).astype(np.float64)
    clicks = _sum_by_run(clicked, starts)
    ranks = _mean_ranks(opens, _changes(probability[order]))
    above = _sum_by_run(ranks * clicked, starts) - clicks * (clicks + 1) / 2
    pairs = clicks * (rows - clicks)
    return np.divide(above, pairs, out=np.full(len(starts), np.nan), where=pairs > 0), rows


@dataclass(frozen=True)
class Ranking:
    """Impressions in the order of their probability, so that one sort serves any number of weightings.

    Attributes:
        order: int64 [n], row numbers by ascending probability.
        ends: int64 [t], the last of each run of equal probabilities in that order.
        clicked: float64 [n], 0 or 1, in that order.
    """

    order: NDArray[np.int64]
    ends: NDArray[np.int64]
    clicked: NDArray[np.float64]

    @classmethod
    def of(cls, label: Floats, probability: Floats) -> Self:
        """Sort impressions: label [n], 0 or 1, probability [n]."""
        order = np.argsort(probability, kind="stable")
        starts, sizes = _runs(_changes(probability[order]))
        return cls(order, starts + sizes - 1, (label[order] > 0).astype(np.float64))

    def auc(self, weight: Floats) -> float:
        """Return the AUC under weights [n] in the order of the rows as they were given; see `weighted_auc`."""
        return self.auc_of_ordered(weight[self.order].astype(np.float64, copy=False))

    def auc_of_ordered(self, weight: NDArray[np.float64]) -> float:
        """Return the AUC under weights float64 [n] that are in the order of the probabilities already.

        It is the area below the curve of clicks over non-clicks, both counted up from the least probable row.
        """
        of_clicks = weight * self.clicked
        clicks, others = (
            np.append(0.0, np.cumsum(part)[self.ends]) for part in (of_clicks, weight - of_clicks)
        )
        pairs = float(clicks[-1] * others[-1])
        return float(np.trapezoid(others, clicks)) / pairs if pairs else float("nan")


def _has_both(label: Floats) -> bool:
    return bool(len(label)) and bool(label.min() < label.max())


def _changes(ordered: NDArray) -> NDArray[np.bool_]:
    """Where a sorted array [n] takes a new value; the first row is one."""
    changes = np.ones(len(ordered), bool)
    changes[1:] = ordered[1:] != ordered[:-1]
    return changes


def _runs(changes: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and lengths of the runs that begin where `changes` is true."""
    starts = np.flatnonzero(changes)
    return starts, np.diff(starts, append=len(changes))


def _sum_by_run(values: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums of the runs that begin at `starts`, of which the first is 0; runs of one row are spared the adding up."""
    return values if len(starts) == len(values) else np.add.reduceat(values, starts)


def _mean_ranks(opens: NDArray[np.bool_], changes: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Rank from 1 within the run that `opens` starts; rows that tie share the mean of their ranks."""
    starts, _ = _runs(opens)
    ties, sizes = _runs(opens | changes)
    before = ties - starts[np.cumsum(opens)[ties] - 1]
    return np.repeat(before + (sizes + 1) / 2, sizes)
