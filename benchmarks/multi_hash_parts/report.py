"""Figures of one system within one budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from multi_hash_parts.systems import PUBLISHED, Plan, System


def figures(
    name: str, rows: int, made: System, passes: int, aucs: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """Sum the seeds up.

    Args:
        name: of the system.
        rows: its budget.
        made: the system.
        passes: after how many the AUC is taken.
        aucs: of every seed, after every pass, on the test rows.

    Returns:
        `auc_mean` and `auc_std` after the chosen passes, `auc_best_pass_mean` and `_range` as published, the published
        range and whether the mean lies within or above it (None where nothing is published), numbers and sizes by field.
    """
    chosen, best = [curve[passes - 1] for curve in aucs], [max(curve) for curve in aucs]
    published = PUBLISHED.get(name, {}).get(rows)
    return {
        "auc_mean": round(float(np.mean(chosen)), 5),
        "auc_std": round(float(np.std(chosen)), 5),
        "auc_best_pass_mean": round(float(np.mean(best)), 5),
        "auc_best_pass_range": [round(min(best), 5), round(max(best), 5)],
        "published": published,
        "reached": None if published is None else bool(np.mean(best) >= published[0]),
        "passes": passes,
        "numbers_user": made.user.numbers,
        "numbers_item": made.item.numbers,
        "numbers_allowed": rows * 32,
        "size_user": _size(made.user),
        "size_item": _size(made.item),
    }


def _size(plan: Plan) -> str:
    return str(plan.size or f"{plan.ids:,} rows, one for every id")
