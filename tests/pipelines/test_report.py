"""A day's figures come from what its stages committed, and are written as valid JSON."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score
from tiny_days import DAYS, publish

from pipelines.stages.report import (
    best_possible,
    day_report,
    days_with_artifacts,
    figures_of,
    report_json,
)
from pipelines.store.artifacts import Store
from pipelines.tracking.journal import TrackingJournal
from simulator.impressions import logged_share
from simulator.log import simulate_day
from simulator.settings import SimulatorSettings
from simulator.truth import true_probability

PROMISED = [
    "date",
    "rows",
    "auc_progressive",
    "auc",
    "auc_exported",
    "log_loss",
    "calibration",
    "auc_lr_baseline",
    "rows_in_table",
    "keys_seen",
    "zero_rows",
    "bytes_trained",
    "bytes_exported",
    "parity_max_abs_diff",
    "verdict",
    "run_id",
]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def publish_day(store, day=DAYS[0]):
    publish(store, "impressions", day, rows_kept=90, rows_quarantined=10, rows_in=100)
    publish(
        store,
        "checkpoint",
        day,
        auc=0.71,
        auc_progressive=math.nan,
        log_loss=0.3,
        rows_in_table=50,
        keys_seen=80,
    )
    publish(store, "export", day, bytes_exported=1234)
    publish(
        store,
        "validation_report",
        day,
        auc_exported=0.7099,
        parity_max_abs_diff=1e-8,
        verdict="refused",
        p99_ms=4.5,
    )
    publish(store, "promotion", day, promoted=False, model_version=None)


def test_every_figure_comes_from_its_artifact(store):
    publish_day(store)
    TrackingJournal(store.workspace).remember_run("2026-01-01", "run7")
    expected = {
        "date": "2026-01-01",
        "rows": 90,
        "rows_quarantined": 10,
        "auc": 0.71,
        "auc_exported": 0.7099,
        "log_loss": 0.3,
        "rows_in_table": 50,
        "keys_seen": 80,
        "bytes_exported": 1234,
        "parity_max_abs_diff": 1e-8,
        "p99_ms": 4.5,
        "verdict": "refused",
        "promoted": False,
        "run_id": "run7",
    }
    report = day_report(store, DAYS[0])
    assert {k: report[k] for k in expected} == expected
    assert report["seconds"] == dict.fromkeys(
        ["impressions", "checkpoint", "export", "validation_report", "promotion"], 0.5
    )


def test_the_promised_keys_are_there_before_anything_ran(store):
    report = day_report(store, DAYS[0])
    assert set(PROMISED) <= set(report)
    assert {k: v for k, v in report.items() if v} == {"date": "2026-01-01"}


def test_a_day_reports_nothing_of_another(store):
    publish_day(store)
    assert day_report(store, DAYS[1])["rows"] is None


def test_the_current_version_is_reported(store):
    publish(store, "impressions", DAYS[0], "old", rows_kept=1)
    publish(store, "impressions", DAYS[0], "new", rows_kept=2)
    assert day_report(store, DAYS[0])["rows"] == 2
    store.point("impressions", DAYS[0], "old")
    assert day_report(store, DAYS[0])["rows"] == 1


def refuse(text):
    raise AssertionError(f"{text} is not JSON")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_has_no_number_for_is_null(value):
    text = report_json({"auc": value, "rows": 3, "verdict": "nan"})
    assert json.loads(text, parse_constant=refuse) == {"auc": None, "rows": 3, "verdict": "nan"}


def test_a_report_with_a_nan_is_json(store):
    publish_day(store)
    read = json.loads(report_json(day_report(store, DAYS[0])), parse_constant=refuse)
    assert (read["auc_progressive"], read["auc"]) == (None, 0.71)


def test_figures_are_numbers_only():
    assert figures_of(
        {
            "auc": 0.7,
            "rows": 3,
            "promoted": True,
            "verdict": "blessed",
            "run_id": None,
            "seconds": {"a": 1},
        }
    ) == {"auc": 0.7, "rows": 3.0, "promoted": 1.0}


def test_days_with_any_artifact_ascend(store):
    publish(store, "export", DAYS[3])
    publish(store, "impressions", DAYS[1])
    publish(store, "export", DAYS[1])
    assert list(days_with_artifacts(store)) == [DAYS[1], DAYS[3]]


@pytest.mark.parametrize("delay", [0.0, 40_000.0])
def test_the_best_possible_figures_are_of_the_clicks_in_the_log(store, delay):
    """With late clicks the last impressions of a day have few, which no model can ignore."""
    settings = SimulatorSettings(impressions_per_day=20_000, click_delay_s=delay, base_ctr=0.3)
    (file,) = simulate_day(settings, DAYS[0], store.workspace / "logs").files
    table = pq.read_table(file)
    versions = {each: publish(store, each, DAYS[0]) for each in ("impressions", "checkpoint")}
    (versions["impressions"].path / "impressions").mkdir()
    pq.write_table(table, versions["impressions"].path / "impressions" / "part.parquet")
    label = table.select(["click"]).rename_columns(["label"])
    pq.write_table(label, versions["checkpoint"].path / "heldout.parquet")
    eventual = true_probability(settings, table)
    truth = eventual * logged_share(settings, table["timestamp_ms"].to_numpy())
    click = label["label"].to_numpy()
    found = best_possible(store, versions)
    assert found["auc_possible"] == pytest.approx(roc_auc_score(click, truth), abs=1e-9)
    losses = [-np.where(click, np.log(each), np.log1p(-each)).mean() for each in (truth, eventual)]
    assert found["log_loss_possible"] == pytest.approx(losses[0], abs=1e-6)
    assert (losses[0] < losses[1] - 0.01) == bool(delay)
