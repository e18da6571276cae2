"""The command line, disturbed when it touches the files of the artifact that it makes.

    python faulty_run.py FAULT WORKSPACE DAY_FOLDER ARGUMENTS…

An audit hook sees every file that Python opens. Watching from outside would miss a stage that
stages and commits between two looks.
"""

import errno
import os
import signal
import sys
import time
from pathlib import Path

from pipelines.cli.main import main

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
PAUSED, RESUME = "paused", "resume"
"""Files below the workspace with which a test waits for the pause and ends it."""
PATIENCE_S = 120
SLOW_S = 0.2


def disturb(fault, workspace, day_folder):
    """Let `fault` happen at this process's accesses to files of the artifact or of its inputs."""
    staging = f"{day_folder}/{'.states-' if fault == 'third state' else '.staging-'}"
    happen = FAULTS[fault]
    count = 0

    def watch(event, arguments):
        nonlocal count
        for path in (os.fspath(a) for a in arguments if isinstance(a, str | os.PathLike)):
            staged = path.startswith(staging) and "/" in path[len(staging) :]
            committed = path.startswith(str(workspace)) and "/v-" in path
            if staged or committed:
                count += staged
                reads = event == "open" and not (arguments[2] or 0) & WRITING
                happen(event, path, staged, reads, count)

    sys.addaudithook(watch)


def kill(event, path, staged, reads, count):
    if staged:
        os.killpg(0, signal.SIGKILL)


def kill_at_third_state(event, path, staged, reads, count):
    if event == "os.rename" and staged and Path(path).name.startswith(".step-"):
        saved_states.append(path)
        if len(saved_states) == 3:
            os.killpg(0, signal.SIGKILL)


saved_states = []


def terminate(event, path, staged, reads, count):
    if staged and count == 1:
        os.killpg(0, signal.SIGTERM)


def no_space(event, path, staged, reads, count):
    if event == "open" and staged and not reads:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def damaged_disk(event, path, staged, reads, count):
    if event == "open" and staged and reads:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)


def slow_disk(event, path, staged, reads, count):
    if staged and count < 10:
        time.sleep(SLOW_S)


def pause(event, path, staged, reads, count):
    if not staged or count > 1:
        return
    folder = Path(path[: path.index("/dt=")]).parent
    (folder / PAUSED).touch()
    until = time.monotonic() + PATIENCE_S
    while not (folder / RESUME).exists():
        assert time.monotonic() < until, "nobody ended the pause"
        time.sleep(0.02)


FAULTS = {
    "third state": kill_at_third_state,
    "SIGKILL": kill,
    "SIGTERM": terminate,
    "ENOSPC": no_space,
    "EIO": damaged_disk,
    "slow": slow_disk,
    "pause": pause,
}

if __name__ == "__main__":
    disturb(*sys.argv[1:4])
    sys.argv[:4] = ["elastic-ctr"]
    main()
