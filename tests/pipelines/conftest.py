"""Fixtures: MLflow's database created once, a chain of trivial stages, the command line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_days

from pipelines.cli.main import main
from pipelines.stages import chain
from pipelines.stages.registry import artifacts
from pipelines.tracking.sync import Tracker

COMMAND = Path(sys.executable).with_name("elastic-ctr")


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory):
    """The path of an SQLite file with MLflow's tables, which cost seconds to make."""
    workspace = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        Tracker(workspace, "tests").client()
    return workspace / "mlflow.db"


@pytest.fixture
def mlflow_here(empty_mlflow, tmp_path, monkeypatch):
    """An MLflow store of its own in `<tmp_path>/workspace`."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    shutil.copy(empty_mlflow, workspace / "mlflow.db")
    return workspace


@pytest.fixture
def mlflow_away(monkeypatch):
    """No server where MLflow should be."""
    for name, value in tiny_days.AWAY.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def tiny_chain(monkeypatch):
    """Replaces every stage of the chain with a trivial one."""
    for name, artifact, before in zip(chain.STAGES, artifacts(), ["", *artifacts()], strict=False):
        reads = (f"{before}?",) if before else ()
        attributes = {"name": name, "artifact": artifact, "reads": reads}
        step = f"Step_{artifact}"
        monkeypatch.setattr(
            tiny_days, step, type(step, (tiny_days.Step,), attributes), raising=False
        )
        monkeypatch.setitem(chain.STAGES, name, f"tiny_days:{step}")


@pytest.fixture
def shell(fresh_process, tmp_path):
    """Run the command in a process of its own, in an empty folder, MLflow away."""

    def run(*arguments, code=0):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ELASTIC_CTR")}
        environment |= {
            **tiny_days.AWAY,
            "COLUMNS": "200",
            "ELASTIC_CTR_WORKSPACE": str(tmp_path / "workspace"),
        }
        done = subprocess.run(
            [str(COMMAND), *map(str, arguments)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == code, (
            f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        )
        return done

    return run


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """Run the command in this process; returns exit code, standard output and standard error."""
    monkeypatch.setenv("ELASTIC_CTR_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["elastic-ctr", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return run
