"""Every stage under every fault: the same content as an undisturbed run, or a clear exit and
nothing lost.

The whole matrix is a sweep (`make test-all`). `make test` runs a sample; `FAULT_SEED=7` draws another.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from datetime import date
from pathlib import Path

import pytest
from faulty_run import PATIENCE_S, PAUSED, RESUME
from worlds import LAST, REPOSITORY, copy_world

from pipelines.stages.registry import STAGES, artifacts, make_stage

pytestmark = pytest.mark.slow
DAY = date.fromisoformat(LAST)
TEMPORARY = 75
EXITS = {
    "SIGKILL": {-9},
    "SIGTERM": {-15, 143},
    "ENOSPC": {TEMPORARY},
    "EIO": {TEMPORARY},
    "slow": {0},
    "twin": {0, TEMPORARY},
    "clean": {0},
}
"""How a stage may end under each fault."""

SEED = int(os.environ.get("FAULT_SEED", "1"))
CASES = [(stage, fault) for stage in STAGES for fault in EXITS]
SAMPLE = random.Random(SEED).sample(CASES, 6)


def start(world, stage, fault=None):
    """Start a stage of the last day, disturbed or not."""
    arguments = world.command(stage, "--config", str(world.config), "--date", LAST)[1:]
    if fault:
        folder = world.workspace / make_stage(stage).artifact / f"dt={DAY}"
        script = Path(__file__).with_name("faulty_run.py")
        arguments = [str(script), fault, str(world.workspace), str(folder), *arguments[1:]]
    return subprocess.Popen(
        [str(world.python), *arguments],
        env=world.environment(),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    """Return exit code and error output."""
    _, errors = process.communicate(timeout=PATIENCE_S)
    return process.returncode, errors


def disturbed(world, stage, fault):
    """Run a stage under a fault; return the exit codes and error outputs of its processes."""
    if fault == "twin":
        return [ended(process) for process in [start(world, stage), start(world, stage)]]
    if fault != "clean":
        return [ended(start(world, stage, fault))]
    running = start(world, stage, "pause")
    until = time.monotonic() + PATIENCE_S
    while not (world.workspace / PAUSED).exists():
        assert running.poll() is None, ended(running)
        assert time.monotonic() < until
        time.sleep(0.05)
    world.run("clean", "--keep", "1")
    (world.workspace / RESUME).touch()
    return [ended(running)]


def digests(world, days):
    """Return the content of every artifact of some days."""
    found = {(a, day): world.store.current(a, day) for a in artifacts() for day in days}
    return {key: version.digest for key, version in found.items() if version}


@pytest.mark.covers("F1", "F16")
@pytest.mark.parametrize(
    ("stage", "fault"),
    [
        pytest.param(*case, id="-".join(case), marks=[] if case in SAMPLE else pytest.mark.sweep)
        for case in CASES
    ],
)
def test_a_disturbed_stage_ends_in_the_same_content_and_loses_nothing(
    world, tmp_path, stage, fault
):
    copy = copy_world(world, tmp_path, {})
    artifact = make_stage(stage).artifact
    # `clean` is asked to remove the days before.
    kept = [DAY] if fault == "clean" else world.store.days("impressions")
    before = digests(world, kept)
    shutil.rmtree(copy.workspace / artifact / f"dt={DAY}")

    for code, errors in disturbed(copy, stage, fault):
        assert code in EXITS[fault], errors
        assert "Traceback" not in errors
        assert code <= 0 or errors.strip()

    code, errors = ended(start(copy, stage))
    assert code == 0, errors
    assert digests(copy, kept) == before
    assert list(copy.workspace.rglob(".staging-*")) == []
    copy.store.current(artifact, DAY).verify()


@pytest.mark.covers("F2")
def test_a_killed_training_continues_from_its_last_state(world, tmp_path):
    copy = copy_world(world, tmp_path, {"training": {"save_every_s": 1e-6}})
    folder = copy.workspace / "checkpoint" / f"dt={DAY}"
    code, errors = ended(start(copy, "train"))
    assert code == 0, errors
    undisturbed = copy.store.current("checkpoint", DAY).digest
    shutil.rmtree(folder)

    code, errors = ended(start(copy, "train", "third state"))
    assert code == -signal.SIGKILL, errors
    assert len(list(folder.glob(".states-*/step-*"))) == 1
    assert copy.store.current("checkpoint", DAY) is None

    again = start(copy, "train")
    lines, errors = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, errors
    assert "it continues at step" in lines
    assert copy.store.current("checkpoint", DAY).digest == undisturbed
    assert list(copy.workspace.rglob(".states-*")) == []
