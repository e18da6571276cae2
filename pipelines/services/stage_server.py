"""A resident process that forks stages, with the libraries they use imported already.

Importing TensorFlow, Great Expectations and MLflow takes longer than most stages run. The standard
library's fork server (`multiprocessing`, start method `forkserver`) imports them once; a stage is
then a fork of it, with its own session, environment, folder, output and exit code.

Only third-party libraries are preloaded. A stage imports this project's source itself, so the next
stage sees a change of the source.

`python -m pipelines.services.stage_server SOCKET` serves; `connect` is for clients. The protocol:

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
"""Names the server's socket in the environment of what starts stages."""

# Bytes of a socket's path: Linux allows 107, macOS 103.
_LONGEST_ADDRESS = 103

# Libraries that stages use. None of them starts threads that hold locks when it is imported
# (TensorFlow 2.21, Great Expectations 1.24, MLflow 3.17, PySpark 4.3). Forking them is safe until
# their first operation, and the fork server never runs one.
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

# Prefixes of variables that a library or Python reads once, when it starts. A stage that needs
# other values than the server has must be a new process.
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

# An exception: `_run_stage` makes the output unbuffered in any case.
_HARMLESS = ("PYTHONUNBUFFERED",)

# `Process.start` polls every child, and a child's exit code can be read only once: without the lock
# one thread would read the code that another one waits for (CPython 3.11, `popen_forkserver.poll`).
_STARTS_AND_ENDS = threading.Lock()


@dataclass(frozen=True)
class ModuleRun:
    """`python -m <module> <arguments>` in a folder, with exactly this environment."""

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
        """Return the exit code when the stage has ended.

        Raises:
            subprocess.TimeoutExpired: the time is up.
        """
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            answer = _read(self._answers)
            # A server that ended without an answer was killed, and its stages with it.
            self.returncode = answer.get("exit_code", -signal.SIGKILL)
            self._answers.close()
            self._connection.close()
        return self.returncode


def can_listen(address: Path) -> bool:
    """Whether a path is short enough for a socket's address."""
    return len(os.fsencode(address)) <= _LONGEST_ADDRESS


def connect(argv: Sequence[str], environment: Mapping[str, str]) -> WarmProcess | None:
    """Start a command in a fork of the server that the environment names.

    Args:
        argv: the command; a server can only run `[sys.executable, "-m", module, …]`.
        environment: the complete environment of the command.

    Returns:
        The running process, or None if a new process must be started instead: there is no server,
        it has ended, or it was started with other settings than the command needs.
    """
    # 1. Only `python -m` commands can be a fork of the server, which is a Python process.
    address = environment.get(SOCKET_VARIABLE)
    if not address or list(argv[:2]) != [sys.executable, "-m"]:
        return None
    # 2. Send the request with one end of a socket pair: the stage writes its output to it.
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
    # 3. Without an answer, or with a refusal, the caller starts a new process.
    if pid is None:
        output.close()
        connection.close()
        return None
    with output:
        return WarmProcess(connection, answers, pid, output.makefile("rb"))


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """One thread per stage, which only waits. The fork server, which forks, has a single thread."""

    # A thread that waits for its stage does not keep a stopped server alive.
    daemon_threads = True
    request_queue_size = 64


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        # 1. Read the request; refuse it if the stage would not see its own variables.
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

            # 2. Fork the stage. Its sockets are handed over when they are pickled as arguments.
            context = multiprocessing.get_context("forkserver")
            process = context.Process(target=_run_stage, args=(request, output, connection))
            with _STARTS_AND_ENDS:
                process.start()
        print(
            f"process {process.pid}: {request.module} {' '.join(request.arguments[:1])}", flush=True
        )

        # 3. Wait for the stage or the client. A stage must not outlive the client that started it.
        if process.sentinel not in wait([process.sentinel, connection]):
            # Before the fork has its own session there is no such group, hence the second signal.
            with suppress(ProcessLookupError):
                os.killpg(process.pid or 0, signal.SIGKILL)
            process.kill()
            wait([process.sentinel])

        # 4. Answer with the exit code; a client that has ended does not read it.
        with _STARTS_AND_ENDS:
            process.join()
        with suppress(OSError):
            _send(connection, exit_code=process.exitcode)


def _run_stage(request: ModuleRun, output: socket.socket, client: socket.socket) -> None:
    """Set up what `subprocess.Popen(start_new_session=True)` does, then run the module."""
    os.setsid()
    with output, client:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
        # After `setsid`: the client may signal the process group once it knows the number.
        _send(client, pid=os.getpid())
    os.chdir(request.folder)
    # Exactly the request's variables: those of the server would be visible to the stage.
    os.environ.clear()
    os.environ.update(request.environment)
    for text in (sys.stdout, sys.stderr):
        text.reconfigure(line_buffering=True, write_through=True)  # type: ignore[union-attr]
    sys.argv = [request.module, *request.arguments]
    # `alter_sys`, as `python -m` does: `sys.argv[0]` and the module `__main__` are the stage's.
    runpy.run_module(request.module, run_name="__main__", alter_sys=True)


def _read_too_late(environment: Mapping[str, str]) -> list[str]:
    """Return the names of variables whose value the stage would not see."""
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
        address: the socket's path; an existing file is replaced.
        preloaded: modules to import once, by default `PRELOADED`.
    """
    path = Path(address)
    path.unlink(missing_ok=True)
    # The socket gets its permissions when it is bound. Whoever may connect may run code.
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
