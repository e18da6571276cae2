"""Start the services, run days through Airflow and what follows them, print the results."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from features.errors import InputError
from pipelines.demo.mission import Mission
from pipelines.demo.summary import PAGE, summarize, summary_table, write_page
from pipelines.demo.tables import day_table, stage_table
from pipelines.demo.watch import DAG_ID, DayRun, Watcher, progress
from pipelines.services.airflow_api import AirflowApi
from pipelines.services.control import Services, default_folder, running
from pipelines.services.environment import FOLDERS_VARIABLE, REPOSITORY, USER, allowed_folders
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


SIMULATED = Subject(REPOSITORY / "conf" / "simulated.yaml", date(2026, 1, 1))


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
    zone = schedule_zone()
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
        api.backfill(DAG_ID, first, last, conf, zone)
        # 2. Follow them, and show what came of them.
        with progress(console) as (report, advance):
            watcher = Watcher(api, lambda: api.runs(DAG_ID, first, last, zone), report, advance)
            days = watcher.follow(BACKFILL_TIMEOUT_S)
        reports = _show_results(console, api, days, workspace)
        failed = any(day.run.state != "success" for day in days)
        # 3. What is done with a model after its day, and what becomes of a spoilt day.
        if not failed:
            mission = Mission(console, services, config.resolve(), workspace.resolve(), last)
            mission.run()
            seconds = f"{time.monotonic() - began:.0f}, services and all commands included"
            print_summary(workspace, config, reports, {**mission.notes, "seconds": seconds})
            for sentence in mission.failed:
                console.print(f"[bold red]failed:[/bold red] {escape(sentence)}", soft_wrap=True)
            failed = bool(mission.failed)
        if keep:
            _show_addresses(console, services, time.monotonic() - began)
    stopped = "" if keep else "; the services that the demo started are stopped"
    console.print(f"{time.monotonic() - began:.0f} s in total{stopped}")
    return int(failed)


def last_of(first: date, days: int) -> date:
    """Return the last of `days` days."""
    return first + timedelta(days=days - 1)


def print_summary(
    workspace: Path,
    config: Path,
    reports: Mapping[str, Mapping[str, Any]],
    notes: Mapping[str, str],
) -> None:
    """Print what each part did, and write it as a page.

    Args:
        workspace: the trained days.
        config: the YAML file.
        reports: day (ISO) → its report.
        notes: part → what it did, of parts that leave no artifact.
    """
    console = Console(highlight=False)
    summary = summarize(Store(workspace.resolve()), config.stem, reports, notes)
    console.print(summary_table(summary))
    page = write_page(summary, workspace.resolve() / "demo" / PAGE)
    console.print(f"The same with plots: {page}", soft_wrap=True)


def _show_results(
    console: Console, api: AirflowApi, days: Sequence[DayRun], workspace: Path
) -> Mapping[str, Mapping[str, Any]]:
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
    return reports


def _show_addresses(console: Console, services: Services, seconds: float) -> None:
    login = f"  (login {USER}, password in {services.passwords})" if services.login else ""
    console.print(f"Airflow  {services.airflow_url}/dags/{DAG_ID}{login}", soft_wrap=True)
    for address in start_pages(services.mlflow_url):
        console.print(f"MLflow   {address}", soft_wrap=True)
    console.print(f"(after {seconds:.0f} s)")
