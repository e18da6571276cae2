"""Start long-running processes with a log file each, and stop them with all their children.

Every process that is started here has `ELASTIC_CTR_SERVICES=<run folder>` in its environment, and
children inherit it, in whatever session they are. By this tag all of them are found again, also
after a crash.
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
class ServiceProcess:
    """A started process: name, process id, start time (epoch seconds), path of its log."""

    name: str
    pid: int
    started_s: float
    log: str

    def alive(self) -> bool:
        """Whether it still runs (a zombie does not)."""
        try:
            process = psutil.Process(self.pid)
            # Process ids are reused; the start time tells whether it is the same process.
            same = process.create_time() == self.started_s
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def log_tail(self) -> str:
        """Return the last lines of its log."""
        path = Path(self.log)
        if not path.is_file():
            return ""
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])


def start(
    name: str, argv: Sequence[str], environment: Mapping[str, str], folder: Path, cwd: Path
) -> ServiceProcess:
    """Start a command in a new session, with its output in `<folder>/logs/<name>.log`.

    Raises:
        OSError: the command cannot be started.
    """
    log = folder / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # Appended to, so that the log of an earlier start is kept.
    with log.open("ab") as output:
        started = subprocess.Popen(
            list(argv),
            cwd=cwd,
            env={**environment, TAG: str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C in the terminal must not reach the services.
            start_new_session=True,
        )
    return ServiceProcess(name, started.pid, psutil.Process(started.pid).create_time(), str(log))


def wait_until(
    ready: Callable[[], bool], processes: Iterable[ServiceProcess], timeout_s: float, what: str
) -> None:
    """Wait until `ready` returns true.

    Raises:
        RetryableError: a process ended or the time is up; the message shows the end of its log.
    """
    watched = list(processes)
    deadline = time.monotonic() + timeout_s
    while not ready():
        ended = next((process for process in watched if not process.alive()), None)
        if ended is not None:
            raise RetryableError(
                f"{what}: {ended.name} ended at start. "
                f"Its log ({ended.log}) ends with:\n{ended.log_tail()}"
            )
        if time.monotonic() > deadline:
            tails = "\n".join(f"--- {process.log}\n{process.log_tail()}" for process in watched)
            raise RetryableError(
                f"{what}: not ready after {timeout_s:.0f} s; is the machine busy? "
                f"The logs end with:\n{tails}"
            )
        time.sleep(_POLL_S)


def tagged(folder: Path) -> list[psutil.Process]:
    """Return every running process of this run folder, children in other sessions included."""
    found = []
    for process in psutil.process_iter():
        # Processes of other users, and processes that end meanwhile, cannot be read.
        with suppress(psutil.Error, OSError):
            # This process may have inherited the tag: it must not stop itself.
            running = process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid()
            if running and process.environ().get(TAG) == str(folder):
                found.append(process)
    return found


def stop_all(folder: Path, grace_s: float) -> int:
    """Stop every process of the run folder; return their number.

    They get SIGTERM, and SIGKILL after the grace period.
    """
    found = tagged(folder)
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
    psutil.wait_procs(found, timeout=grace_s)
    # A process may have started another one after the list was made, hence the loop.
    while left := tagged(folder):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=_POLL_S)
    return len(found)


def free_ports(count: int) -> list[int]:
    """Return distinct free ports of the loopback interface."""
    with ExitStack() as stack:
        # All sockets are open at the same time, so that no port is returned twice.
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
