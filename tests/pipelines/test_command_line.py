"""The command line as a shell sees it: exit codes, one message per error, days in order."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import tiny_days
from tiny_days import DAYS, EMPTY_DAY, publish_candidate, write_config

from pipelines.stages.registry import STAGES, artifacts
from pipelines.store.artifacts import Store
from pipelines.tracking.journal import TrackingJournal

COMMANDS = [
    *STAGES,
    "run",
    "report",
    "status",
    "config",
    "init",
    "predict",
    "clean",
    "lineage",
    "sync",
    "simulate",
    "truth",
]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "workspace")


def is_one_clear_error(text):
    return text.startswith("error: ") and "Traceback" not in text


def test_help_lists_every_command(shell):
    listed = {
        line.split()[0]
        for line in shell("--help").stdout.splitlines()
        if line.startswith("  ") and line.strip()
    }
    assert set(COMMANDS) <= listed


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(here, name):
    code, out, _ = here(name, "--help")
    assert code == 0
    assert f"{name} [OPTIONS]" in out
    assert "--workspace" in out or name in ("config", "init", "truth")


def test_an_unknown_stage_is_refused(shell):
    assert "No such command 'trian'" in shell("trian", "--date", "2026-01-01", code=2).stderr


@pytest.mark.parametrize("day", ["2026-13-01", "yesterday", "2026-1-1T00"])
def test_a_day_that_is_none_is_refused(here, tmp_path, day):
    code, _, err = here("train", "--config", write_config(tmp_path), "--date", day)
    assert code == 2
    assert day in err


def test_exit_2_for_a_configuration_that_is_wrong(shell, tmp_path):
    config = write_config(tmp_path, training={"batchsize": 3})
    done = shell("train", "--config", config, "--date", "2026-01-01", code=2)
    assert is_one_clear_error(done.stderr)
    assert "training.batchsize: unknown key" in done.stderr
    assert done.stdout == ""


def test_exit_2_for_an_input_that_is_missing_and_the_failure_is_journalled(shell, tmp_path, store):
    done = shell("compress", "--config", write_config(tmp_path), "--date", "2026-01-01", code=2)
    assert is_one_clear_error(done.stderr)
    assert "run `elastic-ctr train` for that day first" in done.stderr
    journal = TrackingJournal(store.workspace)
    assert [journal.read(path).status for path in journal.pending()] == ["FAILED"]


def test_exit_3_for_an_unsound_model(shell, tmp_path, store):
    publish_candidate(store, DAYS[0], "unsound")
    done = shell("promote", "--config", write_config(tmp_path), "--date", "2026-01-01", code=3)
    assert is_one_clear_error(done.stderr)
    assert "unsound" in done.stderr


def test_exit_75_while_mlflow_is_away(shell, tmp_path, store):
    publish_candidate(store, DAYS[0], "blessed")
    done = shell("promote", "--config", write_config(tmp_path), "--date", "2026-01-01", code=75)
    assert is_one_clear_error(done.stderr)
    assert "did not answer" in done.stderr
    assert store.current("promotion", DAYS[0]) is None


def test_exit_4_for_a_day_without_data(here, tmp_path, tiny_chain, mlflow_away):
    code, _, err = here("ingest", "--config", write_config(tmp_path), "--date", EMPTY_DAY)
    assert code == 4
    assert err == f"error: no file for {EMPTY_DAY} at logs/*.csv\n"


@pytest.mark.covers("H4", "F11")
def test_a_day_whose_deadline_has_not_passed_may_still_get_data(
    here, tmp_path, tiny_chain, mlflow_away, monkeypatch
):
    # Faults H4, F11: the day ends in the future.
    today = datetime.now(UTC).date()
    monkeypatch.setattr(tiny_days, "EMPTY_DAY", today)
    code, out, err = here("ingest", "--config", write_config(tmp_path), "--date", today)
    assert (code, out.splitlines()[-1]) == (75, "missing_input=wait")
    assert "it is waited for until" in err
    assert here("train", "--config", write_config(tmp_path), "--date", today)[0] == 0


@pytest.mark.parametrize(
    ("choice", "said", "state"), [("skip", "missing_input=skip", 10), ("fail", "", 13)]
)
@pytest.mark.covers("H4", "F11")
def test_a_day_without_data_after_the_deadline_is_skipped_only_if_the_settings_say_so(
    here, tmp_path, tiny_chain, mlflow_away, choice, said, state
):
    config = write_config(tmp_path, schedule={"missing_input": choice})
    code, out, _ = here("ingest", "--config", config, "--date", EMPTY_DAY)
    assert (code, said in out, "missing_input" in out) == (4, True, bool(said))
    assert here("check", "-c", config, "--from", EMPTY_DAY, "--to", EMPTY_DAY)[0] == state


def test_exit_0_for_a_refused_model_and_the_manifest_is_the_last_line(shell, tmp_path, store):
    publish_candidate(store, DAYS[0], "refused")
    done = shell("promote", "--config", write_config(tmp_path), "--date", "2026-01-01")
    manifest = Path(done.stdout.splitlines()[-1].removeprefix("manifest="))
    assert json.loads(manifest.read_text())["metrics"]["promoted"] is False
    assert done.stderr == ""


def test_an_option_overrides_the_file_and_the_workspace(here, tmp_path, tiny_chain):
    arguments = (
        "train",
        "--config",
        write_config(tmp_path),
        "--date",
        "2026-01-01",
        "-w",
        tmp_path / "other",
    )
    assert here(*arguments, "--set", "model.dim=8", "--set", "model.deep.l21=0.25")[0] == 0
    model = Store(tmp_path / "other").current("checkpoint", DAYS[0]).commit["config"]["model"]
    assert (model["dim"], model["deep"]["l21"]) == (8, 0.25)


def run_days(here, tmp_path, *more):
    return here(
        "run", "--config", write_config(tmp_path), "--from", DAYS[0], "--to", DAYS[2], *more
    )


def test_run_does_every_day_and_skips_one_without_data(
    here, tmp_path, store, tiny_chain, mlflow_away
):
    code, out, _ = run_days(here, tmp_path)
    assert code == 0
    assert f"skipped: no file for {EMPTY_DAY}" in out
    assert {day: [store.current(a, day) is not None for a in artifacts()] for day in DAYS[:3]} == {
        DAYS[0]: [True] * len(artifacts()),
        EMPTY_DAY: [False] * len(artifacts()),
        DAYS[2]: [True] * len(artifacts()),
    }
    code, out, _ = run_days(here, tmp_path)
    assert code == 0
    assert "nothing to do" in out


def test_run_can_insist_on_every_day(here, tmp_path, store, tiny_chain, mlflow_away):
    code, _, err = run_days(here, tmp_path, "--missing", "fail")
    assert (code, is_one_clear_error(err)) == (4, True)
    assert store.current("impressions", DAYS[2]) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--from", "2026-01-01", "--to", "2026-01-01", "--missing", "maybe"],
            "expected skip or fail",
        ),
        (["--from", "2026-01-02", "--to", "2026-01-01"], "2026-01-02 is after 2026-01-01"),
    ],
)
def test_run_refuses_what_makes_no_sense(here, tmp_path, tiny_chain, arguments, words):
    code, _, err = here("run", "--config", write_config(tmp_path), *arguments)
    assert code == 2
    assert words in err
