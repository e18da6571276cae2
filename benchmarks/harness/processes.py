"""Processes of a benchmark: one that answers once in JSON, and one that is asked line by line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[1]
ROOT = BENCHMARKS.parent
QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "CUDA_VISIBLE_DEVICES": "-1",
    "PYTHONPATH": str(BENCHMARKS),
    "PYTHONWARNINGS": "ignore",
}
_TAIL = 1500
_STOP_S = 30


class ProcessFailed(Exception):
    """A process ended without its answer; the message holds the end of what it printed."""


def run_json(command: Sequence[str], environment: Mapping[str, str] = {}) -> dict[str, Any]:
    """Run a command and return the JSON on the last line of its standard output.

    Raises:
        ProcessFailed: it ended with an error.
    """
    done = subprocess.run(
        list(command),
        capture_output=True,
        text=True,
        env={**os.environ, **QUIET, **environment},
        check=False,
    )
    if done.returncode:
        raise ProcessFailed(f"{command[1:3]}: exit code {done.returncode}: …{done.stderr[-_TAIL:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


class Process:
    """A running process that answers JSON lines; a context manager that ends it.

    Args:
        command: the words to start it with.
        log: the file that its standard error is written to.
        environment: variables beside this process's own.
        cwd: its working directory; None: this process's own.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] = {},
        cwd: Path | None = None,
    ) -> None:
        self._log = log
        with log.open("w") as errors:
            # In a session of its own: Linux shares the CPUs among sessions (autogroups) first.
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=cwd,
                start_new_session=True,
                env={**os.environ, **QUIET, **environment},
            )

    def answer(self) -> dict[str, Any]:
        """Return its next answer.

        Raises:
            ProcessFailed: it ended instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            end = self._log.read_text(errors="replace")[-_TAIL:]
            raise ProcessFailed(f"exit code {self._process.wait()}: …{end}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and return the answer.

        Raises:
            ProcessFailed: it ended before it answered.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: answer() says why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """End the process by the end of its input, and by force if that does not help."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # an unread request was left in it
                pipe.close()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run_function(module: str, function: str, **arguments: Any) -> dict[str, Any]:
    """Return what `module.function(**arguments)` returns in a process of its own.

    Raises:
        ProcessFailed: it raised.
    """
    command = [sys.executable, "-m", "harness.processes", module, function]
    path = os.pathsep.join((str(BENCHMARKS), str(ROOT)))
    return run_json([*command, json.dumps(arguments)], {"PYTHONPATH": path})


if __name__ == "__main__":
    _named = getattr(import_module(sys.argv[1]), sys.argv[2])
    print(json.dumps(_named(**json.loads(sys.argv[3]))))
