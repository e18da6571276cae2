"""A resident process that forks stages, with the libraries they use imported already.

Importing TensorFlow, Great Expectations and MLflow takes longer than most stages work. The standard
library's fork server (`multiprocessing`, start method `forkserver`) imports them once; a stage is then
a fork of it, with its own session, environment, folder, output and exit code.

Only third-party libraries are preloaded. A stage imports this project's source itself, so that a
change of source is picked up by the next stage.

`python -m pipelines.services.stage_server SOCKET` serves; `connect` is for clients. What is sent:

1. client: one byte with a socket for the stage's output, then a line of JSON, a `ModuleRun`;
2. server: a line `{"pid": …}` when the stage has its own session, or `{"refused": "why"}`;
3. server: a line `{"exit_code": …}` at the end, negative if a signal killed the stage.

If the client closes the connection first, the server kills the stage's process group.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, BinaryIO

SOCKET_VARIABLE = "ELASTIC_CTR_STAGE_SERVER"
"""Path of the server's socket, in the environment of those that start stages."""

_LONGEST_ADDRESS = 103
"""Bytes of a socket's path: Linux allows 107, macOS 103."""

PRELOADED = (
    "tensorflow",
    "great_expectations",
    "mlflow.pyfunc",
    "pandas",
    "pyarrow.compute",
    "pyarrow.parquet",
    "numba",
    "matplotlib.backends.backend_agg",
    "scipy.optimize",
    "scipy.special",
    "sklearn.metrics",
    "pyspark.sql.connect.session",
    "pydantic",
    "rich.console",
    "typer",
)
"""Libraries that stages use. None of them, when it is imported, starts threads that hold locks
(TensorFlow 2.21, Great Expectations 1.24, MLflow 3.17, PySpark 4.3): forking them is safe until the
first operation, and the fork server never runs one."""

_READ_AT_IMPORT = (
    "GX_",
    "KMP_",
    "LD_",
    "MALLOC_",
    "MKL_",
    "MPL",
    "NUMBA_",
    "OMP_",
    "OPENBLAS_",
    "PYTHON",
    "TF_",
    "XLA_",
)
"""Prefixes of variables that a library or Python reads once, when it starts."""

_HARMLESS = ("PYTHONUNBUFFERED",)
"""What a stage does here in any case."""


@dataclass(frozen=True)
class ModuleRun:
    """`python -m <module> <arguments>`, to be run in a folder with an environment (all of it)."""

    module: str
    arguments: list[str]
    environment: dict[str, str]
    folder: str


class WarmProcess:
    """A stage that a server runs for this process; used like a `subprocess.Popen`."""

    def __init__(
        self, connection: socket.socket, answers: BinaryIO, pid: int, output: BinaryIO
    ) -> None:
        self.pid = pid
        self.stdout = output
        self.returncode: int | None = None
        self._connection = connection
        self._answers = answers

    def poll(self) -> int | None:
        """Return the exit code, or None while the stage runs."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code when the stage has ended; raises `subprocess.TimeoutExpired` when the time is up."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            answer = _read(self._answers)
            # A server that ended without an answer was killed, and its stages are not to go on alone.
            self.returncode = answer.get("exit_code", -signal.SIGKILL)
            self._answers.close()
            self._connection.close()
        return self.returncode


def can_listen(address: Path) -> bool:
    """Whether the operating system takes a path as a socket's address; it must be short."""
    return len(os.fsencode(address)) <= _LONGEST_ADDRESS


