"""Secrets of the environment stay where they are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_days import DOCUMENT, make_context, write_config

from features.errors import InputError
from features.redaction import redact, remember
from pipelines.config import load_config
from pipelines.stages.stage import execute
from pipelines.tracking.sync import Tracker

REPOSITORY = Path(__file__).resolve().parents[2]
PASSWORD, TOKEN, VALUE = "canary-password", "canary-token", "canary-value"


@pytest.mark.covers("F33")
@pytest.mark.process
def test_no_file_and_no_output_of_a_run_holds_a_secret(tmp_path):
    """A password in MLflow's address, a token behind it, and a variable in the configuration."""
    landing = tmp_path / "logs"
    landing.mkdir()
    (landing / "a.csv").write_text("user_id,ad,tags,time,click\n")
    document = {**DOCUMENT, "name": "tiny", "tracking": {"experiment": "${SECRET}"}}
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(document))
    environment = {
        **os.environ,
        "SECRET": VALUE,
        "MLFLOW_TRACKING_URI": f"http://user:{PASSWORD}@127.0.0.1:9/?token={TOKEN}",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "SPARK_REMOTE": "",
    }
    out = []
    for stage in ("promote", "compress"):
        command = [sys.executable, "-m", "pipelines.cli", stage, "--config", str(config)]
        command += ["--date", "2026-01-01", "--workspace", str(tmp_path / "workspace")]
        done = subprocess.run(
            command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        out.append(done.stdout + done.stderr)
    command = [sys.executable, "-m", "pipelines.cli", "sync", "--config", str(config)]
    command += ["--workspace", str(tmp_path / "workspace")]
    done = subprocess.run(
        command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 75
    assert "***" in done.stderr
    out.append(done.stdout + done.stderr)
    files = [p for p in (tmp_path / "workspace").rglob("*") if p.is_file()]
    assert files
    texts = [*out, *(path.read_bytes().decode(errors="replace") for path in files)]
    for secret in (PASSWORD, TOKEN, VALUE):
        assert not any(secret in text for text in texts), secret


@pytest.mark.covers("F33")
def test_a_secret_setting_is_hashed_and_not_written(tmp_path, monkeypatch, mlflow_here):
    from tiny_days import Step

    class Secret(Step):
        sections = ("tracking",)

    found = []
    for value in (VALUE, "another-value"):
        monkeypatch.setenv("SECRET", value)
        context = make_context(tmp_path, tracking={"experiment": "${SECRET}"})
        assert context.config.tracking.experiment == value
        found.append(execute(Secret(), context).version)
    assert found[0].hash != found[1].hash  # a changed setting makes a new version
    for version in found:
        assert json.loads(version.manifest.read_text())["config"]["tracking"] == {
            "experiment": "${SECRET}",
            "registered_model": "ctr",
        }
    assert redact(f"the experiment {VALUE} is full") == "the experiment ${SECRET} is full"
    assert Tracker(context.store.workspace, VALUE).experiment == VALUE


@pytest.mark.covers("F33")
@pytest.mark.parametrize("value", ["a\nname: other", "a, b: c", "{x: 1}", '"quoted', "[1, 2]"])
def test_a_variable_is_a_value_and_never_adds_keys(tmp_path, monkeypatch, value):
    monkeypatch.setenv("EXPERIMENT", value)
    config = load_config(write_config(tmp_path, tracking={"experiment": "${EXPERIMENT}"}))
    assert config.tracking.experiment == value
    assert config.name == "tiny"


def test_a_variable_may_be_a_number(tmp_path, monkeypatch):
    monkeypatch.setenv("ROWS", "256")
    path = write_config(tmp_path, training={"batch_size": "${ROWS}", "passes": "${PASSES:-3}"})
    training = load_config(path).training
    assert (training.batch_size, training.passes) == (256, 3)
    monkeypatch.delenv("ROWS")
    with pytest.raises(InputError, match=r"\$\{ROWS\} is not set in the environment"):
        load_config(path)


@pytest.mark.covers("F33")
def test_a_printed_configuration_names_the_variable(here, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", VALUE)
    path = write_config(tmp_path, tracking={"experiment": "${SECRET}"})
    code, out, _ = here("config", "--config", path)
    assert (code, json.loads(out)["tracking"]["experiment"]) == (0, "${SECRET}")


def test_variables_may_stand_in_flow_lists_and_in_parts_and_not_in_comments(tmp_path, monkeypatch):
    monkeypatch.setenv("LOGS", "landing")
    path = write_config(tmp_path)
    text = path.read_text().replace(
        "path: logs/*.csv", "path: [${LOGS}/*.csv, ${MORE:-more}/x.csv]"
    )
    path.write_text(f"# ${{NOT_SET}} in a comment is no variable\n{text}")
    assert load_config(path).source.path == ("landing/*.csv", "more/x.csv")


@pytest.mark.covers("F33")
def test_a_value_that_is_too_long_for_a_path_is_kept_out_too(tmp_path):
    """A private key is longer than any path, and may hold what no path can."""
    for value in ("canary" * 2_000, "canary\0key-of-a-server"):
        remember("PRIVATE_KEY", value)
        assert redact(f"the key is {value}.") == "the key is ${PRIVATE_KEY}."
    remember("FOLDER", str(tmp_path))
    assert redact(f"{tmp_path} is missing") == f"{tmp_path} is missing"
