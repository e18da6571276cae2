"""Quality of a day's model on the held-out impressions, compared with its baseline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.json_safe import json_safe
from training.evaluation.metrics import (
    LEVEL,
    RESAMPLES,
    CalibrationCurve,
    Interval,
    Slice,
    SliceFigures,
    auc,
    auc_difference_error,
    auc_error,
    calibration_curve,
    expected_calibration_error,
    grouped_auc,
    normal_interval,
    relative_information_gain,
    resample_users,
    slice_table,
)

Scores = NDArray[np.float32]

MODEL, BASELINE = "model", "baseline"

GAIN = "auc_gain_over_baseline"


@dataclass(frozen=True)
class HeldOutPredictions:
    """Impressions that were not trained on: labels, two models' probabilities, user codes, [n]."""

    label: Scores
    model: Scores
    baseline: Scores
    user: NDArray[np.int64]


@dataclass(frozen=True)
class ModelQuality:
    """Figures of the held-out impressions.

    Attributes:
        figures: for `metrics.json`, by name; NaN where one is undefined.
        intervals: by `model.<figure>`, `baseline.<figure>` and `auc_gain_over_baseline`, at 95 %,
            by user.
        slices: of the model.
        baseline_slices: of the baseline, in the same order, without intervals.
        curves: calibration of both by name.
    """

    figures: Mapping[str, float]
    intervals: Mapping[str, Interval]
    slices: tuple[SliceFigures, ...]
    baseline_slices: tuple[SliceFigures, ...]
    curves: Mapping[str, CalibrationCurve]

    def write(self, path: Path) -> None:
        """Write intervals, slices and curves as JSON; NaN becomes null."""
        document = {
            "level": LEVEL,
            "resamples": RESAMPLES,
            "intervals": {name: asdict(each) for name, each in self.intervals.items()},
            "slices": {
                MODEL: [asdict(row) for row in self.slices],
                BASELINE: [asdict(row) for row in self.baseline_slices],
            },
            "calibration_curve": {
                name: {column: values.tolist() for column, values in vars(curve).items()}
                for name, curve in self.curves.items()
            },
        }
        text = json.dumps(json_safe(document), indent=1, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")


def evaluate_heldout(
    heldout: HeldOutPredictions, slices: Sequence[Slice], seed: int = 0
) -> ModelQuality:
    """Compute all figures; the same seed and impressions give the same.

    Raises:
        InputError: a slice has another number of impressions.
    """
    label, user = heldout.label, heldout.user
    scores = {MODEL: heldout.model, BASELINE: heldout.baseline}
    drawn = resample_users(label, scores, user, seed=seed)
    intervals = {
        f"{name}.{figure}": each
        for name, draws in drawn.items()
        for figure, each in draws.intervals().items()
    }
    # AUCs and their difference have standard errors, which are exact and cheaper than draws.
    codes = np.unique(user, return_inverse=True)[1]
    for name, scores_of in scores.items():
        error = auc_error(label, scores_of, codes)
        intervals[f"{name}.auc"] = normal_interval(auc(label, scores_of), error)
    gained = auc(label, heldout.model) - auc(label, heldout.baseline)
    error = auc_difference_error(label, heldout.model, heldout.baseline, codes)
    intervals[GAIN] = gain = normal_interval(gained, error)
    figures = {
        "rig": relative_information_gain(label, heldout.model),
        "ece": expected_calibration_error(label, heldout.model),
        "gauc": grouped_auc(label, heldout.model, user),
        "auc_low": intervals[f"{MODEL}.auc"].low,
        "auc_high": intervals[f"{MODEL}.auc"].high,
        GAIN: gained,
        f"{GAIN}_low": gain.low,
        f"{GAIN}_high": gain.high,
    }
    return ModelQuality(
        figures=figures,
        intervals=intervals,
        slices=slice_table(label, heldout.model, user, slices, seed=seed),
        # Intervals of the baseline's slices are not shown: without draws it takes no time.
        baseline_slices=slice_table(label, heldout.baseline, user, slices, resamples=0),
        curves={name: calibration_curve(label, each) for name, each in scores.items()},
    )
