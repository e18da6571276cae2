"""The driver's end of a system's process: start it, ask it for blocks of steps, end it."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

_HERE = Path(__file__).resolve().parents[1]
QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "CUDA_VISIBLE_DEVICES": "-1",
    "PYTHONPATH": str(_HERE),
    "PYTHONWARNINGS": "ignore",
}
_TAIL = 1500
_STOP_S = 30


class SystemFailed(Exception):
    """A system's process ended before it answered; the message holds the end of what it printed."""


@dataclass(frozen=True)
class Command:
    """How to start a system.

    Attributes:
        python: the interpreter of its environment.
        module: below `elastic_peers.systems`.
        arguments: after the work's folder.
        environment: variables beside the driver's own.
    """

    python: Path
    module: str
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


class Process:
    """A running system; a context manager that ends it."""

    def __init__(self, command: Command, folder: Path, log: Path) -> None:
        self._log = log
        words = [
            str(command.python),
            "-m",
            "elastic_peers.worker",
            command.module,
            str(folder),
            *command.arguments,
        ]
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **QUIET, **dict(command.environment)},
            )

    def answer(self) -> dict[str, Any]:
        """Return its next answer.

        Raises:
            SystemFailed: it ended instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemFailed(
                f"exit code {self._process.wait()}: …{self._log.read_text(errors='replace')[-_TAIL:]}"
            )
        return json.loads(line)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return the answer.

        Raises:
            SystemFailed: it ended before it answered.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: answer() says why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """End the process: by the end of its input, and by force when it does not heed that."""
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
