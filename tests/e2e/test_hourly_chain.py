"""The whole chain by the hour after a day, as a user runs it: a day, then three hours of the next."""

import json

import pandas as pd
import pytest
from worlds import make_world

from features.partition import parse_partition
from pipelines.report import ARTIFACTS
from training.elastic.storage.checkpoint import read_header

pytestmark = pytest.mark.slow
DAY, HOURS = "2026-01-01", [f"2026-01-02T{hour:02d}" for hour in (18, 19, 20)]
CHANGES = {
    "simulator": {"impressions_per_day": 6000, "users": 800, "items": 200, "new_items_per_day": 10},
    "training": {"batch_size": 64, "eviction": {"idle_days": 1}},
    "data_gate": {"min_rows": 50},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = make_world(tmp_path_factory.mktemp("hours"), CHANGES)
    made.run("run", "--config", str(made.config), "--from", DAY, "--to", DAY)
    made.run("run", "--config", str(made.config), "--from", HOURS[0], "--to", HOURS[-1])
    return made


def version(world, artifact, when):
    return world.store.current(artifact, parse_partition(when))


def test_every_stage_of_every_hour_is_committed_in_its_folder_and_intact(world):
    for hour in HOURS:
        for artifact in ARTIFACTS:
            found = version(world, artifact, hour)
            found.verify()
            assert found.path.parent == world.workspace / artifact / "dt=2026-01-02" / f"hm={hour[-2:]}00"
    assert [str(when) for when in world.store.days("checkpoint")] == [DAY, *HOURS]


def test_an_hour_warm_starts_from_the_day_and_the_next_from_the_hour_before(world):
    for before, hour in zip([DAY, *HOURS], HOURS, strict=False):
        read = version(world, "checkpoint", hour).commit["inputs"]
        found = {name: read[name]["day"] for name in ("checkpoint", "previous_impressions", "statistics", "impressions")}
        assert found == {"checkpoint": before, "previous_impressions": before, "statistics": before, "impressions": hour}
    steps = [json.loads((version(world, "checkpoint", when).path / "model.json").read_text())["step"] for when in (DAY, *HOURS)]
    assert steps == sorted(set(steps))
    tables = [read_header(version(world, "checkpoint", when).path / "table") for when in (DAY, *HOURS)]
    assert [len(table.days) for table in tables] == [2, 3, 3, 3]  # the hours are of one day


def test_rows_are_those_of_the_log_in_that_hour_and_add_up(world):
    log = pd.read_parquet(world.workspace / "logs" / "dt=2026-01-02" / "part-00000.parquet")
    hour_of = pd.to_datetime(log.timestamp_ms, unit="ms").dt.hour
    for hour in HOURS:
        found = version(world, "impressions", hour)
        counts = found.metrics
        assert counts["rows_in"] == counts["rows_kept"] + counts["rows_quarantined"] == (hour_of == int(hour[-2:])).sum() > 100
        kept = pd.read_parquet(found.path / "impressions")
        assert sorted(kept.timestamp_ms) == sorted(log.timestamp_ms[hour_of == int(hour[-2:])])


def test_the_report_of_an_hour_has_its_figures_and_its_mlflow_run(world):
    figures = json.loads(world.run("report", "--date", HOURS[2], "--json").stdout)
    assert figures["date"] == HOURS[2]
    assert figures["auc_progressive"] is not None
    assert figures["auc_exported"] == pytest.approx(figures["auc"], abs=1e-6)
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{world.workspace}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("elastic-ctr").experiment_id])
    parents = {run.info.run_name: run.info.run_id for run in runs if "mlflow.parentRunId" not in run.data.tags}
    assert sorted(parents) == [DAY, *HOURS]
    assert figures["run_id"] == parents[HOURS[2]]


def test_statistics_of_an_hour_are_of_the_day_and_the_hours_before_it_and_its_own(world):
    rows = sum(version(world, "impressions", when).metrics["rows_kept"] for when in HOURS)
    rows += version(world, "impressions", DAY).metrics["rows_kept"]
    assert version(world, "feature_statistics", HOURS[2]).metrics["impressions"] == rows
    graph = version(world, "cross_graph", HOURS[2]).commit["inputs"]
    assert {entry["day"] for entry in graph.values()} == {DAY, *HOURS[:2]}


def test_a_second_run_does_nothing(world):
    done = world.run("run", "--config", str(world.config), "--from", HOURS[0], "--to", HOURS[-1])
    assert "nothing to do" in done.stdout
