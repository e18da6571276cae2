"""From finished runs to the figures that are asked for. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from frappe_peers.cache import Result
from numpy.typing import NDArray

from training.evaluation.metrics import auc, log_loss

MAY_FALL_SHORT = 0.0005
_TAKEN = ("rows", "bytes", "bytes_of_rows", "bytes_with_state")


def figures_of(
    runs: Sequence[Result], valid: NDArray[np.float32], test: NDArray[np.float32] | None
) -> dict[str, Any]:
    """Return the means over the seeds of one arm, and the deviation of its AUC.

    Args:
        runs: of its seeds.
        valid: labels float32 of the validation rows.
        test: of the test rows, or None: their figures are left out.
    """
    figures = {
        f"valid_{name}": value
        for name, value in _quality([run.valid for run in runs], valid).items()
    }
    if test is not None:
        figures |= {
            f"test_{name}": value
            for name, value in _quality([run.test for run in runs], test).items()
        }
    figures |= {name: round(float(np.mean([run.figures[name] for run in runs]))) for name in _TAKEN}
    figures["examples_per_s"] = round(
        float(np.median([run.figures["examples_per_s"] for run in runs]))
    )
    figures["best_epoch"] = float(
        np.mean([1 + int(np.argmax(run.figures["valid_auc"])) for run in runs])
    )
    return figures | {"seeds": len(runs)}


def against(full: Mapping[str, Any], pruned: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a pruned arm takes of the full one's bytes, what its AUC is above it, and whether the target is reached."""
    part = "test" if "test_auc" in full else "valid"
    gain = pruned[f"{part}_auc"] - full[f"{part}_auc"]
    share = pruned["bytes"] / full["bytes"]
    return {
        "bytes_share": share,
        f"{part}_auc_gain": gain,
        "reached": bool(share <= 0.5 and gain >= -MAY_FALL_SHORT),
    }


def _quality(
    answers: Sequence[NDArray[np.float32]], label: NDArray[np.float32]
) -> dict[str, float | None]:
    aucs = [auc(label, answer) for answer in answers]
    return {
        "auc": float(np.mean(aucs)),
        "auc_std": float(np.std(aucs, ddof=1)) if len(aucs) > 1 else None,
        "log_loss": float(np.mean([log_loss(label, answer) for answer in answers])),
    }
