"""What `elastic-ctr run` does, a line of JSON per stage: `day_run_worker.py CONFIG WORKSPACE DAY…`.

A separate process, so that the first day is cold: libraries, kernels and Spark start in it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import date
from pathlib import Path

import psutil

from pipelines.cli import main as cli
from pipelines.cli.options import stage_context
from pipelines.stages.chain import STAGES, run_stage, sync


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Return user and system seconds of processes and of their ended children.

    Args:
        processes: all of a tree that run now. What a child used counts in its parent as soon as it
            was waited for, so a sum over the running ones counts everything once.
    """
    total = 0.0
    for process in processes:
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def tree(root: psutil.Process) -> list[psutil.Process]:
    """Return a process and all that descend from it."""
    return [root, *root.children(recursive=True)]


def main(config: str, workspace: str, *days: str) -> None:
    """Run every stage of the days in order; what each of them took goes to standard output."""
    cli.quiet_libraries()
    own = psutil.Process()
    for day in map(date.fromisoformat, days):
        context = stage_context(Path(config), Path(workspace), [], day)
        for name in STAGES:
            started, used = time.monotonic(), cpu_seconds(tree(own))
            outcome = run_stage(name, context)
            figures = {
                "seconds": time.monotonic() - started,
                "cpu_s": cpu_seconds(tree(own)) - used,
            }
            print(
                json.dumps({"day": day.isoformat(), "stage": outcome.stage, **figures}), flush=True
            )
    sync(context)


if __name__ == "__main__":
    main(*sys.argv[1:])
