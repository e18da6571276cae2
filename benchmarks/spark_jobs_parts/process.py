"""A process under measurement: its answer, and the most memory that it and its children held."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from harness.processes import ProcessFailed

_HERE = Path(__file__).resolve().parents[1]
SERVER_PID = "ELASTIC_CTR_BENCHMARK_SPARK"
"""The process id of the resident Spark server, where there is one."""

_EVERY_S = 0.1
_TAIL = 2000


def answer(command: Sequence[str], server: int | None = None) -> dict[str, Any]:
    """Run a command and return the JSON of its last line, with `peak_gib` beside: resident memory of the whole tree.

    Args:
        command: what to run.
        server: the process id of a Spark server that it uses, whose memory counts too.

    Raises:
        ProcessFailed: it ended with an error.
    """
    path = os.pathsep.join(
        filter(None, (str(_HERE), str(_HERE.parent), os.environ.get("PYTHONPATH")))
    )
    environment = {**os.environ, "PYTHONPATH": path, SERVER_PID: str(server or 0)}
    process = subprocess.Popen(
        list(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    watch = _Watch(process.pid, server)
    out, errors = process.communicate()
    peak = watch.stop()
    if process.returncode:
        raise ProcessFailed(
            f"{command[0]} {command[1]} …: exit code {process.returncode}: …{errors[-_TAIL:]}"
        )
    told: dict[str, Any] = json.loads(out.splitlines()[-1])
    return told | {"peak_gib": peak / 2**30}


class _Watch:
    """A thread that looks at a process tree, and at a server beside it, ten times a second."""

    def __init__(self, pid: int, server: int | None) -> None:
        self._roots = [psutil.Process(each) for each in (pid, server) if each]
        self._peak, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Return the peak in bytes."""
        self._over.set()
        self._thread.join()
        return self._peak

    def _look(self) -> None:
        while not self._over.wait(_EVERY_S):
            self._peak = max(self._peak, sum(_resident(root) for root in self._roots))


def _resident(root: psutil.Process) -> int:
    try:
        return sum(process.memory_info().rss for process in (root, *root.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0
