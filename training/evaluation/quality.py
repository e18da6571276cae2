"""How good a day's model is on the held-out impressions, beside its baseline: figures, intervals, slices, curves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.evaluation.metrics import (
    CalibrationCurve,
    Interval,
    Slice,
    SliceFigures,
    auc,
    calibration_curve,
    expected_calibration_error,
    grouped_auc,
    interval,
    relative_information_gain,
    resample_users,
    slice_table,
)
from training.evaluation.metrics.bootstrap import LEVEL, RESAMPLES

Scores = NDArray[np.float32]

MODEL, BASELINE = "model", "baseline"

GAIN = "auc_gain_over_baseline"


@dataclass(frozen=True)
class HeldOut:
    """Impressions that were scored and not learned: label [n], 0 or 1, two models' probabilities [n], user codes int64 [n]."""

    label: Scores
    model: Scores
    baseline: Scores
    user: NDArray[np.int64]


@dataclass(frozen=True)
class Quality:
    """What the held-out impressions say.

    Attributes:
        figures: for `metrics.json`, by name; NaN where one is undefined.
        intervals: by `model.<figure>`, `baseline.<figure>` and `auc_gain_over_baseline`, at 95 %, by user.
        slices: of the model.
        baseline_slices: of the baseline, in the same order, without intervals.
        curves: calibration of each by name.
    """

    figures: Mapping[str, float]
    intervals: Mapping[str, Interval]
    slices: tuple[SliceFigures, ...]
    baseline_slices: tuple[SliceFigures, ...]
    curves: Mapping[str, CalibrationCurve]

    def write(self, path: Path) -> None:
        """Write intervals, slices and curves as JSON; what is undefined is null."""
        document = {
            "level": LEVEL,
            "resamples": RESAMPLES,
            "intervals": {name: asdict(reach) for name, reach in self.intervals.items()},
            "slices": {
                MODEL: [asdict(row) for row in self.slices],
                BASELINE: [asdict(row) for row in self.baseline_slices],
            },
            "calibration_curve": {name: _columns(curve) for name, curve in self.curves.items()},
        }
        path.write_text(
            json.dumps(_without_nan(document), indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )


def judge(heldout: HeldOut, slices: Sequence[Slice], seed: int = 0) -> Quality:
    """Compute everything; the same seed and impressions give the same.

    Raises:
        InputError: a slice is not of these impressions.
    """
    label, user, scores = (
        heldout.label,
        heldout.user,
        {MODEL: heldout.model, BASELINE: heldout.baseline},
    )
    intervals = _intervals(heldout, seed)
    return Quality(
        figures=_figures(heldout, intervals),
        intervals=intervals,
        slices=slice_table(label, heldout.model, user, slices, seed=seed),
        baseline_slices=slice_table(label, heldout.baseline, user, slices, resamples=0),
        curves={
            name: calibration_curve(label, probability) for name, probability in scores.items()
        },
    )


def _intervals(heldout: HeldOut, seed: int) -> dict[str, Interval]:
    scores = {MODEL: heldout.model, BASELINE: heldout.baseline}
    drawn = resample_users(heldout.label, scores, heldout.user, seed=seed)
    own = {
        f"{name}.{figure}": reach
        for name, draws in drawn.items()
        for figure, reach in draws.intervals().items()
    }
    return own | {GAIN: interval(drawn[MODEL].auc - drawn[BASELINE].auc)}


def _figures(heldout: HeldOut, intervals: Mapping[str, Interval]) -> dict[str, float]:
    label, model = heldout.label, heldout.model
    own, gain = intervals[f"{MODEL}.auc"], intervals[GAIN]
    return {
        "rig": relative_information_gain(label, model),
        "ece": expected_calibration_error(label, model),
        "gauc": grouped_auc(label, model, heldout.user),
        "auc_low": own.low,
        "auc_high": own.high,
        GAIN: auc(label, model) - auc(label, heldout.baseline),
        f"{GAIN}_low": gain.low,
        f"{GAIN}_high": gain.high,
    }


def _columns(curve: CalibrationCurve) -> dict[str, list[float]]:
    return {name: column.tolist() for name, column in vars(curve).items()}


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
