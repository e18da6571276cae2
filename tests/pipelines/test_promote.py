"""Promotion: a blessed export becomes the champion, once, and only forward in time."""

import json
import shutil
from pathlib import Path

import mlflow.artifacts
import pytest
import yaml
from tiny_days import DAYS, make_context, promote_candidate, publish_candidate

from features.errors import RetryableError, UnsoundError
from pipelines.stages.promote import Promote
from pipelines.stages.stage import execute
from pipelines.tracking.mlflow_model import write_model
from pipelines.tracking.registry import CHAMPION, PREVIOUS, Registry
from pipelines.tracking.sync import RUN_KEY, Tracker


@pytest.fixture
def context(mlflow_here, tmp_path):
    return make_context(tmp_path)


@pytest.fixture
def registry(context):
    return Registry(Tracker(context.store.workspace, "elastic-ctr").client(), "ctr")


promote = promote_candidate


def versions(registry):
    return sorted(str(v.version) for v in registry.client.search_model_versions("name = 'ctr'"))


def test_a_blessed_export_becomes_the_champion(context, registry):
    decision = promote(context)
    assert decision.metrics == {
        "promoted": True,
        "reason": "blessed by the model gate",
        "model_version": "1",
        "replaced": None,
    }
    assert json.loads((decision.path / "decision.json").read_text()) == decision.metrics
    assert registry.alias(CHAMPION) == "1"
    assert registry.alias(PREVIOUS) is None
    assert registry.read("1").day == "2026-01-01"


def test_the_version_holds_the_exports_files_as_a_tensorflow_model(context, registry, tmp_path):
    promote(context)
    version = registry.client.get_model_version("ctr", "1")
    assert version.tags["elastic_ctr.pipeline"] == "tiny"
    run = registry.client.get_run(version.run_id)
    assert run.data.tags[RUN_KEY] == "tiny/2026-01-01"
    place = version.source.removeprefix(f"{run.info.artifact_uri}/")
    # The column Models of MLflow's table reads this tag.
    (logged,) = json.loads(run.data.tags["mlflow.log-model.history"])
    assert (logged["run_id"], logged["artifact_path"]) == (version.run_id, place)
    model = Path(registry.client.download_artifacts(version.run_id, place, str(tmp_path)))
    assert (model / "data" / "saved_model" / "saved_model.pb").read_text() == "weights 2026-01-01"
    described = yaml.safe_load((model / "MLmodel").read_text())
    assert described["flavors"]["tensorflow"]["saved_model_dir"] == "data/saved_model"


def test_a_second_export_of_a_day_leaves_the_first_version_its_files(context, registry, tmp_path):
    """Both were written to one folder of the day's run, so version 1 served the files of 2."""

    def write(text):
        def to(folder):
            folder.mkdir()
            (folder / "weights").write_text(text)

        return to

    tracker = Tracker(context.store.workspace, "elastic-ctr")
    run = tracker.day_run(registry.client, "tiny/2026-01-01", 1)
    versions = [registry.register(write(text), run, "2026-01-01", text, {}) for text in "ab"]
    found = [registry.client.get_model_version("ctr", version).source for version in versions]
    held = [mlflow.artifacts.load_text(f"{source}/weights") for source in found]
    assert (versions, held) == (["1", "2"], ["a", "b"])


def test_the_next_day_replaces_the_champion_and_remembers_it(context, registry):
    promote(context, DAYS[0])
    decision = promote(context, DAYS[1])
    assert (decision.metrics["model_version"], decision.metrics["replaced"]) == ("2", "1")
    assert (registry.alias(CHAMPION), registry.alias(PREVIOUS)) == ("2", "1")


def test_the_registered_model_tells_what_served_when(context, registry):
    """The history of the alias is in the description, below what a person wrote."""
    promote(context, DAYS[0])
    client = registry.client
    assert client.get_registered_model("ctr").tags == {"elastic_ctr.pipeline": "tiny"}
    assert client.get_model_version("ctr", "1").description.startswith(
        "Trained by tiny up to 2026-01-01."
    )
    text = client.get_registered_model("ctr").description
    client.update_registered_model("ctr", text.replace("A click model.", "Ask Ada."))
    promote(context, DAYS[1])
    registry.roll_back("1", None)
    registry.roll_back("1", None)  # as after a kill
    head, _, champions = client.get_registered_model("ctr").description.partition("## Champions")
    assert head.startswith("Ask Ada.")
    lines = champions.strip().splitlines()
    told = [(line.split()[2], line.split()[4], line.rpartition(": ")[2]) for line in lines]
    assert told == [
        ("1", "2026-01-01", "the first champion"),
        ("2", "2026-01-02", "replaces version 1"),
        ("1", "2026-01-01", "rollback"),
    ]
    # MLflow keeps 5000 characters: the oldest lines make room, what a person wrote does not.
    client.update_registered_model("ctr", f"{head}## Champions\n\n" + "* version 9 was\n" * 310)
    registry.roll_back("2", None)
    text = client.get_registered_model("ctr").description
    assert len(text) <= 5000
    assert text.startswith("Ask Ada.")
    assert text.endswith("rollback")
    client.update_registered_model("ctr", "x" * 5000)
    registry.roll_back("1", None)
    assert client.get_registered_model("ctr").description == "x" * 5000


