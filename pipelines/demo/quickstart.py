"""`elastic-ctr quickstart`: two simulated days through the whole chain, in one process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from features.partition import days_between
from pipelines.cli import console, options
from pipelines.demo.run import SIMULATED, last_of, print_summary
from pipelines.stages.chain import run_day, sync
from pipelines.stages.report import day_report

DAYS = 2
WORKSPACE = Path("workspace-quickstart")


def quickstart(
    workspace: Annotated[
        Path, typer.Option("--workspace", "-w", help="Folder of the artifacts.")
    ] = WORKSPACE,
) -> None:
    """Train two simulated days in this process, without Airflow; takes about a minute.

    Runs the stages of a day as Airflow would, with the profile conf/simulated.yaml and MLflow in a
    file. Prints what each part did and writes it to WORKSPACE/demo/summary.html.
    """
    began, reports = time.monotonic(), {}
    for day in days_between(SIMULATED.first, last_of(SIMULATED.first, DAYS)):
        console.heading(str(day))
        context = options.stage_context(SIMULATED.config, workspace, [], day)
        for result in run_day(context):
            console.show_result(result)
        reports[day.isoformat()] = day_report(context.store, day)
    sync(context)
    notes = {"seconds": f"{time.monotonic() - began:.0f} in all"}
    print_summary(workspace, SIMULATED.config, reports, notes)
    console.info(f"next: `elastic-ctr lift -c {SIMULATED.config} -w {workspace}`, `make demo`")
