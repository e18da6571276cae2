"""Start the services, run days through Airflow, print the results and stop the services."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from rich.console import Console

from features.errors import InputError
from pipelines.demo.tables import day_table, stage_table
from pipelines.demo.watch import DAG_ID, DayRun, Watcher, Window, progress
from pipelines.services.airflow_api import AirflowApi
from pipelines.services.control import Services, default_folder, running
from pipelines.services.environment import (
    FOLDERS_VARIABLE,
    REPOSITORY,
    USER,
    allowed_folders,
    data_folder,
)
from pipelines.services.processes import wait_until
from pipelines.services.schedule import PARTITION_VARIABLE, runs_by_hour, schedule_zone
from pipelines.stages.report import day_report
from pipelines.store.artifacts import Store
from pipelines.tracking.pages import start_pages

DAG_TIMEOUT_S = 180.0
BACKFILL_TIMEOUT_S = 6 * 3600.0
LOG_LINES = 25
DAYS = 3


@dataclass(frozen=True)
class Subject:
    """What the demo trains: a configuration, and the first day of its log."""

    config: Path
    first: date


KUAIRAND = Subject(REPOSITORY / "conf" / "kuairand_pure.yaml", date(2022, 4, 25))
SIMULATED = Subject(REPOSITORY / "conf" / "simulated.yaml", date(2026, 1, 1))


def default_subject() -> Subject:
    """Return the KuaiRand log if its folder is found, else the simulator."""
    return KUAIRAND if (data_folder() / "kuairand_pure").is_dir() else SIMULATED


def run_demo(
    config: Path,
    workspace: Path,
    first: date,
    last: date,
    *,
    keep: bool,
    login: bool = True,
    folder: Path | None = None,
) -> int:
    """Train each day from `first` to `last` through Airflow and print the results.

    Args:
        config: the YAML file.
        workspace: folder of the artifacts.
        first: first day.
        last: last day, inclusive.
        keep: leave the services running; otherwise those that were started here are stopped.
        login: whether Airflow asks for a password.
        folder: run folder of the services.

    Returns:
        0, or 1 if a day failed.

    Raises:
        RetryableError: a service did not start or does not answer.
        InputError: Airflow rejected a request, a DAG file cannot be imported, or the environment
            configures hourly runs.
    """
    if runs_by_hour():
        raise InputError(f"the demo runs whole days: unset {PARTITION_VARIABLE} first")
    console, began = Console(highlight=False), time.monotonic()
    console.print(
        f"Starting Airflow, MLflow and Spark for [bold]{config.stem}[/bold], {first} to {last}"
    )
    window = Window(first, last, schedule_zone())
    # Absolute paths, because Airflow's processes run in the folder of the packages.
    conf = {"config": str(config.resolve()), "workspace": str(workspace.resolve())}
    # The services that this starts accept the demo's own files.
    folders = [*allowed_folders(), str(config.resolve().parent), conf["workspace"]]
    os.environ[FOLDERS_VARIABLE] = os.pathsep.join(folders)
    with running(folder or default_folder(), keep=keep, login=login) as services:
        _show_addresses(console, services, time.monotonic() - began)
        # 1. Request the days.
        api = services.api()
        # The DAG processor needs a while to find the DAG after the start.
        dag = f"the DAG {DAG_ID}"
        wait_until(lambda: api.has_dag(DAG_ID), services.processes, DAG_TIMEOUT_S, dag)
        api.backfill(DAG_ID, first, last, conf, window.zone)
        # 2. Follow them, and show what came of them.
        with progress(console) as (report, advance):
            days = Watcher(api, window, report, advance).follow(BACKFILL_TIMEOUT_S)
        _show_results(console, api, days, workspace)
        if keep:
            _show_addresses(console, services, time.monotonic() - began)
    stopped = "" if keep else "; the services that the demo started are stopped"
    console.print(f"{time.monotonic() - began:.0f} s in total{stopped}")
    return int(any(day.run.state != "success" for day in days))


def last_of(first: date, days: int) -> date:
    """Return the last of `days` days."""
    return first + timedelta(days=days - 1)


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
                failed = f"[bold red]{day.run.day}: {task.task_id} failed.[/bold red]"
                console.print(f"{failed} Its log ends with:")
                log = api.log(DAG_ID, day.run.run_id, task.task_id, task.tries)
                # Its end says why a stage failed. Without markup: log lines contain brackets.
                lines = log.splitlines()[-LOG_LINES:]
                console.print("\n".join(lines), markup=False, soft_wrap=True)


def _show_addresses(console: Console, services: Services, seconds: float) -> None:
    login = f"  (login {USER}, password in {services.passwords})" if services.login else ""
    console.print(f"Airflow  {services.airflow_url}/dags/{DAG_ID}{login}", soft_wrap=True)
    for address in start_pages(services.mlflow_url):
        console.print(f"MLflow   {address}", soft_wrap=True)
    console.print(f"(after {seconds:.0f} s)")
