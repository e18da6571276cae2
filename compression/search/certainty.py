"""How sure a difference of two AUCs is, without drawing: its standard error from what each impression contributes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def drop_error(label: Floats, first: Floats, second: Floats, user: NDArray[np.int64]) -> float:
    """Return the standard error of AUC(first) - AUC(second) on the same impressions.

    An impression's contribution is the share of the other label's impressions that it is ranked rightly against (DeLong et al.,
    Biometrics 1988); those of one user are summed up before squaring, as they are not independent (Obuchowski, Biometrics 1997).

    Args:
        label: [n], 0 or 1, both of them there.
        first: [n], one model's scores.
        second: [n], the other one's.
        user: [n] ≥ 0.
    """
    difference = _contributions(label, first) - _contributions(label, second)
    return float(np.sqrt(np.sum(np.square(np.bincount(user, difference)))))


def _contributions(label: Floats, scores: Floats) -> NDArray[np.float64]:
    """By how much each impression moves the AUC, float64 [n], of sum 0."""
    clicked = label > 0
    found = np.empty(len(label))
    found[clicked] = _share_below(scores[~clicked], scores[clicked])
    found[~clicked] = 1 - _share_below(scores[clicked], scores[~clicked])
    found -= found[clicked].mean()
    return found / np.where(clicked, clicked.sum(), (~clicked).sum())


def _share_below(others: Floats, scores: Floats) -> NDArray[np.float64]:
    """Share of others that is below each score; ties count half."""
    ordered = np.sort(others)
    low, high = (
        np.searchsorted(ordered, scores, side="left"),
        np.searchsorted(ordered, scores, side="right"),
    )
    shares: NDArray[np.float64] = (low + high) / (2 * len(ordered))
    return shares
