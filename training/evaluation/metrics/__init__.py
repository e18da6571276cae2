"""How good a list of click probabilities is. A figure that is undefined on the data is NaN, never an error."""

from training.evaluation.metrics.bootstrap import Interval, Resamples, interval, resample_users
from training.evaluation.metrics.probability import (
    CalibrationCurve,
    calibration,
    calibration_curve,
    expected_calibration_error,
    log_loss,
    log_losses,
    relative_information_gain,
    wilson_interval,
)
from training.evaluation.metrics.ranking import (
    Ranking,
    auc,
    auc_by_group,
    auc_within,
    grouped_auc,
    weighted_auc,
)
from training.evaluation.metrics.slices import Slice, SliceFigures, everything, slice_table

__all__ = [
    "CalibrationCurve",
    "Interval",
    "Ranking",
    "Resamples",
    "Slice",
    "SliceFigures",
    "auc",
    "auc_by_group",
    "auc_within",
    "calibration",
    "calibration_curve",
    "everything",
    "expected_calibration_error",
    "grouped_auc",
    "interval",
    "log_loss",
    "log_losses",
    "relative_information_gain",
    "resample_users",
    "slice_table",
    "weighted_auc",
    "wilson_interval",
]
