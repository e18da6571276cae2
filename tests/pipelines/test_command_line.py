"""The command line as a shell sees it: exit codes, one clear line for an error, output that programs read."""

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import jsonschema
import pandas as pd
import pytest
import yaml
from tiny_days import AWAY, DAYS, DOCUMENT, EMPTY_DAY, publish, publish_candidate, write_config

from pipelines.artifacts import Store
from pipelines.chain import STAGES
from pipelines.cli import main
from pipelines.config import Config
from pipelines.journal import Event, Journal
from pipelines.report import ARTIFACTS

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = Path(sys.executable).with_name("elastic-ctr")
COMMANDS = [*STAGES, "run", "report", "status", "config", "init", "predict", "clean", "lineage", "sync", "simulate", "truth"]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "workspace")


@pytest.fixture
def shell(tmp_path):
    """Run the command in a process of its own, in an empty folder, MLflow away."""

    def run(*arguments, code=0):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ELASTIC_CTR")}
        environment |= {**AWAY, "COLUMNS": "200", "ELASTIC_CTR_WORKSPACE": str(tmp_path / "workspace")}
        done = subprocess.run(
            [str(COMMAND), *map(str, arguments)], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done

    return run


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """Run the command in this process; returns its exit code, standard output and standard error."""
    monkeypatch.setenv("ELASTIC_CTR_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["elastic-ctr", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return run


def is_one_clear_error(text):
    return text.startswith("error: ") and "Traceback" not in text


def test_help_lists_every_command(shell):
    listed = {line.split()[0] for line in shell("--help").stdout.splitlines() if line.startswith("  ") and line.strip()}
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
    assert [e.status for _, e in Journal(store.workspace).pending()] == ["FAILED"]


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


def test_exit_0_for_a_refused_model_and_the_manifest_is_the_last_line(shell, tmp_path, store):
    publish_candidate(store, DAYS[0], "refused")
    done = shell("promote", "--config", write_config(tmp_path), "--date", "2026-01-01")
    manifest = Path(done.stdout.splitlines()[-1].removeprefix("manifest="))
    assert json.loads(manifest.read_text())["metrics"]["promoted"] is False
    assert done.stderr == ""


def test_an_option_overrides_the_file_and_the_workspace(here, tmp_path, tiny_chain):
    arguments = ("train", "--config", write_config(tmp_path), "--date", "2026-01-01", "-w", tmp_path / "other")
    assert here(*arguments, "--set", "model.dim=8", "--set", "model.deep.l21=0.25")[0] == 0
    model = Store(tmp_path / "other").current("checkpoint", DAYS[0]).commit["config"]["model"]
    assert (model["dim"], model["deep"]["l21"]) == (8, 0.25)


def run_days(here, tmp_path, *more):
    return here("run", "--config", write_config(tmp_path), "--from", DAYS[0], "--to", DAYS[2], *more)


def test_run_does_every_day_and_skips_one_without_data(here, tmp_path, store, tiny_chain, mlflow_away):
    code, out, _ = run_days(here, tmp_path)
    assert code == 0
    assert f"skipped: no file for {EMPTY_DAY}" in out
    assert {day: [store.current(a, day) is not None for a in ARTIFACTS] for day in DAYS[:3]} == {
        DAYS[0]: [True] * len(ARTIFACTS),
        EMPTY_DAY: [False] * len(ARTIFACTS),
        DAYS[2]: [True] * len(ARTIFACTS),
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
        (["--from", "2026-01-01", "--to", "2026-01-01", "--missing", "maybe"], "expected skip or fail"),
        (["--from", "2026-01-02", "--to", "2026-01-01"], "2026-01-02 is after 2026-01-01"),
    ],
)
def test_run_refuses_what_makes_no_sense(here, tmp_path, tiny_chain, arguments, words):
    code, _, err = here("run", "--config", write_config(tmp_path), *arguments)
    assert code == 2
    assert words in err


def test_report_as_json_and_as_a_table(here, store):
    publish(store, "impressions", DAYS[0], rows_kept=12345)
    publish(store, "checkpoint", DAYS[0], auc=float("nan"))
    code, out, _ = here("report", "--date", "2026-01-01", "--json")
    figures = json.loads(out, parse_constant=pytest.fail)
    assert (code, figures["rows"], figures["auc"], figures["seconds"]["impressions"]) == (0, 12345, None, 0.5)
    assert "12,345" in here("report", "--date", "2026-01-01")[1]


def test_status_of_an_empty_workspace(here):
    code, out, _ = here("status")
    assert code == 0
    assert "champion: none yet" in out
    assert "wait for MLflow: 0" in out


def test_status_names_days_champion_and_waiting_events(here, store):
    export = publish(store, "export", DAYS[0])
    publish(store, "promotion", DAYS[0], inputs=[export], promoted=True, model_version="3")
    publish(store, "export", DAYS[1])
    Journal(store.workspace).append(Event("tiny", "2026-01-01", "train", "aa", "FINISHED", 1, 2))
    code, out, _ = here("status")
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert code == 0
    assert ["export", "yes", "yes"] in cells
    assert ["promotion", "yes", "–"] in cells
    assert "champion: version 3 of 2026-01-01" in out
    assert "wait for MLflow: 1" in out


def test_clean_frees_the_days_before(here, store):
    for day in DAYS:
        publish(store, "export", day)
    code, out, _ = here("clean", "--keep", "2")
    assert code == 0
    assert "freed 3 versions" in out
    assert store.days("export") == DAYS[3:]


@pytest.mark.parametrize("keep", ["0", "-1", "all"])
def test_clean_keeps_at_least_a_day(here, store, keep):
    publish(store, "export", DAYS[0])
    assert here("clean", "--keep", keep)[0] == 2
    assert store.days("export") == [DAYS[0]]


def test_lineage_is_json(here, store):
    publish(store, "export", DAYS[0], inputs=[publish(store, "compressed", DAYS[0])])
    code, out, _ = here("lineage", "--artifact", "export", "--date", "2026-01-01")
    assert code == 0
    assert json.loads(out)["made_from"]["compressed"]["hash"] == "compressed1"


@pytest.mark.parametrize("artifact", ["export", "exprot"])
def test_lineage_of_nothing_names_the_artifacts_there_are(here, artifact):
    code, _, err = here("lineage", "--artifact", artifact, "--date", "2026-01-01")
    assert code == 2
    assert f"no {artifact} of 2026-01-01" in err
    assert ", ".join(ARTIFACTS) in err


def test_the_schema_is_a_json_schema(shell):
    schema = json.loads(shell("config", "--schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(schema["properties"]) == set(Config.model_fields)


def valid(document):
    schema = jsonschema.Draft202012Validator(Config.model_json_schema())
    return schema.is_valid(json.loads(json.dumps(document, default=str)))


@pytest.mark.parametrize("profile", sorted((REPOSITORY / "conf").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_schema_accepts_every_profile(profile):
    assert valid(yaml.safe_load(profile.read_text(encoding="utf-8")))


@pytest.mark.parametrize("change", [{"trainig": {}}, {"training": {"batch_size": 0}}, {"features": {}}, {"name": "1 x"}])
def test_the_schema_refuses_what_the_loader_refuses(change):
    assert valid(DOCUMENT)
    assert not valid({**DOCUMENT, **change})


def test_config_prints_a_file_with_every_default(here, tmp_path):
    code, out, _ = here("config", "--config", write_config(tmp_path, training={"batch_size": 77}))
    printed = json.loads(out)
    assert code == 0
    assert printed["training"]["batch_size"] == 77
    assert Config.model_validate(printed) == Config.model_validate({**DOCUMENT, "training": {"batch_size": 77}})


@pytest.fixture
def log(tmp_path):
    rows = 50
    columns = {"user_id": [f"u{i % 9}" for i in range(rows)], "ad_id": [f"a{i % 7}" for i in range(rows)]}
    times = {"ts": [1_767_225_600 + i for i in range(rows)], "click": [int(i % 3 == 0) for i in range(rows)]}
    pd.DataFrame({**columns, **times}).to_csv(tmp_path / "log.csv", index=False)
    return tmp_path / "log.csv"


def test_init_writes_a_file_that_loads_and_never_over_another(here, log, tmp_path):
    drafted = tmp_path / "mine.yaml"
    assert here("init", "--data", log, "--out", drafted)[0] == 0
    assert here("config", "--config", drafted)[0] == 0
    drafted.write_text("# mine\n")
    code, _, err = here("init", "--data", log, "--out", drafted)
    assert code == 2
    assert "exists already" in err
    assert drafted.read_text() == "# mine\n"


def test_init_prints_the_draft(here, log):
    code, out, _ = here("init", "--data", log)
    assert code == 0
    assert yaml.safe_load(out)["features"]["label"] == "click"


def test_init_without_a_file_says_so(here, tmp_path):
    code, _, err = here("init", "--data", tmp_path / "*.parquet")
    assert code == 2
    assert "no file matches" in err


def test_predict_without_a_champion_says_so(here, tmp_path, log):
    code, out, err = here("predict", "--config", write_config(tmp_path), "--input", log)
    assert (code, out) == (2, "")
    assert "no champion" in err


def test_simulate_and_truth_need_a_simulator(here, tmp_path, log):
    config = write_config(tmp_path)
    for arguments in (["simulate", "--from", "2026-01-01", "--to", "2026-01-01"], ["truth", "-i", log, "-o", tmp_path / "t"]):
        code, _, err = here(*arguments, "--config", config)
        assert code == 2
        assert "no section `simulator`" in err


SIMULATOR = {"first_day": "2026-01-01", "impressions_per_day": 200, "users": 50, "items": 30, "new_items_per_day": 2}


def test_simulated_days_are_written_and_their_truth_is_known(here, tmp_path):
    config = write_config(tmp_path, simulator=SIMULATOR)
    code, out, _ = here("simulate", "--config", config, "--from", "2026-01-01", "--to", "2026-01-02")
    assert code == 0
    assert [line.split(":")[0].strip() for line in out.splitlines()] == ["2026-01-01", "2026-01-02"]
    (part,) = (tmp_path / "workspace" / "logs" / f"dt={date(2026, 1, 2)}").glob("*.parquet")
    assert here("truth", "--config", config, "-i", part, "-o", tmp_path / "truth.parquet")[0] == 0
    truth = pd.read_parquet(tmp_path / "truth.parquet")
    assert len(truth) == 200
    assert truth["true_probability"].between(0, 1, inclusive="neither").all()


def test_sync_says_how_much_was_sent_and_exits_75_while_mlflow_is_away(here, tmp_path, store, mlflow_away):
    config = write_config(tmp_path)
    assert "sent 0 events" in here("sync", "--config", config)[1]
    Journal(store.workspace).append(Event("tiny", "2026-01-01", "train", "aa", "FINISHED", 1, 2))
    code, _, err = here("sync", "--config", config)
    assert (code, is_one_clear_error(err)) == (75, True)


def test_sync_sends_what_waited(here, tmp_path, mlflow_here):
    Journal(mlflow_here).append(Event("tiny", "2026-01-01", "train", "aa", "FINISHED", 1, 2))
    code, out, _ = here("sync", "--config", write_config(tmp_path))
    assert code == 0
    assert "sent 1 events" in out
    assert list(Journal(mlflow_here).pending()) == []


def test_looking_at_a_workspace_that_is_not_there_makes_none(here, tmp_path):
    code, out, _ = here("report", "--date", "2026-01-01", "--json", "--workspace", tmp_path / "nowhere")
    assert (code, json.loads(out)["rows"]) == (0, None)
    assert not (tmp_path / "nowhere").exists()
