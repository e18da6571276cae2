"""What `elastic-ctr run` does, a line of JSON a stage: `run_worker.py CONFIG WORKSPACE DAY…`.

A separate process, so that the first day is cold: libraries, kernels and Spark start in it.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import date
from pathlib import Path

import psutil

from day_parts.processes import cpu_seconds, tree
from pipelines.cli import main as cli
from pipelines.cli.options import stage_context
from pipelines.stages.chain import STAGES, run_stage, sync


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
