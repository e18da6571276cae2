"""The whole chain on simulated days, as a user runs it."""

import json
import time
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score
from worlds import FIRST, LAST, copy_world

from pipelines.config import load_config
from pipelines.stages.registry import artifacts
from simulator.truth import true_probability

pytestmark = pytest.mark.slow
DAYS = [date(2026, 1, d) for d in (1, 2, 3)]
KEYS = [
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


def figures(world, day):
    return json.loads(world.run("report", "--date", str(day), "--json").stdout)


@pytest.mark.covers("infrastructure-3")
def test_every_stage_of_every_day_is_committed_and_intact(world):
    for day in DAYS:
        for artifact in artifacts():
            world.store.current(artifact, day).verify()


def test_the_report_has_its_keys_and_the_numbers_hang_together(world):
    first, last = figures(world, DAYS[0]), figures(world, DAYS[2])
    assert set(KEYS) <= set(first)
    assert first["auc_progressive"] is None
    assert last["auc_progressive"] > 0.52
    assert last["rows"] == 4000
    assert last["auc_exported"] == pytest.approx(last["auc"], abs=1e-6)
    assert last["parity_max_abs_diff"] <= 1e-6
    assert last["keys_seen"] > first["keys_seen"]
    assert last["bytes_exported"] < last["bytes_trained"]
    assert last["run_id"]


def test_the_report_of_a_simulated_log_says_what_the_best_model_would_reach(world):
    report = figures(world, DAYS[2])
    checkpoint = world.store.current("checkpoint", DAYS[2])
    heldout = pd.read_parquet(checkpoint.path / "heldout.parquet")
    # Straight from the log, by the records' ids: the report takes the last impressions.
    log = pd.read_parquet(world.workspace / "logs" / f"dt={DAYS[2]}")
    log = log.sort_values(["timestamp_ms"]).tail(len(heldout))
    assert log["click"].sum() == heldout["label"].sum()
    settings = load_config(world.config, [], world.workspace).simulator
    truth = true_probability(settings, pa.Table.from_pandas(log, preserve_index=False))
    assert report["auc_possible"] == pytest.approx(roc_auc_score(log["click"], truth), abs=1e-9)
    assert report["auc_possible"] > report["auc"]
    assert report["log_loss_possible"] < report["log_loss"]


def test_rows_in_are_rows_kept_and_quarantined(world):
    for day in DAYS:
        counts = world.store.current("impressions", day).metrics
        assert counts["rows_in"] == counts["rows_kept"] + counts["rows_quarantined"]


def test_a_second_run_does_nothing_and_says_so_in_seconds(world):
    before = {
        v.path: v.manifest.stat().st_mtime_ns
        for a in artifacts()
        for v in world.store.before(a, date.max)
    }
    started = time.monotonic()
    done = world.run("run", "--config", str(world.config), "--from", FIRST, "--to", LAST)
    assert time.monotonic() - started < 60
    assert "nothing to do" in done.stdout
    assert before == {
        v.path: v.manifest.stat().st_mtime_ns
        for a in artifacts()
        for v in world.store.before(a, date.max)
    }


@pytest.mark.covers("H15", "F12")
def test_late_rows_are_found_by_check_and_only_their_day_is_repaired(world, tmp_path):
    """Rows of the last day arrive later; nothing said that its model was made without them."""
    days = ("--config", "{}", "--from", FIRST, "--to", LAST)

    def run(where, command, *more, code=0):
        return where.run(command, *(d.format(where.config) for d in days), *more, code=code).stdout

    run(world, "check")
    late = copy_world(world, tmp_path, {})
    file = late.workspace / "logs" / f"dt={LAST}" / "part-00000.parquet"
    pd.read_parquet(file).tail(3900).to_parquet(file)
    run(late, "check", code=11)
    said = run(late, "run", "--repair")
    assert f"{LAST} train: impressions of {LAST} changed since" in said
    run(late, "check")
    before, after = (
        [where.store.current("checkpoint", day).hash for day in DAYS] for where in (world, late)
    )
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, True, False]
    assert "nothing to repair" in run(late, "run", "--repair")


def test_training_reads_nothing_of_its_own_day_or_later(world):
    inputs = world.store.current("checkpoint", DAYS[2]).commit["inputs"]
    assert inputs["checkpoint"]["day"] == str(DAYS[1])
    assert inputs["statistics"]["day"] == str(DAYS[1])
    graph = world.store.current("cross_graph", DAYS[2]).commit["inputs"]
    assert {entry["day"] for entry in graph.values()} == {str(DAYS[0]), str(DAYS[1])}


def test_the_champion_scores_raw_rows(world, tmp_path):
    log = world.workspace / "logs" / f"dt={DAYS[2]}" / "part-00000.parquet"
    rows = pd.read_parquet(log).head(200)
    rows.to_parquet(tmp_path / "rows.parquet")
    out = tmp_path / "scored.csv"
    world.run(
        "predict",
        "--config",
        str(world.config),
        "--input",
        str(tmp_path / "rows.parquet"),
        "--output",
        str(out),
    )
    scored = pd.read_csv(out)
    assert len(scored) == 200
    assert scored["probability"].between(0, 1).all()
    assert np.corrcoef(scored["probability"], rows["click"].astype(float))[0, 1] > 0


def test_the_champions_lift_is_told_with_its_truth(world, tmp_path):
    config = ("--config", str(world.config))
    done = world.run("lift", *config, "--visits", "4000", "--out", str(tmp_path), "--json")
    found = json.loads(done.stdout)
    assert set(found["visits"]) == {
        "random",
        "logistic regression",
        "boosted trees",
        "fusion",
        "elastic",
    }
    assert sum(found["visits"].values()) == 4000
    # The champion has learned something: it is better than chance, though not yet than the plain
    # models after three days of 4,000 impressions.
    assert found["true"]["elastic"]["pvctr"] > 1.1 * found["true"]["random"]["pvctr"]
    assert 0.55 < found["auc"]["elastic"] < found["auc"]["true probabilities"]
    assert json.loads((tmp_path / "lift.json").read_text()) == found
    assert (tmp_path / "lift.png").stat().st_size > 10_000


def test_one_mlflow_parent_a_day_with_a_child_a_stage(world):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{world.workspace}/mlflow.db")
    experiment = client.get_experiment_by_name("elastic-ctr")
    runs = client.search_runs([experiment.experiment_id])
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    *parents, whole = sorted(parents, key=lambda r: r.info.run_name)
    assert [r.info.run_name for r in parents] == [str(d) for d in DAYS]
    history = client.get_metric_history(whole.info.run_id, "train/auc")
    assert len({point.step for point in history}) == len(DAYS)
    for parent in parents:
        children = {
            r.info.run_name
            for r in runs
            if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id
        }
        assert {"ingest", "train", "validate-model", "promote", "monitor"} <= children
        assert "train/auc" in parent.data.metrics
    champion = client.get_model_version_by_alias("ctr", "champion")
    assert champion.tags["elastic_ctr.day"] in {str(d) for d in DAYS}


def test_status_and_lineage_can_be_read(world):
    assert "01-02" in world.run("status").stdout
    tree = json.loads(world.run("lineage", "--artifact", "export", "--date", str(DAYS[2])).stdout)
    checkpoint = tree["made_from"]["compressed"]["made_from"]["checkpoint"]
    assert checkpoint["made_from"]["checkpoint"]["day"] == str(DAYS[1])