def test_a_refused_candidate_is_passed_over(context, registry):
    promote(context, DAYS[0])
    decision = promote(context, DAYS[1], "refused")
    assert (decision.metrics["promoted"], decision.metrics["model_version"]) == (False, None)
    assert "refused" in decision.metrics["reason"]
    assert (versions(registry), registry.alias(CHAMPION)) == (["1"], "1")


def test_an_unsound_candidate_stops_the_day(context, registry):
    promote(context, DAYS[0])
    with pytest.raises(UnsoundError, match=r"2026-01-02 is unsound.*champion stays"):
        promote(context, DAYS[1], "unsound")
    assert context.store.current("promotion", DAYS[1]) is None
    assert (versions(registry), registry.alias(CHAMPION)) == (["1"], "1")


def test_a_backfilled_day_does_not_replace_the_champion_of_a_later_one(context, registry):
    promote(context, DAYS[2])
    decision = promote(context, DAYS[0])
    assert (decision.metrics["promoted"], decision.metrics["model_version"]) == (False, "2")
    assert "2026-01-03" in decision.metrics["reason"]
    assert (registry.alias(CHAMPION), registry.alias(PREVIOUS)) == ("1", None)


def test_another_model_of_the_champions_day_replaces_it(context, registry):
    promote(context)
    decision = promote(context, content="better weights")
    assert (decision.metrics["promoted"], decision.metrics["replaced"]) == (True, "1")
    assert registry.alias(CHAMPION) == "2"


@pytest.mark.covers("F3")
def test_a_kill_after_the_alias_moved_makes_no_second_version(context, registry):
    promote(context, DAYS[0])
    before = promote(context, DAYS[1])
    shutil.rmtree(before.path.parent)
    again = promote(context, DAYS[1])
    assert (again.metrics["promoted"], again.metrics["model_version"]) == (True, "2")
    assert (versions(registry), registry.alias(CHAMPION), registry.alias(PREVIOUS)) == (
        ["1", "2"],
        "2",
        "1",
    )
    assert again.metrics == before.metrics


def test_a_kill_between_registration_and_alias_makes_no_second_version(context, registry):
    export = publish_candidate(context.store, DAYS[0])
    run = Tracker(context.store.workspace, "elastic-ctr").day_run(
        registry.client, "tiny/2026-01-01", 0
    )

    def write(folder):
        return write_model(export.path / "saved_model", context.config.features, folder, run_id=run)

    assert registry.register(write, run, "2026-01-01", export.hash, {}) == "1"
    assert promote(context).metrics["model_version"] == "1"
    assert (versions(registry), registry.alias(CHAMPION)) == (["1"], "1")


def test_whoever_comes_second_loses_and_may_try_again(context, registry):
    promote(context, DAYS[0])
    seen = registry.alias(CHAMPION)
    promote(context, DAYS[1])
    third = registry.client.create_model_version("ctr", "nowhere", tags={}).version
    with pytest.raises(RetryableError, match=r"from 1 to 2 meanwhile.*promote again"):
        registry.move(str(third), seen)
    assert (registry.alias(CHAMPION), registry.alias(PREVIOUS)) == ("2", "1")


def test_no_alias_where_nothing_is_registered_and_where_none_is_set(context, registry):
    assert registry.alias(CHAMPION) is None
    registry.client.create_registered_model("ctr")
    assert registry.alias(CHAMPION) is None


def test_a_decision_is_made_once_and_needs_no_server_the_second_time(context, registry, request):
    first = promote(context)
    request.getfixturevalue("mlflow_away")
    outcome = execute(Promote(), context)
    assert (outcome.reused, outcome.version) == (True, first)


def test_while_mlflow_is_away_a_blessed_candidate_waits(mlflow_away, tmp_path):
    context = make_context(tmp_path)
    publish_candidate(context.store, DAYS[0])
    with pytest.raises(RetryableError, match=r"MLflow at http://127\.0\.0\.1:9 did not answer"):
        execute(Promote(), context)
    assert context.store.current("promotion", DAYS[0]) is None
    assert list((context.store.workspace / "promotion").rglob("*.json")) == []


def test_while_mlflow_is_away_a_refused_candidate_is_decided_all_the_same(mlflow_away, tmp_path):
    reports = []
    context = make_context(tmp_path, report=reports.append)
    publish_candidate(context.store, DAYS[0], "refused")
    decision = execute(Promote(), context).version
    assert decision.metrics["promoted"] is False
    assert reports == ["not promoted: refused by the model gate"]


def test_deciding_an_earlier_day_again_keeps_its_decision(context, registry, tmp_path):
    """A change of this stage's source decides old days again; the champions must not change."""
    first = promote(context, DAYS[0])
    promote(context, DAYS[1])
    shutil.rmtree(context.store.workspace / "promotion" / f"dt={DAYS[0]}")
    assert promote(context, DAYS[0]).metrics == first.metrics
    assert (registry.alias(CHAMPION), registry.alias(PREVIOUS)) == ("2", "1")
