"""A candidate from end to end: held-out slice, export, champion, verdict and plots."""

import json

import numpy as np
import pytest
from awkward_day import HELDOUT, SCHEMA

from compression.export.write import export
from compression.pruning import compress
from compression.settings import CompressionSettings
from training.evaluation.metrics import auc
from validation.model.check import Candidate, check_model, read_heldout, score_compressed
from validation.model.gates import SAME_HOURS
from validation.model.hours import HOURS, HourSums
from validation.settings import ModelGateSettings


@pytest.fixture(scope="session")
def judged(judged_checkpoint, partition, exported, compressed, fresh_process, tmp_path_factory):
    """The candidate, with its own compressed form for a champion."""
    out = tmp_path_factory.mktemp("report")
    candidate = Candidate(partition, judged_checkpoint, exported[0], compressed)
    return out, check_model(candidate, SCHEMA, ModelGateSettings(max_p99_ms=60_000), out)


def test_a_good_candidate_is_blessed(judged):
    out, figures = judged
    document = json.loads((out / "verdict.json").read_text())
    assert document["verdict"] == figures["verdict"] == "blessed"
    assert document["reasons"] == []
    assert "0 of 5 earlier days" in document["notes"][0]
    assert figures["parity_max_abs_diff"] <= 1e-6
    assert figures["auc_exported"] == pytest.approx(figures["auc"], abs=1e-3)
    assert figures["auc_exported"] > 0.6 > figures["auc_baseline"] == 0.5


def test_the_champion_is_scored_on_the_same_impressions(
    judged, judged_checkpoint, compressed, partition
):
    heldout = read_heldout(judged_checkpoint / "heldout.parquet")
    champion = score_compressed(compressed, partition, heldout)
    np.testing.assert_array_equal(champion, heldout.model)
    assert judged[1]["lift_auc_vs_champion"] == pytest.approx(0, abs=1e-3)


def test_the_report_holds_answers_costs_and_pictures(judged, judged_checkpoint):
    out, figures = judged
    heldout = read_heldout(judged_checkpoint / "heldout.parquet")
    np.testing.assert_allclose(
        np.load(out / "predictions.npy", allow_pickle=False), heldout.model, atol=1e-6
    )
    assert json.loads((out / "serving.json").read_text())["rows"]["512"] == HELDOUT
    assert {p.name for p in (out / "plots").iterdir()} >= {
        "calibration.png",
        "roc.png",
        "scores.png",
    }
    assert figures["bytes_exported"] == sum(
        p.stat().st_size for p in out.parent.glob("export0/**/*") if p.is_file()
    )


@pytest.mark.covers("audit-M7")
def test_calibration_by_hour_is_kept_and_compared(
    judged, judged_checkpoint, partition, exported, tmp_path
):
    """Reports of earlier days in which the model predicted half as much refuse the candidate."""
    written = json.loads((judged[0] / HOURS).read_text())
    heldout = read_heldout(judged_checkpoint / "heldout.parquet")
    predicted = np.load(judged[0] / "predictions.npy", allow_pickle=False)
    kept = [each for each in written["hours"] if each["heldout"]]
    assert written["comparable"]
    assert sum(each["rows"] for each in kept) == HELDOUT
    assert sum(each["clicks"] for each in kept) == heldout.label.sum()
    assert sum(each["predicted"] for each in kept) == pytest.approx(predicted.sum())

    earlier = [tmp_path / str(n) for n in range(6)]
    for number, folder in enumerate(earlier):
        folder.mkdir()
        scaled = [
            each | {name: each[name] * 1_000 for name in ("rows", "clicks")}
            | {"predicted": each["predicted"] * (500 + number)}
            for each in written["hours"]
        ]  # fmt: skip
        (folder / HOURS).write_text(json.dumps(written | {"hours": scaled}))
    (tmp_path / "older report").mkdir()
    out = tmp_path / "report"
    out.mkdir()
    settings = ModelGateSettings(max_p99_ms=60_000, max_calibration_standard_errors=0.1)
    candidate = Candidate(
        partition,
        judged_checkpoint,
        exported[0],
        None,
        earlier=[*earlier, tmp_path / "older report"],
    )
    figures = check_model(candidate, SCHEMA, settings, out)
    assert figures["verdict"] == "refused"
    verdict = json.loads((out / "verdict.json").read_text())
    assert [each["name"] for each in verdict["checks"] if not each["passed"]] == [SAME_HOURS]
    assert verdict["metrics"]["same_hours"]["days"] == 6
    # What was refused for its calibration is no yardstick for later days.
    assert HourSums.read(out / HOURS) is None


