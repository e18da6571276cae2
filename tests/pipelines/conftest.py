"""Fixtures of the pipeline's tests: MLflow's database made once, a chain of stages that cost nothing."""

import shutil

import pytest
import tiny_days

from pipelines import chain
from pipelines.report import ARTIFACTS
from pipelines.tracking import Tracker


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
    """Every command of the chain, done by a stage that costs nothing."""
    for name, artifact, before in zip(chain.STAGES, ARTIFACTS, ["", *ARTIFACTS], strict=False):
        attributes = {"name": name, "artifact": artifact, "reads": before}
        step = f"Step_{artifact}"
        monkeypatch.setattr(tiny_days, step, type(step, (tiny_days.Step,), attributes), raising=False)
        monkeypatch.setitem(chain.STAGES, name, f"tiny_days:{step}")
