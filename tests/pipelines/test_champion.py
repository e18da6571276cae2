"""The gate meets the model that serves, whatever happened to days, folders and aliases."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_days import (
    AWAY,
    DAYS,
    make_context,
    promote_candidate,
    publish,
    publish_candidate,
    write_config,
)

from features.errors import InputError, RetryableError, UnsoundError
from features.partition import Hour
from pipelines.cli.options import day_or_champion
from pipelines.stages.chain import run_stage
from pipelines.stages.promote import Promote
from pipelines.stages.stage import execute
from pipelines.stages.validate_model import (
    ValidateModel,
    champion_model,
    champion_to_beat,
    earlier_reports,
)
from pipelines.store.artifacts import Store
from pipelines.store.cleaning import clean
from pipelines.store.lineage import parent_checkpoint
from pipelines.tracking.champion import (
    COPY,
    block,
    known_champion,
    roll_back,
    serving_champion,
    unblock,
)
from pipelines.tracking.registry import CHAMPION, PREVIOUS, Registry
from pipelines.tracking.sync import Tracker

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def context(mlflow_here, tmp_path):
    return make_context(tmp_path)


@pytest.fixture
def registry(context):
    return Registry(Tracker(context.store.workspace, "elastic-ctr").client(), "ctr")


def three_days(context):
    for day in DAYS[:3]:
        assert promote_candidate(context, day).metrics["promoted"]


def set_bootstrap(context, value):
    gate = context.config.model_gate.model_copy(update={"bootstrap": value})
    return replace(context, config=context.config.model_copy(update={"model_gate": gate}))


def beaten(context, day):
    found = champion_to_beat(replace(context, day=day))
    return found and found.version


@pytest.mark.covers("F5", "F26", "H1")
def test_a_backfill_neither_moves_nor_forgets_the_champion(context, registry):
    """Fault H1a: late rows made days 1 to 3 anew, and day 3 was blessed as a first model."""
    three_days(context)
    for day in DAYS[:2]:
        decision = promote_candidate(context, day, content="late rows")
        assert "2026-01-03, which is not earlier, serves" in decision.metrics["reason"]
    publish_candidate(context.store, DAYS[2], content="late rows")
    assert beaten(context, DAYS[2]) == "3"
    assert champion_model(replace(context, day=DAYS[2]))["champion"].hash == "cweights3"
    assert registry.alias(CHAMPION) == "3"
    assert serving_champion(context.store, "ctr").version == "3"


def test_a_day_that_is_decided_again_is_compared_with_the_model_it_replaced(context):
    three_days(context)
    assert [beaten(context, day) for day in DAYS[:4]] == [None, "1", "2", "3"]


@pytest.mark.covers("F26", "infrastructure-4", "H1")
@pytest.mark.parametrize("artifact", ["compressed", "export"])
def test_a_champion_whose_artifacts_are_gone_refuses_the_candidate(context, artifact):
    """Fault H1b."""
    three_days(context)
    shutil.rmtree(context.store.workspace / artifact / f"dt={DAYS[2]}")
    publish_candidate(context.store, DAYS[3])
    today = replace(context, day=DAYS[3])
    with pytest.raises(UnsoundError, match=r"version 3 of 2026-01-03 .*rollback.*--bootstrap"):
        champion_model(today)
    assert champion_model(set_bootstrap(today, "always")) == {}


@pytest.mark.covers("F26")
def test_a_champion_that_was_damaged_refuses_the_candidate(context):
    three_days(context)
    champion = context.store.current("compressed", DAYS[2])
    (champion.path / "data.txt").write_text("x")
    with pytest.raises(UnsoundError, match=r"data\.txt: damaged"):
        champion_model(replace(context, day=DAYS[3]))


@pytest.mark.covers("F26", "H1")
def test_a_lost_workspace_does_not_make_the_next_model_a_first_one(context, tmp_path):
    """Fault H1c: the registry decides, not the folders of this workspace."""
    three_days(context)
    lost = tmp_path / "lost"
    shutil.copytree(
        context.store.workspace,
        lost,
        ignore=shutil.ignore_patterns("promotion", "champion.json", "export"),
    )
    empty = replace(context, store=replace(context.store, workspace=lost), day=DAYS[3])
    with pytest.raises(UnsoundError, match="version 3 of 2026-01-03"):
        champion_model(empty)


@pytest.mark.covers("F26")
def test_a_first_model_needs_a_registry_that_never_had_a_champion(context, registry):
    today = replace(context, day=DAYS[3])
    assert champion_model(today) == {}
    with pytest.raises(UnsoundError, match="no champion in MLflow"):
        champion_model(set_bootstrap(today, "never"))
    three_days(context)
    registry.client.delete_registered_model_alias("ctr", CHAMPION)
    with pytest.raises(UnsoundError, match=r"Set the alias `champion` .*--bootstrap"):
        champion_model(today)
    assert champion_model(set_bootstrap(today, "always")) == {}


def test_a_registry_that_was_wiped_does_not_make_the_next_model_a_first_one(context, empty_mlflow):
    three_days(context)
    shutil.copy(empty_mlflow, context.store.workspace / "mlflow.db")
    with pytest.raises(UnsoundError, match="no champion in MLflow"):
        champion_model(replace(context, day=DAYS[3]))


@pytest.mark.covers("F29", "H3")
@pytest.mark.parametrize("version", ["1", "2"])
def test_an_alias_that_was_moved_by_hand_is_what_everybody_sees(context, registry, version):
    """Fault H3: status, predict, validate-model and compress_champion ignored and undid it."""
    three_days(context)
    registry.client.set_registered_model_alias("ctr", CHAMPION, version)
    assert serving_champion(context.store, "ctr").day == f"2026-01-0{version}"
    assert day_or_champion("champion", context.store) == DAYS[int(version) - 1]
    assert beaten(context, DAYS[3]) == version
    shutil.rmtree(context.store.workspace / "promotion" / f"dt={DAYS[2]}")
    again = execute(Promote(), replace(context, day=DAYS[2])).version
    assert again.metrics["promoted"]  # it was; the alias is left where a person put it
    assert registry.alias(CHAMPION) == version


@pytest.mark.covers("F19")
@pytest.mark.parametrize("bootstrap", ["first", "always"])
def test_a_champion_that_moved_between_gate_and_promotion_is_met_first(
    context, registry, bootstrap
):
    three_days(context)
    today = set_bootstrap(replace(context, day=DAYS[3]), bootstrap)
    publish_candidate(context.store, DAYS[3], champion=champion_model(today)["champion"])
    registry.client.set_registered_model_alias("ctr", CHAMPION, "1")
    with pytest.raises(RetryableError, match=r"version 1 of .* with another model: run .*validate"):
        execute(Promote(), today)
    assert registry.alias(CHAMPION) == "1"
    # Without a comparison, `always` accepts the candidate as it is.
    publish_candidate(context.store, DAYS[3])
    assert execute(Promote(), set_bootstrap(today, "always")).version.metrics["promoted"]


@pytest.mark.covers("audit-P12")
def test_an_unsound_model_stops_the_day(context):
    """Mutant P12 of the audit."""
    publish_candidate(context.store, DAYS[0], "unsound")
    report = context.store.current("validation_report", DAYS[0])
    with pytest.raises(UnsoundError, match="the model of 2026-01-01 is unsound: unsound"):
        ValidateModel().check_result(report)
    for verdict in ("refused", "blessed"):
        publish_candidate(context.store, DAYS[0], verdict)
        ValidateModel().check_result(context.store.current("validation_report", DAYS[0]))


def test_a_predecessor_that_was_deleted_in_mlflow_is_none(context, registry):
    three_days(context)
    registry.client.delete_model_version("ctr", "2")
    assert serving_champion(context.store, "ctr").version == "3"
    with pytest.raises(InputError, match=r"no version of ctr served before version 3.*--to"):
        roll_back(context.store, "ctr", None, "bad", print)
    assert roll_back(context.store, "ctr", "1", "bad", print).version == "1"


def test_the_day_of_the_champion_must_still_hold_its_checkpoint(context):
    three_days(context)
    publish_candidate(context.store, DAYS[2], content="late rows")
    with pytest.raises(InputError, match=r"checkpoint of 2026-01-03 .* is not the one"):
        day_or_champion("champion", context.store)


@pytest.mark.covers("F18")
def test_while_mlflow_is_away_its_last_answer_is_used_and_said(context, monkeypatch):
    three_days(context)
    for name, value in AWAY.items():
        monkeypatch.setenv(name, value)
    lines = []
    found = known_champion(context.store, "ctr", lines.append)
    assert (found.version, found.day) == ("3", "2026-01-03")
    assert "as MLflow said at 20" in str(found)
    assert "its last answer is used" in lines[0]
    (context.store.workspace / COPY).unlink()
    with pytest.raises(RetryableError, match="did not answer"):
        champion_model(replace(context, day=DAYS[3]))


@pytest.mark.covers("F29", "infrastructure-7", "H3", "H11")
def test_a_rollback_moves_alias_and_lineage_and_is_not_undone(context, registry):
    """Faults H3 and H11."""
    three_days(context)
    served = {
        p: p.read_bytes() for p in context.store.current("export", DAYS[1]).path.rglob("*.pb")
    }
    champion = roll_back(context.store, "ctr", None, "CTR fell", print)
    assert champion.version == "2"
    assert (registry.alias(CHAMPION), registry.alias(PREVIOUS)) == ("2", "1")
    assert champion.export(context.store) == context.store.current("export", DAYS[1])
    assert {path: path.read_bytes() for path in served} == served
    assert day_or_champion("champion", context.store) == DAYS[1]
    # The bad day is decided again: it stays blocked, and the next one does not start from it.
    shutil.rmtree(context.store.workspace / "promotion" / f"dt={DAYS[2]}")
    decision = execute(Promote(), replace(context, day=DAYS[2])).version.metrics
    assert (decision["promoted"], decision["reason"]) == (False, "version 3 is blocked: CTR fell")
    assert registry.alias(CHAMPION) == "2"
    parent = parent_checkpoint(context.store, DAYS[3], print, unvalidated=True)
    assert parent.day == DAYS[1]
    assert beaten(context, DAYS[3]) == "2"
    assert promote_candidate(context, DAYS[3]).metrics["replaced"] == "2"


def test_a_rollback_passes_over_blocked_versions_and_may_name_one(context, registry):
    three_days(context)
    block(context.store, "ctr", registry.read("2"), "bad labels")
    assert roll_back(context.store, "ctr", None, "worse", print).version == "1"
    with pytest.raises(InputError, match="version 1 of ctr serves already"):
        roll_back(context.store, "ctr", "1", "worse", print)
    with pytest.raises(InputError, match=r"version 3 is blocked \(worse\): .*--undo"):
        roll_back(context.store, "ctr", "3", "again", print)
    unblock(context.store, "ctr", "3")
    assert roll_back(context.store, "ctr", "3", "fine after all", print).version == "3"
    with pytest.raises(InputError, match="no version '9'"):
        roll_back(context.store, "ctr", "9", "", print)


@pytest.mark.parametrize("step", ["block", "Registry.roll_back", "serving_champion"])
def test_a_rollback_that_was_killed_at_any_step_is_finished(context, registry, monkeypatch, step):
    three_days(context)
    with monkeypatch.context() as patch:
        patch.setattr(f"pipelines.tracking.champion.{step}", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            roll_back(context.store, "ctr", None, "bad", print)
    assert roll_back(context.store, "ctr", None, "bad", print).version == "2"
    assert (registry.alias(CHAMPION), registry.read("3").blocked) == ("2", "bad")
    assert not registry.read("2").blocked
    assert roll_back(context.store, "ctr", None, "bad", print).version == "1"


@pytest.mark.covers("F29")
def test_clean_keeps_what_a_rollback_needs(context, registry):
    three_days(context)
    promote_candidate(context, DAYS[3], "refused")
    promote_candidate(context, DAYS[4], "refused")
    block(context.store, "ctr", registry.read("2"), "labels")
    serving_champion(context.store, "ctr")
    clean(context.store, 1)
    found = roll_back(context.store, "ctr", None, "bad", print)
    assert (found.version, found.compressed(context.store).hash) == ("1", "cweights1")


@pytest.mark.covers("F29", "H11")
def test_a_block_in_another_workspace_stops_the_warm_start_here(
    context, registry, tmp_path, monkeypatch
):
    """Fault F29: only the workspace in which a version was blocked knew of it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{context.store.workspace}/mlflow.db")
    three_days(context)
    shutil.copytree(context.store.workspace, tmp_path / "other")
    lines = []
    other = replace(context, store=Store(tmp_path / "other"), day=DAYS[3], report=lines.append)

    def parent():
        # The stage ends there: the day has no data. What is blocked was asked for before.
        with pytest.raises(InputError, match="no impressions of 2026-01-04"):
            run_stage("train", other)
        return parent_checkpoint(other.store, DAYS[3], print, unvalidated=True).day

    assert parent() == DAYS[2]
    roll_back(context.store, "ctr", None, "wrong labels", print)
    block(context.store, "ctr", registry.read("2"), "wrong labels")
    # Of version 2 the other workspace has made another checkpoint itself, which is not blocked.
    publish_candidate(other.store, DAYS[1], content="right labels")
    with monkeypatch.context() as patch:
        for name, value in AWAY.items():
            patch.setenv(name, value)
        assert parent() == DAYS[2]
        assert any("is read from this workspace alone" in line for line in lines)
    assert parent() == DAYS[1]
    assert "version 3 of 2026-01-03 is blocked in MLflow" in lines
    unblock(context.store, "ctr", "3")
    assert parent() == DAYS[2]
    # Set by hand in MLflow: the checkpoint is that of the version's export.
    registry.client.set_model_version_tag("ctr", "3", "elastic_ctr.blocked", "by hand")
    assert parent() == DAYS[1]


