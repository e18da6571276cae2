"""Run a command in a process group of its own, hand over its output line by line, and leave no process behind.

Nothing of Airflow here. A stage starts a JVM or TensorFlow's threads: what ends is the whole group, never only its
leader. A command that the resident stage server can run is a fork of that server, which has the libraries imported
(`pipelines.services.stage_server`); any other is a new process. Both have the same group, environment, output and exit
code. What it does **not** do: retry, interpret the exit code, or use a shell.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO

from pipelines.services.stage_server import WarmProcess, connect

GRACE_S = 3.0
"""Seconds between SIGTERM and SIGKILL: less than the five that Airflow gives a task before it kills the task itself."""

_DRAIN_S = 5.0


class StageProcess:
    """One run of one command.

    `argv` is started as it is (no shell), in a new session, with `environment` (all of it). `grace_s` are the seconds
    that the group has to end after SIGTERM.

    Example:
        >>> StageProcess(["echo", "hello"], {"PATH": os.environ["PATH"]}).run(print)
        hello
        0
    """

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], grace_s: float = GRACE_S
    ) -> None:
        self._argv = list(argv)
        self._environment = dict(environment)
        self._grace_s = grace_s
        self._group: int | None = None

    def run(self, on_line: Callable[[str], None]) -> int:
        """Run to the end and return the exit code (negative: killed by that signal).

        stdout and stderr arrive in `on_line`, merged, without line ends, from another thread. Whatever ends this call
        (the command, a timeout raised in it, Ctrl-C) ends every process of the group.

        Raises:
            OSError: the command cannot be started.
        """
        process = self._start()
        assert process.stdout is not None
        reader = threading.Thread(target=_forward, args=(process.stdout, on_line), daemon=True)
        reader.start()
        try:
            return process.wait()
        finally:
            self._finish(process, reader)

    def terminate(self) -> None:
        """Ask the group to end, and kill it after the grace; returns at once, so that a signal handler may call it."""
        group = self._group
        if group is None:
            return
        _signal_group(group, signal.SIGTERM)
        timer = threading.Timer(self._grace_s, _signal_group, (group, signal.SIGKILL))
        timer.daemon = True
        timer.start()

    def _start(self) -> subprocess.Popen[bytes] | WarmProcess:
        process = connect(self._argv, self._environment) or subprocess.Popen(
            self._argv,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._group = process.pid
        return process

    def _finish(
        self, process: subprocess.Popen[bytes] | WarmProcess, reader: threading.Thread
    ) -> None:
        """End what is left of the group: the leader too, unless it ended by itself."""
        if process.poll() is None:
            _signal_group(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(self._grace_s)
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        self._group = None
        reader.join(_DRAIN_S)


def _forward(stream: IO[bytes], on_line: Callable[[str], None]) -> None:
    with stream:
        for line in stream:
            on_line(line.decode("utf-8", "replace").rstrip("\r\n"))


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