def connect(argv: Sequence[str], environment: Mapping[str, str]) -> WarmProcess | None:
    """Start a command in a fork of the server that the environment names.

    Args:
        argv: the command; only `[sys.executable, "-m", module, …]` can be run by a server.
        environment: all of the command's environment.

    Returns:
        The running process, or None where a new process must be started instead: there is no
        server, it has ended, or it was started with other settings than the command needs.
    """
    address = environment.get(SOCKET_VARIABLE)
    if not address or list(argv[:2]) != [sys.executable, "-m"]:
        return None
    request = ModuleRun(argv[2], list(argv[3:]), dict(environment), str(Path.cwd()))
    connection, (output, stage_output) = socket.socket(socket.AF_UNIX), socket.socketpair()
    with stage_output:
        try:
            connection.connect(address)
            socket.send_fds(connection, [b"\0"], [stage_output.fileno()])
            connection.sendall(json.dumps(asdict(request)).encode() + b"\n")
            answers = connection.makefile("rb")
            pid = _read(answers).get("pid")
        except (OSError, ValueError):  # no server, or one that ended while it answered
            pid = None
    if pid is None:
        output.close()
        connection.close()
        return None
    with output:
        return WarmProcess(connection, answers, pid, output.makefile("rb"))


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """One light thread a stage; the forks are made by the fork server, which has a single thread."""

    daemon_threads = True
    request_queue_size = 64


_STARTS_AND_ENDS = threading.Lock()
"""`Process.start` polls every child, and a child's exit code can be read only once: without the lock
one thread would take the code that another one waits for (CPython 3.11, `popen_forkserver.poll`)."""


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        connection: socket.socket = self.request
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
        with socket.socket(fileno=descriptors[0]) as output:
            with connection.makefile("rb") as lines:
                request = ModuleRun(**_read(lines))
            if differing := _read_too_late(request.environment):
                why = f"{', '.join(differing)} differ from the server's"
                print(f"refused {request.module} {request.arguments}: {why}", flush=True)
                _send(connection, refused=why)
                return
            # Sockets are passed on to the fork when they are pickled as its arguments.
            context = multiprocessing.get_context("forkserver")
            process = context.Process(target=_run_stage, args=(request, output, connection))
            with _STARTS_AND_ENDS:
                process.start()
        print(
            f"process {process.pid}: {request.module} {' '.join(request.arguments[:1])}", flush=True
        )
        if process.sentinel not in wait([process.sentinel, connection]):
            # The client closed its end: what it asked for must not go on without it. Before the fork has
            # its own session there is no such group yet, hence the second signal.
            with suppress(ProcessLookupError):
                os.killpg(process.pid or 0, signal.SIGKILL)
            process.kill()
            wait([process.sentinel])
        with _STARTS_AND_ENDS:
            process.join()
        with suppress(OSError):
            _send(connection, exit_code=process.exitcode)


def _run_stage(request: ModuleRun, output: socket.socket, client: socket.socket) -> None:
    """Become the stage: what `subprocess.Popen(start_new_session=True)` sets up, then the module."""
    os.setsid()
    with output, client:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
        _send(client, pid=os.getpid())
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    for text in (sys.stdout, sys.stderr):
        text.reconfigure(line_buffering=True, write_through=True)  # type: ignore[union-attr]
    sys.argv = [request.module, *request.arguments]
    runpy.run_module(request.module, run_name="__main__", alter_sys=True)


def _read_too_late(environment: Mapping[str, str]) -> list[str]:
    """Names of variables of which a stage would not see its own value."""
    names = {name for name in {*environment, *os.environ} if name.startswith(_READ_AT_IMPORT)}
    differing = (name for name in names if environment.get(name) != os.environ.get(name))
    return sorted(set(differing) - set(_HARMLESS))


def _read(lines: BinaryIO) -> dict[str, Any]:
    line = lines.readline()
    document: dict[str, Any] = json.loads(line) if line else {}
    return document


def _send(connection: socket.socket, **answer: object) -> None:
    connection.sendall(json.dumps(answer).encode() + b"\n")


def main(address: str, *preloaded: str) -> None:
    """Serve stages at a socket that only this user can reach, until SIGTERM.

    Args:
        address: the socket's path; what is there is replaced.
        preloaded: modules to import once; none: `PRELOADED`.
    """
    path = Path(address)
    path.unlink(missing_ok=True)
    before = os.umask(0o077)
    with _Server(str(path), _Handler) as server:
        os.umask(before)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(preloaded or PRELOADED))
        # Import the libraries now, not at the first stage.
        context.Process(target=int).start()
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
