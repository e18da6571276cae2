"""From finished runs to the figures that are asked for, and which of their targets they miss. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frappe_peers.cache import Result
from training.evaluation.metrics import auc, log_loss

Floats = NDArray[np.float32]
Figures = Mapping[str, float | None]

LIKE = {
    "ours_wide_deep": ("fuxictr_dnn", "deepctr_wdl"),
    "ours_deepfm": ("fuxictr_deepfm", "deepctr_deepfm"),
    "ours_dcnv2": ("fuxictr_dcnv2",),
    "ours_lr": ("fuxictr_lr",),
    "ours_fm": ("fuxictr_fm",),
}
"""Our models and the peers of like structure."""

BEST = "ours_best"
MAY_FALL_SHORT, BEST_AUC, SPEED = 0.0005, 0.9855, 2.0
_FARTHEST = 1e-6


def figures_of(runs: Sequence[Result], label: Floats) -> dict[str, float | None]:
    """Return means and the sample deviation over the seeds of one model, on the test rows."""
    aucs = [auc(label, run.test) for run in runs]
    return {
        "auc_mean": float(np.mean(aucs)),
        "auc_std": float(np.std(aucs, ddof=1)) if len(aucs) > 1 else None,
        "log_loss_mean": float(np.mean([log_loss(label, run.test) for run in runs])),
        "examples_per_s": float(np.median([run.figures["examples_per_s"] for run in runs])),
        "valid_auc_mean": float(np.mean([max(run.figures["valid_auc"]) for run in runs])),
        "seeds": len(runs),
    }


def fused(members: Sequence[Result], valid_label: Floats) -> Result:
    """Return the mean of logits of runs, as a run; learning it takes what learning all of them takes, one after the other."""
    valid, test = (
        mean_of_logits([getattr(run, part) for run in members]) for part in ("valid", "test")
    )
    seconds = sum(1 / run.figures["examples_per_s"] for run in members)
    return Result(
        {"examples_per_s": 1 / seconds, "valid_auc": [auc(valid_label, valid)]}, valid, test
    )


def mean_of_logits(probabilities: Sequence[Floats]) -> Floats:
    """Return the sigmoid of the mean logit, float32 [n]."""
    kept = [np.clip(p.astype(np.float64), _FARTHEST, 1 - _FARTHEST) for p in probabilities]
    logit = np.mean([np.log(p / (1 - p)) for p in kept], axis=0)
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


def verdicts(models: Mapping[str, Figures]) -> dict[str, Any]:
    """Return per model of ours its shortfall to the better like peer and its speed over the faster one, and what is missed.

    A figure whose model or peers are missing is None, and misses nothing.
    """
    compared = {
        ours: _compared(models, ours, peers) for ours, peers in LIKE.items() if ours in models
    }
    best = _get(models, BEST, "auc_mean")
    other = max(
        (figures["auc_mean"] or 0.0 for name, figures in models.items() if name != BEST),
        default=0.0,
    )
    missed = [
        f"{name}.auc_shortfall"
        for name, c in compared.items()
        if _above(c["auc_shortfall"], MAY_FALL_SHORT)
    ]
    missed += [
        f"{name}.speed_ratio" for name, c in compared.items() if _above(SPEED, c["speed_ratio"])
    ]
    if best is not None and (best <= BEST_AUC or best <= other):
        missed.append(f"{BEST}.auc_mean")
    return {"compared": compared, "best_over_all_others": _minus(best, other), "missed": missed}


def _compared(
    models: Mapping[str, Figures], ours: str, peers: Sequence[str]
) -> dict[str, float | None]:
    return {
        "auc_shortfall": _minus(
            _highest(models, peers, "auc_mean"), _get(models, ours, "auc_mean")
        ),
        "speed_ratio": _over(
            _get(models, ours, "examples_per_s"), _highest(models, peers, "examples_per_s")
        ),
    }


def _highest(models: Mapping[str, Figures], names: Sequence[str], part: str) -> float | None:
    return max(
        (value for name in names if (value := _get(models, name, part)) is not None), default=None
    )


def _get(models: Mapping[str, Figures], name: str, part: str) -> float | None:
    return models[name][part] if name in models else None


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right


def _over(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def _above(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value > limit
