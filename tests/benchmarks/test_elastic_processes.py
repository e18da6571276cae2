"""A system that cannot start is left out with the reason; the others are measured."""

import subprocess
import sys
from pathlib import Path

import pytest
from elastic import Plan, measure, start_system
from elastic_peers.workload import Workload, write
from harness.environments import interpreter
from harness.processes import ProcessFailed

TINY = Workload(rows=3000, batch=8, smallest=20, batches=2, hidden=("4",))


@pytest.mark.process
def test_a_process_that_dies_says_why(tmp_path: Path):
    write(TINY, tmp_path)
    with start_system(
        Path(sys.executable), "no_such_system.Class", tmp_path, tmp_path / "log"
    ) as process:
        with pytest.raises(ProcessFailed, match="no_such_system"):
            process.answer()
        with pytest.raises(ProcessFailed, match="exit code 1"):
            process.ask({"part": "step"})


@pytest.mark.process
def test_without_a_network_a_peer_is_missing_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(TINY, tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    said: list[str] = []
    measured = measure(
        ["torch_sparse"], ["4"], Plan(1, 1, 0), tmp_path, tmp_path / "environments", said.append
    )
    assert "No matching distribution" in measured.missing["torch_sparse"]
    assert measured.median("torch_sparse", "step", "4") is None
    assert said == ["starting torch_sparse", "round 1 of 1"]


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        folder = Path(command[-1]) if "venv" in command else tmp_path
        folder.mkdir(exist_ok=True, parents=True)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    first, again = interpreter("tfra", tmp_path), interpreter("tfra", tmp_path)
    assert first == again
    assert [command[2] for command in commands] == ["venv", "pip", "pip"]
    assert "--no-deps" in commands[2]
