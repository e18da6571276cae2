"""Watch runs of DAGs: report each task when its state changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

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
class DayRun:
    """A run, as a rule of a day, with its tasks."""

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
        runs: returns the runs to watch, with their present states.
        report: receives a line per change.
        advance: receives the number of ended tasks and of all tasks after each poll.
        polled: receives all runs after each poll.
        states: (run, task) → last state.
    """

    api: AirflowApi
    runs: Callable[[], Sequence[DagRun]]
    report: Callable[[str], None]
    advance: Callable[[int, int], None]
    polled: Callable[[list[DayRun]], None] = lambda _runs: None
    states: dict[tuple[str, str], str] = field(default_factory=dict)

    def follow(self, timeout_s: float) -> list[DayRun]:
        """Return the runs when all have ended.

        Raises:
            RetryableError: they have not ended after `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            found = [DayRun(run, self._tasks(run)) for run in self.runs()]
            for each in found:
                for task in each.tasks:
                    self._report_change(each.run, task)
            ended = sum(task.state in _ENDED for each in found for task in each.tasks)
            # Runs that are still queued have no tasks yet, but will have as many as the others.
            per_run = max((len(each.tasks) for each in found), default=0)
            self.advance(ended, per_run * len(found))
            self.polled(found)
            # `all` of no runs is true, and Airflow creates the runs a while after the request.
            if found and all(each.run.state in _FINISHED for each in found):
                return found
            if time.monotonic() > deadline:
                raise RetryableError(
                    f"the runs are not done after {timeout_s:.0f} s; look at the grid in "
                    "Airflow, then run the demo again"
                )
            time.sleep(POLL_S)

    def _tasks(self, run: DagRun) -> tuple[TaskInstance, ...]:
        return (
            () if run.state == "queued" else tuple(self.api.task_instances(run.dag_id, run.run_id))
        )

    def _report_change(self, run: DagRun, task: TaskInstance) -> None:
        if task.state in _REPORTED and self.states.get((run.run_id, task.task_id)) != task.state:
            has_time = task.state in _FINISHED and task.seconds is not None
            seconds = f" {task.seconds:6.1f} s" if has_time else ""
            label = f"{run.day or run.dag_id:<17}"
            self.report(f"{label} {task.task_id:<20} {task.state}{seconds}")
        self.states[(run.run_id, task.task_id)] = task.state


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
