"""A candidate judged from end to end: held-out slice, export in a fresh process, champion, verdict and pictures."""

import json

import numpy as np
import pytest
from awkward_day import HELDOUT, SCHEMA

from validation.model_check import Candidate, check_model, read_heldout, score_champion
from validation.settings import ModelGateSettings


@pytest.fixture(scope="session")
def judged(judged_checkpoint, partition, exported, compressed, tmp_path_factory):
    """The candidate, with its own compressed form for a champion."""
    out = tmp_path_factory.mktemp("report")
    candidate = Candidate(partition, judged_checkpoint, exported[0], compressed)
    return out, check_model(candidate, SCHEMA, ModelGateSettings(max_p99_ms=60_000), out)


def test_a_good_candidate_is_blessed(judged):
    out, figures = judged
    document = json.loads((out / "verdict.json").read_text())
    assert document["verdict"] == figures["verdict"] == "blessed"
    assert document["reasons"] == []
    assert figures["parity_max_abs_diff"] <= 1e-6
    assert figures["auc_exported"] == pytest.approx(figures["auc"], abs=1e-3)
    assert figures["auc_exported"] > 0.6 > figures["auc_baseline"] == 0.5


def test_the_champion_is_scored_on_the_same_impressions(judged, judged_checkpoint, compressed, partition):
    heldout = read_heldout(judged_checkpoint / "heldout.parquet")
    champion = score_champion(compressed, partition, heldout)
    np.testing.assert_array_equal(champion, heldout.model)
    assert judged[1]["lift_auc_vs_champion"] == pytest.approx(0, abs=1e-3)


def test_the_report_holds_answers_costs_and_pictures(judged, judged_checkpoint):
    out, figures = judged
    heldout = read_heldout(judged_checkpoint / "heldout.parquet")
    np.testing.assert_allclose(np.load(out / "predictions.npy", allow_pickle=False), heldout.model, atol=1e-6)
    assert json.loads((out / "serving.json").read_text())["rows"]["512"] == HELDOUT
    assert {p.name for p in (out / "plots").iterdir()} >= {"calibration.png", "roc.png", "scores.png"}
    assert figures["bytes_exported"] == sum(p.stat().st_size for p in out.parent.glob("export0/**/*") if p.is_file())
