"""The whole chain by the hour, as a user runs it: three days, then three hours of the next."""

import json

import pandas as pd
import pytest
from worlds import copy_world

from elastic_embeddings.storage.checkpoint import read_header
from features.partition import parse_partition
from pipelines.stages.registry import artifacts

pytestmark = pytest.mark.slow
DAYS = [f"2026-01-0{day}" for day in (1, 2, 3)]
DAY, HOURS = DAYS[-1], [f"2026-01-04T{hour:02d}" for hour in (18, 19, 20)]
CHANGES = {
    "training": {"batch_size": 64, "eviction": {"idle_days": 1}},
    "data_gate": {"min_rows": 50},
}


@pytest.fixture(scope="module")
def hourly(world, tmp_path_factory):
    """A copy of the small world, continued by the hour."""
    made = copy_world(world, tmp_path_factory.mktemp("hours"), CHANGES)
    made.run("run", "--config", str(made.config), "--from", HOURS[0], "--to", HOURS[-1])
    return made


def version(world, artifact, when):
    return world.store.current(artifact, parse_partition(when))


def test_every_stage_of_every_hour_is_committed_in_its_folder_and_intact(hourly):
    for hour in HOURS:
        for artifact in artifacts():
            found = version(hourly, artifact, hour)
            found.verify()
            assert (
                found.path.parent
                == hourly.workspace / artifact / "dt=2026-01-04" / f"hm={hour[-2:]}00"
            )
    assert [str(when) for when in hourly.store.days("checkpoint")] == [*DAYS, *HOURS]


def test_an_hour_warm_starts_from_the_day_and_the_next_from_the_hour_before(hourly):
    for before, hour in zip([DAY, *HOURS], HOURS, strict=False):
        read = version(hourly, "checkpoint", hour).commit["inputs"]
        found = {
            name: read[name]["day"]
            for name in ("checkpoint", "previous_impressions", "statistics", "impressions")
        }
        assert found == {
            "checkpoint": before,
            "previous_impressions": before,
            "statistics": before,
            "impressions": hour,
        }
    steps = [
        json.loads((version(hourly, "checkpoint", when).path / "model.json").read_text())["step"]
        for when in (DAY, *HOURS)
    ]
    assert steps == sorted(set(steps))
    tables = [
        read_header(version(hourly, "checkpoint", when).path / "table") for when in (DAY, *HOURS)
    ]
    assert [len(table.days) for table in tables] == [4, 5, 5, 5]  # the hours are of one day


def test_rows_are_those_of_the_log_in_that_hour_and_add_up(hourly):
    log = pd.read_parquet(hourly.workspace / "logs" / "dt=2026-01-04" / "part-00000.parquet")
    hour_of = pd.to_datetime(log.timestamp_ms, unit="ms").dt.hour
    for hour in HOURS:
        found = version(hourly, "impressions", hour)
        counts = found.metrics
        assert (
            counts["rows_in"]
            == counts["rows_kept"] + counts["rows_quarantined"]
            == (hour_of == int(hour[-2:])).sum()
            > 100
        )
        kept = pd.read_parquet(found.path / "impressions")
        assert sorted(kept.timestamp_ms) == sorted(log.timestamp_ms[hour_of == int(hour[-2:])])


def test_the_report_of_an_hour_has_its_figures_and_its_mlflow_run(hourly):
    figures = json.loads(hourly.run("report", "--date", HOURS[2], "--json").stdout)
    assert figures["date"] == HOURS[2]
    assert figures["auc_progressive"] is not None
    assert figures["auc_exported"] == pytest.approx(figures["auc"], abs=1e-6)
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{hourly.workspace}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("elastic-ctr").experiment_id])
    parents = {
        run.info.run_name: run.info.run_id
        for run in runs
        if "mlflow.parentRunId" not in run.data.tags
    }
    assert sorted(parents) == [*DAYS, *HOURS, "simulated: all days"]
    assert figures["run_id"] == parents[HOURS[2]]


def test_statistics_of_an_hour_are_of_the_day_and_the_hours_before_it_and_its_own(hourly):
    rows = sum(version(hourly, "impressions", when).metrics["rows_kept"] for when in HOURS)
    rows += sum(version(hourly, "impressions", day).metrics["rows_kept"] for day in DAYS)
    assert version(hourly, "feature_statistics", HOURS[2]).metrics["impressions"] == rows
    graph = version(hourly, "cross_graph", HOURS[2]).commit["inputs"]
    assert {entry["day"] for entry in graph.values()} == {*DAYS, *HOURS[:2]}


def test_a_second_run_does_nothing(hourly):
    done = hourly.run("run", "--config", str(hourly.config), "--from", HOURS[0], "--to", HOURS[-1])
    assert "nothing to do" in done.stdout