@pytest.mark.covers("infrastructure-7")
def test_the_commands(context, here, registry, tmp_path):
    three_days(context)
    code, out, _ = here("block", "1", "--reason", "old")
    assert (code, out.strip()) == (0, "version 1 of ctr is blocked: old")
    assert here("block", "3")[0] == 2  # it serves
    code, out, _ = here("rollback", "--reason", "worse")
    assert (code, out.strip()) == (0, "champion of ctr: version 2 of 2026-01-02")
    code, out, _ = here("status")
    assert "champion of ctr: version 2 of 2026-01-02" in out
    assert "blocked: version ctr/3 of 2026-01-03: worse" in out
    assert here("block", "3", "--undo", "--config", write_config(tmp_path))[0] == 0
    assert registry.read("3").blocked == ""


@pytest.mark.process
@pytest.mark.covers("F4", "H16")
def test_two_promotions_at_once_register_one_version(context, registry, tmp_path):
    """Fault H16."""
    publish_candidate(context.store, DAYS[0])
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "promote",
        "--config",
        str(tmp_path / "tiny.yaml"),
    ]
    command += ["--date", "2026-01-01", "--workspace", str(context.store.workspace)]
    both = [
        subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in both]
    assert {process.returncode for process in both} <= {0, 75}, errors
    assert 0 in {process.returncode for process in both}, errors
    assert [version.version for version in registry.versions()] == ["1"]


