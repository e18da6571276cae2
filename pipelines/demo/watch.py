"""Follow a backfill: say what each task of each day does as it happens."""

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

_DONE = ("success", "failed")
_ENDED = ("success", "failed", "skipped", "upstream_failed")
_SPOKEN = ("running", "up_for_retry", "success", "failed", "skipped")


@dataclass(frozen=True)
class Window:
    """The days that a backfill covers, and the zone in which they begin."""

    first: date
    last: date
    zone: ZoneInfo


@dataclass(frozen=True)
class DayRun:
    """A finished run: its day, its state, and its tasks."""

    run: DagRun
    tasks: tuple[TaskInstance, ...]

    @property
    def seconds(self) -> float:
        """Seconds that its tasks took, summed (tasks side by side count twice)."""
        return sum(task.seconds or 0.0 for task in self.tasks)


@dataclass
class Watcher:
    """Polls Airflow and reports each change of a task's state once; `polled` gets all days after every look."""

    api: AirflowApi
    window: Window
    say: Callable[[str], None]
    advance: Callable[[int, int], None]
    polled: Callable[[list[DayRun]], None] = lambda _days: None
    seen: dict[tuple[str, str], str] = field(default_factory=dict)

    def follow(self, timeout_s: float) -> list[DayRun]:
        """Return the runs when all have ended; raises RetryableError when the time is up."""
        deadline = time.monotonic() + timeout_s
        while True:
            days = [DayRun(run, self._tasks(run)) for run in self._runs()]
            self._report(days)
            self.polled(days)
            if days and all(day.run.state in _DONE for day in days):
                return days
            if time.monotonic() > deadline:
                raise RetryableError(
                    f"the backfill is not done after {timeout_s:.0f} s; look at the grid, then run again"
                )
            time.sleep(POLL_S)

    def _runs(self) -> list[DagRun]:
        return self.api.runs(DAG_ID, self.window.first, self.window.last, self.window.zone)

    def _tasks(self, run: DagRun) -> tuple[TaskInstance, ...]:
        return () if run.state == "queued" else tuple(self.api.task_instances(DAG_ID, run.run_id))

    def _report(self, days: list[DayRun]) -> None:
        for day in days:
            for task in day.tasks:
                self._mention(day.run.day, task)
        ended = sum(task.state in _ENDED for day in days for task in day.tasks)
        per_day = max((len(day.tasks) for day in days), default=0)
        self.advance(ended, per_day * len(days))

    def _mention(self, day: str, task: TaskInstance) -> None:
        if task.state in _SPOKEN and self.seen.get((day, task.task_id)) != task.state:
            took = (
                f" {task.seconds:6.1f} s"
                if task.state in _DONE and task.seconds is not None
                else ""
            )
            self.say(f"{day}  {task.task_id:<20} {task.state}{took}")
        self.seen[(day, task.task_id)] = task.state


@contextmanager
def progress(
    console: Console,
) -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None]]]:
    """Give a function that prints a line and one that moves the bar: a live bar on a terminal, plain lines otherwise."""
    if not console.is_terminal:
        yield (lambda line: console.print(line, highlight=False)), (lambda _done, _total: None)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("tasks", total=None)
        yield (
            (lambda line: bar.console.print(line, highlight=False)),
            (lambda done, total: bar.update(task, completed=done, total=total or None)),
        )
