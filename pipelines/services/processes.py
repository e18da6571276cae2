"""Start long-running processes with a log file each, and end them without leaving any behind.

Every process started here carries `ELASTIC_CTR_SERVICES=<run folder>` in its environment and so do its children, in
whatever session they are: that tag is how all of them are found again, by the same user, also after a crash.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from features.errors import RetryableError

TAG = "ELASTIC_CTR_SERVICES"
LOG_TAIL_LINES = 30

_POLL_S = 0.5


@dataclass(frozen=True)
class Process:
    """A started process: its name, id, when that id was given out (ids are reused), and its log."""

    name: str
    pid: int
    started_s: float
    log: str

    def alive(self) -> bool:
        """Whether it still runs (a zombie does not)."""
        try:
            process = psutil.Process(self.pid)
            return (
                process.create_time() == self.started_s and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return False

    def log_tail(self) -> str:
        """Return the last lines of its log."""
        path = Path(self.log)
        lines = (
            path.read_text(encoding="utf-8", errors="replace").splitlines()
            if path.is_file()
            else []
        )
        return "\n".join(lines[-LOG_TAIL_LINES:])


def start(
    name: str, argv: Sequence[str], environment: Mapping[str, str], folder: Path, cwd: Path
) -> Process:
    """Start `argv` in a session of its own, output in `<folder>/logs/<name>.log`; raises OSError when it cannot start."""
    log = folder / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        started = subprocess.Popen(
            list(argv),
            cwd=cwd,
            env={**environment, TAG: str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Process(name, started.pid, psutil.Process(started.pid).create_time(), str(log))


def wait_until(
    ready: Callable[[], bool], processes: Iterable[Process], timeout_s: float, what: str
) -> None:
    """Wait until `ready`.

    Raises:
        RetryableError: a process ended or the time is up; the message shows the end of its log.
    """
    watched = list(processes)
    deadline = time.monotonic() + timeout_s
    while not ready():
        dead = [process for process in watched if not process.alive()]
        if dead:
            first = dead[0]
            raise RetryableError(
                f"{what}: {first.name} ended at start. Its log ({first.log}) ends with:\n{first.log_tail()}"
            )
        if time.monotonic() > deadline:
            tails = "\n".join(f"--- {process.log}\n{process.log_tail()}" for process in watched)
            raise RetryableError(
                f"{what}: not ready after {timeout_s:.0f} s; is the machine busy? The logs end with:\n{tails}"
            )
        time.sleep(_POLL_S)


def tagged(folder: Path) -> list[psutil.Process]:
    """Return every running process that was started for this run folder, children in other sessions included."""
    return [
        process
        for process in psutil.process_iter()
        if process.pid != os.getpid() and _tag_of(process) == str(folder)
    ]


def stop_all(folder: Path, grace_s: float) -> int:
    """End every process of the run folder (SIGTERM, and SIGKILL after the grace); return how many there were."""
    found = tagged(folder)
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
    psutil.wait_procs(found, timeout=grace_s)
    while left := tagged(folder):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=_POLL_S)
    return len(found)


def free_ports(count: int) -> list[int]:
    """Return distinct free ports of the loopback interface."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _tag_of(process: psutil.Process) -> str | None:
    with suppress(psutil.Error, OSError):
        if process.status() != psutil.STATUS_ZOMBIE:
            return process.environ().get(TAG)
    return None
