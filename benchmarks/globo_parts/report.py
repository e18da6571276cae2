"""Figures of the arms: progressive AUC by day, of all impressions and of those whose article is new or rare; rows, bytes, speed.

The first day is learned and not judged: an arm that learns by the day has nothing to score it with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from globo_parts.learning import Run
from globo_parts.stream import Day
from training.evaluation.metrics import auc, auc_within, log_loss

Mask = Callable[[Day], NDArray[np.bool_]]

JUDGED_FROM = 1
"""Number of the first day that is judged."""


def figures(run: Run, days: Sequence[Day]) -> dict[str, Any]:
    """Return an arm's figures.

    Args:
        run: what it gave.
        days: what it was taken through, two or more.

    Returns:
        `auc`, `auc_new` (article first seen that day), `auc_rare` (seen before, seldom), `log_loss`: means over the judged
        days; `auc_by_day`, `auc_new_by_day`; `rows_in_use` at the end of each day; `rows`, `bytes` of the table at its
        largest; `dense_bytes`; `examples_per_s` of scoring and learning together.
    """
    judged = list(zip(days, run.probability, strict=True))[JUDGED_FROM:]
    whole = [auc(day.inputs.label, p) for day, p in judged]
    new, rare = (_within(judged, mask) for mask in (lambda day: day.new, lambda day: day.rare))
    return {
        "auc": _mean(whole),
        "auc_new": _mean(new),
        "auc_rare": _mean(rare),
        "log_loss": _mean([log_loss(day.inputs.label, p) for day, p in judged]),
        "auc_by_day": _by_day(days, whole),
        "auc_new_by_day": _by_day(days, new),
        "rows_in_use": run.touched,
        "rows": run.size.rows,
        "bytes": run.size.bytes,
        "dense_bytes": run.dense_bytes,
        "examples_per_s": round(run.rows / run.seconds) if run.seconds else None,
    }


def stream_figures(days: Sequence[Day]) -> dict[str, Any]:
    """Return what the days are: impressions and clicks of each, and the share of the judged that is of new and rare articles."""
    new, rare = (
        np.concatenate([mask(day) for day in days[JUDGED_FROM:]])
        for mask in (lambda d: d.new, lambda d: d.rare)
    )
    return {
        "impressions": {str(day.date): len(day) for day in days},
        "clicks": {str(day.date): int(day.inputs.label.sum()) for day in days},
        "judged_impressions": len(new),
        "share_new": round(float(new.mean()), 4),
        "share_rare": round(float(rare.mean()), 4),
    }


def lines(arms: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return a line an arm, as `COLUMNS` says."""
    return [
        (name, *(_shown(values[column]) for column in COLUMNS)) for name, values in arms.items()
    ]


COLUMNS = ("auc", "auc_new", "auc_rare", "log_loss", "rows", "bytes", "examples_per_s")
"""What of the figures is printed as a table."""


def _within(judged: Sequence[tuple[Day, NDArray[np.float32]]], mask: Mask) -> list[float]:
    return [auc_within(day.inputs.label, p, mask(day)) for day, p in judged]


def _by_day(days: Sequence[Day], values: Sequence[float]) -> dict[str, float | None]:
    return {
        str(day.date): _mean([value]) for day, value in zip(days[JUDGED_FROM:], values, strict=True)
    }


def _mean(values: Sequence[float]) -> float | None:
    """None where a day's figure is undefined: JSON has no NaN."""
    mean = float(np.mean(values))
    return round(mean, 5) if math.isfinite(mean) else None


def _shown(value: float | int | None) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