STEPS = [
    {"kind": "drop_fields", "fields": ["price"]},
    {"kind": "prune_rows", "keep": 0.8},
    {"kind": "quantize", "form": "int4"},
]


@pytest.fixture(scope="module")
def lossy(judged_checkpoint, tmp_path_factory):
    """The candidate compressed with loss, and its export."""
    made, served = tmp_path_factory.mktemp("lossy"), tmp_path_factory.mktemp("lossy_export")
    compress(judged_checkpoint, CompressionSettings.model_validate({"steps": STEPS}), made)
    export(made, served)
    return made, served


def test_a_lossy_candidate_is_held_against_the_trained_one(
    lossy, judged_checkpoint, partition, warm_serving, tmp_path
):
    settings = ModelGateSettings(max_p99_ms=60_000, max_auc_drop_by_compression=0.5)
    figures = check_model(
        Candidate(partition, judged_checkpoint, lossy[1], None, lossy[0]),
        SCHEMA,
        settings,
        tmp_path,
    )
    heldout = read_heldout(judged_checkpoint / "heldout.parquet")
    half, label = heldout.reported, heldout.label
    assert 0.3 < half.mean() < 0.7
    compressed = score_compressed(lossy[0], partition, heldout)
    assert figures["parity_max_abs_diff"] <= 1e-6 < np.abs(compressed - heldout.model).max()
    assert figures["auc_compressed"] == pytest.approx(auc(heldout.label, compressed))
    checks = {
        check["name"]: check
        for check in json.loads((tmp_path / "verdict.json").read_text())["checks"]
    }
    # On the half of the users that did not choose the steps.
    assert checks["auc_minus_trained"]["value"] == pytest.approx(
        auc(label[half], compressed[half]) - auc(label[half], heldout.model[half])
    )
    assert abs(checks["auc_minus_trained"]["value"]) > 1e-6
    assert figures["verdict"] == "blessed"


@pytest.mark.covers("F26")
def test_a_champion_that_differs_is_scored_and_met(
    lossy, compressed, judged_checkpoint, partition, warm_serving, tmp_path
):
    """The gate refuses a candidate that is worse than the champion by more than chance."""
    settings = ModelGateSettings(
        max_p99_ms=60_000, max_auc_drop_by_compression=0.5, max_auc_drop_to_champion=1e-6
    )
    candidate = Candidate(partition, judged_checkpoint, lossy[1], compressed, lossy[0])
    figures = check_model(candidate, SCHEMA, settings, tmp_path)
    heldout = read_heldout(judged_checkpoint / "heldout.parquet")
    champion = score_compressed(compressed, partition, heldout)
    assert figures["auc_champion"] == auc(heldout.label, champion)
    assert figures["lift_auc_vs_champion"] < -1e-6
    assert figures["verdict"] == "refused"


@pytest.mark.covers("F28")
def test_an_export_of_something_else_is_unsound(
    lossy, judged_checkpoint, partition, exported, warm_serving, tmp_path
):
    (tmp_path / "small").mkdir()
    steps = CompressionSettings.model_validate({"steps": STEPS[1:]})
    compress(judged_checkpoint, steps, tmp_path / "small")
    candidate = Candidate(partition, judged_checkpoint, exported[0], None, tmp_path / "small")
    settings = ModelGateSettings(max_p99_ms=60_000, max_auc_drop_by_compression=0.5)
    assert check_model(candidate, SCHEMA, settings, tmp_path)["verdict"] == "unsound"


def test_a_tolerance_above_zero_is_a_lossy_step_too(
    judged_checkpoint, partition, warm_serving, tmp_path
):
    for name in ("small", "export", "report"):
        (tmp_path / name).mkdir()
    compress(judged_checkpoint, CompressionSettings(zero_tolerance=0.15), tmp_path / "small")
    export(tmp_path / "small", tmp_path / "export")
    candidate = Candidate(
        partition, judged_checkpoint, tmp_path / "export", None, tmp_path / "small"
    )
    settings = ModelGateSettings(max_p99_ms=60_000, max_auc_drop_by_compression=0.5)
    figures = check_model(candidate, SCHEMA, settings, tmp_path / "report")
    assert figures["verdict"] == "blessed"
    assert figures["auc_compressed"] != figures["auc"]