def test_registered_twice_by_two_hosts_the_first_version_stays(context, registry):
    promote_candidate(context)
    digest = registry.read("1").digest
    real = registry.client.search_model_versions

    class Late:
        """A client that does not see the other host's version when it looks first."""

        def __init__(self):
            self.looks = 0

        def __getattr__(self, name):
            return getattr(registry.client, name)

        def search_model_versions(self, *arguments, **options):
            self.looks += 1
            return [] if self.looks == 1 else real(*arguments, **options)

    run = registry.client.get_model_version("ctr", "1").run_id
    other = Registry(Late(), "ctr")
    assert other.register(lambda folder: folder.mkdir(), run, "2026-01-01", digest, {}) == "1"
    assert [version.version for version in registry.versions()] == ["1"]


def test_a_candidate_of_no_day_before_the_champion_is_compared_with_nothing(context):
    promote_candidate(context, DAYS[2])
    publish(context.store, "impressions", DAYS[0])
    lines = []
    assert champion_model(replace(context, day=DAYS[0], report=lines.append)) == {}
    assert "version 1 of 2026-01-03 serves; no champion of a day before 2026-01-01" in lines[0]


@pytest.mark.covers("audit-M7")
def test_calibration_is_compared_with_reports_of_earlier_days_that_have_it(context):
    """By content of that file alone: a report with another latency changes no later verdict."""

    def report(day, version, hours="h"):
        files = {"verdict.json": json.dumps({"verdict": "blessed", "reasons": [], "v": version})}
        files |= {"calibration_hours.json": json.dumps(hours)} if hours else {}
        return publish(context.store, "validation_report", day, version, files=files)

    for day in DAYS[:4]:
        report(day, "one", "" if day == DAYS[0] else "h")
    publish(context.store, "validation_report", Hour(DAYS[1], 3), "hour", files={"a": "b"})
    today = replace(context, day=DAYS[3])
    assert [version.day for version in earlier_reports(today)] == [DAYS[2], DAYS[1]]
    before = ValidateModel().fingerprint(today)
    report(DAYS[2], "two")
    assert ValidateModel().fingerprint(today) == before
    report(DAYS[2], "three", "other")
    assert ValidateModel().fingerprint(today) != before
    assert ValidateModel().fingerprint(replace(context, day=DAYS[0])) == {}
