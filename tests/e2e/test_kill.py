"""SIGKILL in the middle of any stage, then run again: the same content as an undisturbed run."""

import os
import signal
import subprocess
import time
from datetime import date

import pytest
from worlds import REPOSITORY, make_world

from pipelines.chain import STAGES, make_stage
from pipelines.report import ARTIFACTS

pytestmark = pytest.mark.slow
DAY = date(2026, 1, 1)
PATIENCE_S = 300


def kill_when_staged(world, artifact):
    """Start the chain, kill its whole process group as soon as the artifact is being written; returns its exit code."""
    folder = world.workspace / artifact / f"dt={DAY}"
    arguments = world.command("run", "--config", str(world.config), "--from", str(DAY), "--to", str(DAY))
    process = subprocess.Popen(
        arguments,
        env=world.environment(),
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and not list(folder.glob(".staging-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


@pytest.mark.timeout(1800)
def test_a_chain_killed_in_every_stage_ends_in_the_same_content(world, tmp_path):
    killed = make_world(tmp_path)
    for name in STAGES:
        assert kill_when_staged(killed, make_stage(name).artifact) == -signal.SIGKILL, name
        assert killed.store.current(make_stage(name).artifact, DAY) is None
    killed.run("run", "--config", str(killed.config), "--from", str(DAY), "--to", str(DAY))
    for artifact in ARTIFACTS:
        assert killed.store.current(artifact, DAY).digest == world.store.current(artifact, DAY).digest, artifact
        assert list(killed.workspace.rglob(".staging-*")) == []
