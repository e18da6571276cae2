"""Start the services, have Airflow work through the days, show what came out, stop what was started."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from features.errors import InputError
from pipelines.demo.tables import day_table, stage_table
from pipelines.demo.watch import DAG_ID, DayRun, Watcher, Window, progress
from pipelines.services.airflow_api import AirflowApi, TaskInstance
from pipelines.services.control import Services, default_folder, running
from pipelines.services.environment import REPOSITORY, data_folder
from pipelines.services.processes import wait_until
from pipelines.services.schedule import PARTITION_VARIABLE, runs_by_hour, schedule_zone
from pipelines.stages.report import day_report
from pipelines.store.artifacts import Store

DAG_TIMEOUT_S = 180.0
BACKFILL_TIMEOUT_S = 6 * 3600.0
LOG_LINES = 25
DAYS = 3


@dataclass(frozen=True)
class Subject:
    """What is demonstrated: a configuration and the days of its log, from the first one."""

    config: Path
    first: date


KUAIRAND = Subject(REPOSITORY / "conf" / "kuairand_pure.yaml", date(2022, 4, 25))
SIMULATED = Subject(REPOSITORY / "conf" / "simulated.yaml", date(2026, 1, 1))


def default_subject() -> Subject:
    """Return the real log where its folder is found, else the simulator."""
    return KUAIRAND if (data_folder() / "kuairand_pure").is_dir() else SIMULATED


def run_demo(
    config: Path,
    workspace: Path,
    first: date,
    last: date,
    *,
    keep: bool,
    folder: Path | None = None,
) -> int:
    """Train each day from `first` to `last` through Airflow and print what came out.

    Args:
        config: the YAML file, and `workspace`: where artifacts go.
        keep: leave the services running; else those that were started here are stopped.
        folder: the services' run folder.

    Returns:
        0, or 1 when a day failed.

    Raises:
        RetryableError: a service did not start or stopped answering.
        InputError: Airflow refused a request, a DAG file cannot be imported, or runs are set to be of hours.
    """
    if runs_by_hour():
        raise InputError(f"the demo goes by the day: unset {PARTITION_VARIABLE} first")
    console, began = Console(), time.monotonic()
    console.print(
        f"Starting Airflow, MLflow and Spark for [bold]{config.stem}[/bold], {first} to {last}",
        highlight=False,
    )
    with running(folder or default_folder(), keep=keep) as services:
        _show_addresses(console, services, time.monotonic() - began)
        days = _work(
            console, services, Window(first, last, schedule_zone()), _conf(config, workspace)
        )
        _show_results(console, services.api(), days, workspace)
        if keep:
            _show_addresses(console, services, time.monotonic() - began)
    console.print(
        f"{time.monotonic() - began:.0f} s in all{'' if keep else '; the services this started are stopped'}",
        highlight=False,
    )
    return int(any(day.run.state != "success" for day in days))


def last_of(first: date, days: int) -> date:
    """Return the last of so many days."""
    return first + timedelta(days=days - 1)


def _conf(config: Path, workspace: Path) -> dict[str, str]:
    return {"config": str(config.resolve()), "workspace": str(workspace.resolve())}


def _work(
    console: Console, services: Services, window: Window, conf: Mapping[str, Any]
) -> list[DayRun]:
    api = services.api()
    wait_until(lambda: api.has_dag(DAG_ID), services.processes, DAG_TIMEOUT_S, f"the DAG {DAG_ID}")
    api.backfill(DAG_ID, window.first, window.last, conf, window.zone)
    with progress(console) as (say, advance):
        return Watcher(api, window, say, advance).follow(BACKFILL_TIMEOUT_S)


def _show_results(
    console: Console, api: AirflowApi, days: Sequence[DayRun], workspace: Path
) -> None:
    store = Store(workspace.resolve())
    reports = {day.run.day: day_report(store, date.fromisoformat(day.run.day)) for day in days}
    console.print(day_table(days, reports))
    console.print(stage_table(days))
    for day in days:
        for task in day.tasks:
            if task.state == "failed":
                _show_failure(console, api, day, task)


def _show_failure(console: Console, api: AirflowApi, day: DayRun, task: TaskInstance) -> None:
    console.print(
        f"[bold red]{day.run.day}: {task.task_id} failed.[/bold red] Its log ends with:",
        highlight=False,
    )
    lines = api.log(DAG_ID, day.run.run_id, task.task_id, task.tries).splitlines()
    console.print("\n".join(lines[-LOG_LINES:]), markup=False, highlight=False, soft_wrap=True)


def _show_addresses(console: Console, services: Services, seconds: float) -> None:
    console.print(
        f"Airflow  {services.airflow_url}/dags/{DAG_ID}\nMLflow   {services.mlflow_url}\n(after {seconds:.0f} s)",
        highlight=False,
    )
