"""SIGKILL in the middle of any stage, then run again: the same content as an undisturbed run."""

import signal
import subprocess
from datetime import date
from pathlib import Path

import pytest
from worlds import REPOSITORY, make_world

from pipelines.stages.registry import STAGES, artifacts, make_stage

pytestmark = pytest.mark.slow
DAY = date(2026, 1, 1)
PATIENCE_S = 600


def kill_when_staged(world, artifact):
    """Run the chain, kill it when it writes the artifact's files, and return its exit code."""
    folder = world.workspace / artifact / f"dt={DAY}"
    arguments = world.command(
        "run", "--config", str(world.config), "--from", str(DAY), "--to", str(DAY)
    )[2:]
    return subprocess.run(
        [
            str(world.python),
            str(Path(__file__).with_name("faulty_run.py")),
            "SIGKILL",
            str(world.workspace),
            str(folder),
            *arguments,
        ],
        env=world.environment(),
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=PATIENCE_S,
        check=False,
    ).returncode


@pytest.mark.covers("F1")
@pytest.mark.timeout(2700)
def test_a_chain_killed_in_every_stage_ends_in_the_same_content(world, tmp_path):
    killed = make_world(tmp_path, python=world.python)
    for name in STAGES:
        artifact = make_stage(name).artifact
        assert kill_when_staged(killed, artifact) == -signal.SIGKILL, name
        assert list((killed.workspace / artifact).rglob(".staging-*")), name
        assert killed.store.current(artifact, DAY) is None
    killed.run("run", "--config", str(killed.config), "--from", str(DAY), "--to", str(DAY))
    for artifact in artifacts():
        assert (
            killed.store.current(artifact, DAY).digest == world.store.current(artifact, DAY).digest
        ), artifact
        assert list(killed.workspace.rglob(".staging-*")) == []
