"""The verdict on held-out impressions: figures, the file, the pictures."""

import json
import math
import warnings

import numpy as np
import pytest
from matplotlib.image import imread

from training.evaluation.metrics import (
    Slice,
    auc,
    auc_error,
    calibration_curve,
    everything,
    expected_calibration_error,
    grouped_auc,
    normal_interval,
    relative_information_gain,
    resample_users,
    slice_table,
)
from training.evaluation.plots import plot_calibration, plot_slices
from training.evaluation.quality import HeldOutPredictions, evaluate_heldout

NONE = np.zeros(0, np.float32)


def simulated(rows=600, users=40):
    draw = np.random.default_rng(4)
    user, signal = draw.integers(users, size=rows), draw.normal(size=rows)
    label = (draw.random(rows) < 1 / (1 + np.exp(-signal))).astype(np.float32)
    model = 1 / (1 + np.exp(-signal - draw.normal(size=rows) / 3))
    baseline = 1 / (1 + np.exp(-signal / 2 - draw.normal(size=rows)))
    return HeldOutPredictions(label, model.astype(np.float32), baseline.astype(np.float32), user)


@pytest.fixture(scope="module")
def heldout():
    return simulated()


@pytest.fixture(scope="module")
def parts(heldout):
    return [everything(600), Slice("few", np.arange(600) < 7), Slice("none", np.zeros(600, bool))]


@pytest.fixture(scope="module")
def quality(heldout, parts):
    return evaluate_heldout(heldout, parts)


def test_figures_are_the_metrics_of_the_model(heldout, quality):
    label, model, figures = heldout.label, heldout.model, quality.figures
    assert figures["rig"] == relative_information_gain(label, model)
    assert figures["ece"] == expected_calibration_error(label, model)
    assert figures["gauc"] == grouped_auc(label, model, heldout.user)
    assert figures["auc_gain_over_baseline"] == auc(label, model) - auc(label, heldout.baseline)


def test_intervals_hold_their_figures_and_are_by_user(heldout, quality):
    figures = quality.figures
    assert figures["auc_low"] < auc(heldout.label, heldout.model) < figures["auc_high"]
    gain = "auc_gain_over_baseline"
    assert 0 < figures[f"{gain}_low"] < figures[gain] < figures[f"{gain}_high"]
    own = resample_users(heldout.label, {"m": heldout.model}, heldout.user)["m"].intervals()
    del own["auc"]
    assert {
        f"model.{name}": found for name, found in own.items()
    }.items() <= quality.intervals.items()
    error = auc_error(heldout.label, heldout.model, heldout.user)
    figure = auc(heldout.label, heldout.model)
    assert quality.intervals["model.auc"] == normal_interval(figure, error)


def test_a_model_gains_nothing_over_itself(heldout):
    figures = evaluate_heldout(
        HeldOutPredictions(heldout.label, heldout.model, heldout.model, heldout.user), []
    ).figures
    assert [figures[f"auc_gain_over_baseline{end}"] for end in ("", "_low", "_high")] == [0, 0, 0]


@pytest.mark.covers("model-6")
def test_slices_are_those_of_both(heldout, parts, quality):
    own = slice_table(heldout.label, heldout.model, heldout.user, parts)
    assert repr(quality.slices) == repr(own)  # NaN does not equal itself
    assert [row.name for row in quality.baseline_slices] == ["all", "few", "none"]
    assert quality.baseline_slices[0].auc == auc(heldout.label, heldout.baseline)


def test_the_file_holds_everything_and_is_strict_json(heldout, quality, tmp_path):
    quality.write(tmp_path / "quality.json")
    document = json.loads((tmp_path / "quality.json").read_text(), parse_constant=pytest.fail)
    assert set(document) == {"level", "resamples", "intervals", "slices", "calibration_curve"}
    assert (document["level"], document["resamples"]) == (0.95, 200)
    assert document["intervals"]["model.auc"] == {
        "low": quality.figures["auc_low"],
        "high": quality.figures["auc_high"],
    }
    rows = document["slices"]["model"]
    assert [row["rows"] for row in rows] == [600, 7, 0]
    assert rows[2]["log_loss"] is None
    curve = calibration_curve(heldout.label, heldout.baseline)
    assert document["calibration_curve"]["baseline"]["observed"] == curve.observed.tolist()


def test_the_seed_decides(heldout, parts, quality, tmp_path):
    for name, found in {
        "a": quality,
        "b": evaluate_heldout(heldout, parts),
        "c": evaluate_heldout(heldout, parts, seed=1),
    }.items():
        found.write(tmp_path / name)
    first, again, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == again
    assert first != other


DEGENERATE = {
    "no rows": HeldOutPredictions(NONE, NONE, NONE, NONE.astype(np.int64)),
    "no click": HeldOutPredictions(
        np.zeros(3, np.float32), *np.full((2, 3), 0.2, np.float32), np.arange(3)
    ),
    "one user": HeldOutPredictions(
        np.array([0, 1], np.float32), *np.full((2, 2), 0.5, np.float32), np.zeros(2, np.int64)
    ),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_impressions_give_nan_and_pictures_without_warnings(case, tmp_path):
    heldout = DEGENERATE[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate_heldout(heldout, [everything(len(heldout.label))])
        found.write(tmp_path / "quality.json")
        plot_calibration(found.curves, tmp_path / "calibration.png")
        plot_slices(found.slices, found.baseline_slices, tmp_path / "slices.png")
    assert all(
        math.isnan(found.figures[name])
        for name in ("auc_low", "auc_high", "auc_gain_over_baseline_low")
    )
    assert imread(tmp_path / "calibration.png").std() > 0.01


def inked(path):
    """Share of pixels that are not white."""
    return float((imread(path)[..., :3].min(axis=-1) < 0.99).mean())


def test_pictures_are_drawn_into_folders_that_they_make(quality, tmp_path):
    drawn = [
        plot_calibration(quality.curves, tmp_path / "plots" / "calibration.png"),
        plot_slices(quality.slices, quality.baseline_slices, tmp_path / "plots" / "slices.png"),
    ]
    assert [path.name for path in drawn] == ["calibration.png", "slices.png"]
    assert all(0.02 < inked(path) < 0.5 for path in drawn)


def test_pictures_are_the_same_bytes_each_time(quality, tmp_path):
    first, again = (
        plot_slices(quality.slices, quality.baseline_slices, tmp_path / f"{name}.png").read_bytes()
        for name in "ab"
    )
    assert first == again


def test_more_slices_make_a_higher_picture_up_to_forty(quality, tmp_path):
    few, many, most = (quality.slices[:1] * count for count in (3, 40, 90))
    heights = [
        imread(plot_slices(rows, rows, tmp_path / "p.png")).shape[0] for rows in (few, many, most)
    ]
    assert heights[0] < heights[1] == heights[2]
