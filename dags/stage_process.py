"""Runs a command in its own process group, forwards its output, and leaves no process behind.

This module does not depend on Airflow. A stage starts a JVM or TensorFlow's threads, so the whole
group is ended, never only its leader. A command that the resident stage server can run is a fork of
that server, which has the libraries imported (`pipelines.services.stage_server`); any other is a
new process. Both have the same group, environment, output and exit code.

It does **not** retry, interpret the exit code, or use a shell.
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

# Seconds between SIGTERM and SIGKILL: less than the five that Airflow gives a task before it kills
# the task itself.
GRACE_S = 3.0

_DRAIN_S = 5.0


class StageProcess:
    """One run of one command.

    Args:
        argv: the command; no shell is used.
        environment: the complete environment of the command.
        grace_s: seconds that the group has to end after SIGTERM.

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

        When this call ends, by the command or by an exception (a timeout, Ctrl-C), every process of
        the group has ended.

        Args:
            on_line: receives the lines of stdout and stderr, merged, from another thread.

        Raises:
            OSError: the command cannot be started.
        """
        # The stage has its own session, and so a process group that can be ended as a whole.
        process = connect(self._argv, self._environment) or subprocess.Popen(
            self._argv,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._group = process.pid
        assert process.stdout is not None
        # A thread reads the output, so that the main thread can receive signals while it waits.
        reader = threading.Thread(target=_forward, args=(process.stdout, on_line), daemon=True)
        reader.start()
        try:
            return process.wait()
        finally:
            self._end_group(process)
            # A process outside the group may keep the pipe open: do not wait without a limit.
            reader.join(_DRAIN_S)

    def terminate(self) -> None:
        """Ask the group to end, and kill it after the grace period; returns immediately."""
        group = self._group
        if group is None:
            return
        _signal_group(group, signal.SIGTERM)
        # A timer, not a wait: Airflow calls this from a signal handler.
        timer = threading.Timer(self._grace_s, _signal_group, (group, signal.SIGKILL))
        timer.daemon = True
        timer.start()

    def _end_group(self, process: subprocess.Popen[bytes] | WarmProcess) -> None:
        if process.poll() is None:
            _signal_group(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(self._grace_s)
        # Also after a normal end: children of the command may still run.
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        # Process numbers are used again: a later `terminate` must not reach another group.
        self._group = None


def _forward(stream: IO[bytes], on_line: Callable[[str], None]) -> None:
    with stream:
        for line in stream:
            on_line(line.decode("utf-8", "replace").rstrip("\r\n"))


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
