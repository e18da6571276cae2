"""How good a list of click probabilities is. A figure that is undefined on the data is NaN, never an error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

Floats = NDArray[np.floating]


def auc(label: Floats, probability: Floats) -> float:
    """Return the area under the ROC curve: how often a click ranks above a non-click. NaN without both classes."""
    if not _has_both(label):
        return float("nan")
    return float(roc_auc_score(label, probability))


def log_loss(label: Floats, probability: Floats) -> float:
    """Return the mean of -log p(label) in nats; probabilities are kept 1e-7 away from 0 and 1. NaN without rows."""
    if not len(label):
        return float("nan")
    p = np.clip(probability.astype(np.float64), _NEVER, 1 - _NEVER)
    return float(-np.mean(np.where(label > 0, np.log(p), np.log1p(-p))))


def calibration(label: Floats, probability: Floats) -> float:
    """Return expected over observed clicks, Σp / Σy; 1 is right, above is too high. NaN without clicks."""
    clicks = float(label.sum(dtype=np.float64))
    return float(probability.sum(dtype=np.float64)) / clicks if clicks else float("nan")


def expected_calibration_error(label: Floats, probability: Floats, bins: int = 20) -> float:
    """Return the mean |observed - expected CTR| over bins of equally many rows, weighted by rows. NaN without rows."""
    if not len(label):
        return float("nan")
    parts = np.array_split(np.argsort(probability, kind="stable"), min(bins, len(label)))
    gaps = [abs(float(np.sum(label[part], dtype=np.float64) - np.sum(probability[part], dtype=np.float64))) for part in parts]
    return sum(gaps) / len(label)


def grouped_auc(label: Floats, probability: Floats, group: NDArray[np.integer]) -> float:
    """Return the AUC within each group (for GAUC: the user), averaged by the group's rows.

    Groups without both classes are left out, as in Zhu et al., KDD 2017; NaN when none is left.
    """
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    scored = [(len(part), auc(label[part], probability[part])) for part in parts if _has_both(label[part])]
    rows = sum(size for size, _ in scored)
    return sum(size * value for size, value in scored) / rows if rows else float("nan")


def auc_within(label: Floats, probability: Floats, inside: NDArray[np.bool_]) -> float:
    """Return the AUC of the rows where `inside` is true."""
    return auc(label[inside], probability[inside])


_NEVER = 1e-7


def _has_both(label: Floats) -> bool:
    return bool(len(label)) and bool(label.min() < label.max())
