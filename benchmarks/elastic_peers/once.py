"""Figures that need a fresh process: `python -m elastic_peers.once MODULE JSON` prints what `MODULE.measure(**JSON)` returns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from typing import Any

from elastic_peers.process import QUIET, SystemFailed

_TAIL = 1500


def in_a_process(module: str, **arguments: Any) -> dict[str, Any]:
    """Return what `elastic_peers.MODULE.measure(**arguments)` returns in a process of its own.

    Raises:
        SystemFailed: it raised.
    """
    command = [sys.executable, "-m", "elastic_peers.once", module, json.dumps(arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **QUIET}, check=False
    )
    if done.returncode:
        raise SystemFailed(f"{module}: …{done.stderr[-_TAIL:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(
        json.dumps(import_module(f"elastic_peers.{sys.argv[1]}").measure(**json.loads(sys.argv[2])))
    )
