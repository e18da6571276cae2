"""The chain's order, and the journal of what ran and what failed."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import tiny_days
import yaml
from tiny_days import DAYS, DOCUMENT, EMPTY_DAY, make_context, publish, publish_candidate

from features.errors import InputError, NoDataError, UnsoundError
from features.partition import days_between
from pipelines.stages.chain import run_day, run_stage
from pipelines.stages.registry import STAGES, artifacts, make_stage
from pipelines.stages.validate_data import ValidateData
from pipelines.tracking.journal import TrackingJournal
from pipelines.tracking.sync import RUN_KEY, Tracker

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def context(tmp_path):
    return make_context(tmp_path)


def events(context):
    journal = TrackingJournal(context.store.workspace)
    return [journal.read(path) for path in journal.pending()]


@pytest.mark.parametrize("name", STAGES)
def test_every_command_has_its_stage(name):
    assert make_stage(name).name == name


def test_the_stages_make_every_artifact_in_the_reports_order():
    assert tuple(make_stage(name).artifact for name in STAGES) == artifacts()


def test_each_stage_finds_what_it_reads_among_what_the_stages_before_it_made(context):
    facts = {
        "data_verdict": {"passed": True},
        "validation_report": {"verdict": "blessed"},
        "promotion": {"promoted": True},
    }
    for day in DAYS[:2]:
        for name in STAGES:
            stage, today = make_stage(name), replace(context, day=day)
            found = list(stage.inputs(today).values())
            assert all(v.day <= day for v in found)
            publish(
                context.store, stage.artifact, day, inputs=found, **facts.get(stage.artifact, {})
            )


def test_in_another_order_a_stage_says_what_to_run_first(context):
    for name in (
        "validate-data",
        "pretrain",
        "train",
        "compress",
        "export",
        "validate-model",
        "promote",
        "monitor",
    ):
        with pytest.raises(InputError, match="run `elastic-ctr") as caught:
            make_stage(name).inputs(context)
        asked = str(caught.value).split("`elastic-ctr ")[1].split("`")[0]
        assert list(STAGES).index(asked) < list(STAGES).index(name)


def test_the_documentation_describes_every_artifact():
    described = (REPOSITORY / "docs" / "artifacts.md").read_text(encoding="utf-8")
    headings = [line for line in described.splitlines() if line.startswith("### ")]
    for artifact in set(artifacts()) - {"data_verdict"}:
        assert any(f"`{artifact}`" in line for line in headings), artifact


def test_the_home_page_draws_the_stages_by_their_commands():
    text = (REPOSITORY / "docs" / "index.md").read_text(encoding="utf-8")
    picture = text.split("## A day")[1]
    assert [name for name in STAGES if name not in picture] == []


@pytest.mark.process
def test_naming_every_stage_loads_neither_tensorflow_nor_spark_nor_mlflow():
    code = (
        "import sys; from pipelines.stages.registry import STAGES, make_stage;"
        "[make_stage(name) for name in STAGES];"
        "heavy = {'tensorflow', 'pyspark', 'mlflow', 'great_expectations', 'airflow', 'pandas'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_a_finished_stage_is_journalled_with_its_figures_parameters_and_digest(context, tiny_chain):
    outcome = run_stage("train", context)
    (event,) = events(context)
    assert (event.pipeline, event.day, event.stage, event.status) == (
        "tiny",
        "2026-01-01",
        "train",
        "FINISHED",
    )
    assert event.version == outcome.version.hash
    assert event.started_ms <= event.ended_ms
    assert {"train/rows_kept": 7.0, "train/inputs": 0.0}.items() <= event.metrics.items()
    assert 0 <= event.metrics["system/cpu_seconds"] < 60
    assert 10 < event.metrics["system/peak_memory_mb"] < 1e5
    assert event.tags["digest.checkpoint"] == outcome.version.digest
    assert event.day_metrics == {}


def test_parameters_are_what_a_person_chose_and_all_settings_are_one_yaml(tmp_path, tiny_chain):
    fields = [{"name": f"field{n}", "kind": "categorical"} for n in range(9)]
    features = {**DOCUMENT["features"], "fields": fields}
    context = make_context(tmp_path, features=features, model={"deep": {"l21": 0.125}})
    run_stage("train", context)
    (event,) = events(context)
    assert event.params["model.deep.l21"] == "0.125"
    assert event.params["features.label"] == "click"
    # A default is no choice; a list too long for a table is told apart by its digest.
    assert "compression.zero_tolerance" not in event.params
    assert re.fullmatch("9 entries, sha256 [0-9a-f]{8}", event.params["features.fields"])
    settings = yaml.safe_load(event.settings)
    assert settings["features"]["fields"][8]["name"] == "field8"
    assert settings["compression"]["zero_tolerance"] == 0.0
    fewer = make_context(tmp_path, features={**features, "fields": fields[:8]})
    assert fewer.config != context.config
    run_stage("train", fewer)
    changed = {k for k, v in events(fewer)[1].params.items() if event.params.get(k) != v}
    assert changed == {"features.fields"}, "and model.deep.l21 is no longer chosen"


def test_what_was_there_already_is_not_journalled_again(context, tiny_chain):
    assert [run_stage("train", context).reused for _ in range(2)] == [False, True]
    assert len(events(context)) == 1


def test_files_of_a_stage_are_journalled_where_they_are(context):
    publish_candidate(context.store, DAYS[0], "refused")
    outcome = run_stage("promote", context)
    assert events(context)[0].artifacts == (str(outcome.version.path / "decision.json"),)


def test_a_failure_is_journalled_and_raised_and_waits_for_mlflow(tmp_path, mlflow_away):
    reports = []
    context = make_context(tmp_path, report=reports.append)
    with pytest.raises(InputError, match="run `elastic-ctr train`"):
        run_stage("compress", context)
    (event,) = events(context)
    assert (event.stage, event.status, event.metrics) == ("compress", "FAILED", {})
    assert event.tags["error"].startswith("InputError: no checkpoint of 2026-01-01")
    assert [line.split(":")[0] for line in reports] == ["tracking delayed"]


def test_a_verdict_that_stops_the_day_is_a_failure_too(context, mlflow_away):
    publish_candidate(context.store, DAYS[0], "unsound")
    with pytest.raises(UnsoundError):
        run_stage("promote", context)
    assert events(context)[0].tags["error"].startswith("UnsoundError: the model of 2026-01-01")


class UnsoundData(ValidateData):
    """A data check that fails."""

    reads = ()

    def run(self, context, inputs, out):
        (out / "verdict.json").write_text('{"reasons": ["no rows"]}', encoding="utf-8")
        return {"passed": False}


def test_the_report_of_unsound_data_is_journalled_with_the_failure(
    context, mlflow_away, monkeypatch
):
    # Without it the failed task would have no Data Docs in MLflow.
    monkeypatch.setitem(STAGES, "validate-data", f"{__name__}:UnsoundData")
    with pytest.raises(UnsoundError, match="no rows"):
        run_stage("validate-data", context)
    version = context.store.current("data_verdict", DAYS[0])
    assert events(context)[0].artifacts == (str(version.path / "verdict.json"),)


def test_two_failures_are_two_events(context, mlflow_away):
    for _ in range(2):
        with pytest.raises(InputError):
            run_stage("promote", context)
    assert [e.status for e in events(context)] == ["FAILED"] * 2


def test_a_day_runs_in_order_and_the_day_stops_at_a_failure(context, tiny_chain, mlflow_away):
    assert [o.stage for o in run_day(context)] == list(STAGES)
    assert all(o.reused for o in run_day(context))
    with pytest.raises(NoDataError):
        list(run_day(replace(context, day=EMPTY_DAY)))
    assert [context.store.current(a, EMPTY_DAY) for a in artifacts()] == [None] * len(artifacts())


def test_a_part_of_a_day_can_be_run(context, tiny_chain):
    assert [o.stage for o in run_day(context, ["train", "compress"])] == ["train", "compress"]


@pytest.mark.slow
def test_the_end_of_a_day_sends_its_events_to_mlflow(tmp_path, mlflow_here, tiny_chain):
    from mlflow.data import get_source

    context = make_context(tmp_path)
    tiny_days.Step_checkpoint.reads = ("impressions",)
    list(run_day(context, ["ingest", "train", "monitor"]))
    assert events(context) == []
    client = Tracker(mlflow_here, "elastic-ctr").client()
    found = client.search_runs([client.get_experiment_by_name("elastic-ctr").experiment_id])
    by_name = {run.info.run_name: run for run in found}
    assert set(by_name) == {"tiny: all days", "2026-01-01", "ingest", "train", "monitor"}
    assert by_name["2026-01-01"].data.tags[RUN_KEY] == "tiny/2026-01-01"
    assert by_name["2026-01-01"].data.metrics["ingest/rows_kept"] == 7
    # The stage read impressions: they are its dataset, and the raw log is that of `ingest`.
    impressions = context.store.current("impressions", DAYS[0])
    (read,) = by_name["train"].inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == (
        "impressions/2026-01-01",
        impressions.digest[:16],
    )
    assert read.tags[0].value == "training"
    assert get_source(read).load() == str(impressions.path)
    (log,) = by_name["ingest"].inputs.dataset_inputs
    assert log.dataset.name == "log"
    assert json.loads(log.dataset.source) == {"uri": "logs/*.csv"}
    assert TrackingJournal(mlflow_here).run_id(DAYS[0]) == by_name["2026-01-01"].info.run_id


def test_a_day_without_data_is_no_failure(tmp_path, tiny_chain):
    context = make_context(tmp_path, EMPTY_DAY)
    with pytest.raises(NoDataError, match="no file for 2026-01-02"):
        run_stage("ingest", context)
    assert events(context) == []


def test_a_failed_day_is_failed_in_mlflow(tmp_path, mlflow_here):
    with pytest.raises(InputError):
        run_stage("compress", make_context(tmp_path))
    client = Tracker(mlflow_here, "elastic-ctr").client()
    found = client.search_runs([client.get_experiment_by_name("elastic-ctr").experiment_id])
    assert {run.info.run_name: run.info.status for run in found} == {
        "2026-01-01": "FAILED",
        "compress": "FAILED",
    }


@pytest.mark.parametrize(
    ("first", "last", "count"),
    [
        ("2024-02-28", "2024-03-01", 3),
        ("2023-12-31", "2024-01-01", 2),
        ("2024-05-05", "2024-05-05", 1),
    ],
)
def test_days_from_first_to_last(first, last, count):
    days = days_between(date.fromisoformat(first), date.fromisoformat(last))
    assert (days[0].isoformat(), days[-1].isoformat(), len(days)) == (first, last, count)


def test_a_last_day_before_the_first_is_refused():
    with pytest.raises(InputError, match="2026-01-02 is after 2026-01-01"):
        days_between(DAYS[1], DAYS[0])
