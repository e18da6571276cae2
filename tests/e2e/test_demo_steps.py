"""The steps of the demo that are processes of their own: follow mode with a server beside it."""

import re
import shutil
from datetime import date

import pytest
from rich.console import Console

from pipelines.config import load_config
from pipelines.demo.mission import Mission
from pipelines.services.control import Services
from pipelines.services.processes import tagged


@pytest.fixture
def mission(world, tmp_path):
    """The demo after three days of the small world, with MLflow in the workspace's file."""
    workspace = tmp_path / "workspace"
    shutil.copytree(world.workspace, workspace, symlinks=True)
    services = Services(
        folder=str(tmp_path / "run"),
        airflow_url="http://127.0.0.1:1",
        mlflow_url=f"sqlite:///{workspace / 'mlflow.db'}",
        processes=(),
    )
    return Mission(Console(), services, world.config, workspace, date(2026, 1, 3))


@pytest.mark.process
@pytest.mark.slow
def test_what_arrives_is_learned_and_served_by_a_running_server(mission):
    settings = load_config(mission.config, [], mission.workspace)
    mission._attempt("follow mode", mission._follow, settings)
    assert mission.failed == []
    said = mission.notes["follow mode"]
    assert re.search(r"^4,000 new impressions .* served [\d.]+ s after they arrived", said), said
    assert tagged(mission.workspace / "demo") == []


@pytest.mark.process
def test_the_planted_fault_is_on_the_next_day_only(mission):
    faulty = load_config(mission._faulty_config(), [], mission.workspace)
    whole = load_config(mission.config, [], mission.workspace)
    (fault,) = faulty.simulator.faults
    assert (fault.kind, fault.days) == ("duplicate", (date(2026, 1, 4),))
    without = faulty.simulator.model_copy(update={"faults": ()})
    assert without == whole.simulator


@pytest.mark.process
def test_a_command_that_fails_is_said_and_the_demo_goes_on(mission):
    mission._attempt("lift", mission._complete, "lift", "--visits=1")
    (failure,) = mission.failed
    assert "lift" in failure
    assert "1000" in failure  # the limit, in the command's own words
