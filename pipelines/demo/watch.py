"""Watch a backfill: report each task of each day when its state changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from features.errors import RetryableError
from pipelines.services.airflow_api import AirflowApi, DagRun, TaskInstance

DAG_ID = "daily_retrain"
POLL_S = 2.0

_FINISHED = ("success", "failed")
_ENDED = (*_FINISHED, "skipped", "upstream_failed")
_REPORTED = (*_FINISHED, "skipped", "running", "up_for_retry")


@dataclass(frozen=True)
class Window:
    """The days that a backfill covers, and the time zone in which they begin."""

    first: date
    last: date
    zone: ZoneInfo


@dataclass(frozen=True)
class DayRun:
    """The run of a day, with its tasks."""

    run: DagRun
    tasks: tuple[TaskInstance, ...]

    @property
    def seconds(self) -> float:
        """Sum of the tasks' seconds, also of tasks that ran at the same time."""
        return sum(task.seconds or 0.0 for task in self.tasks)


@dataclass
class Watcher:
    """Polls Airflow and reports each change of a task's state once.

    Attributes:
        api: Airflow.
        window: the days to watch.
        report: receives a line per change.
        advance: receives the number of ended tasks and of all tasks after each poll.
        polled: receives all days after each poll.
        states: (day, task) → last state.
    """

    api: AirflowApi
    window: Window
    report: Callable[[str], None]
    advance: Callable[[int, int], None]
    polled: Callable[[list[DayRun]], None] = lambda _days: None
    states: dict[tuple[str, str], str] = field(default_factory=dict)

    def follow(self, timeout_s: float) -> list[DayRun]:
        """Return the runs when all have ended.

        Raises:
            RetryableError: they have not ended after `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        window = self.window
        while True:
            runs = self.api.runs(DAG_ID, window.first, window.last, window.zone)
            days = [DayRun(run, self._tasks(run)) for run in runs]
            for day in days:
                for task in day.tasks:
                    self._report_change(day.run.day, task)
            ended = sum(task.state in _ENDED for day in days for task in day.tasks)
            # Days that are still queued have no tasks yet, but will have as many as the others.
            per_day = max((len(day.tasks) for day in days), default=0)
            self.advance(ended, per_day * len(days))
            self.polled(days)
            # `all` of no days is true, and Airflow creates the runs a while after the request.
            if days and all(day.run.state in _FINISHED for day in days):
                return days
            if time.monotonic() > deadline:
                raise RetryableError(
                    f"the backfill is not done after {timeout_s:.0f} s; look at the grid in "
                    "Airflow, then run the demo again"
                )
            time.sleep(POLL_S)

    def _tasks(self, run: DagRun) -> tuple[TaskInstance, ...]:
        return () if run.state == "queued" else tuple(self.api.task_instances(DAG_ID, run.run_id))

    def _report_change(self, day: str, task: TaskInstance) -> None:
        if task.state in _REPORTED and self.states.get((day, task.task_id)) != task.state:
            has_time = task.state in _FINISHED and task.seconds is not None
            seconds = f" {task.seconds:6.1f} s" if has_time else ""
            self.report(f"{day}  {task.task_id:<20} {task.state}{seconds}")
        self.states[(day, task.task_id)] = task.state


@contextmanager
def progress(
    console: Console,
) -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None]]]:
    """Give a function that prints a line, and one that moves a progress bar.

    There is a bar on a terminal only. A log file gets plain lines.
    """
    if not console.is_terminal:
        yield (lambda line: console.print(line, highlight=False)), (lambda _done, _total: None)
        return
    columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn()]
    with Progress(*columns, MofNCompleteColumn(), TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("tasks", total=None)
        yield (
            (lambda line: bar.console.print(line, highlight=False)),
            (lambda done, total: bar.update(task, completed=done, total=total or None)),
        )
