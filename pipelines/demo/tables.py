"""What the demonstration prints at its end: what each day brought, and where the time went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from pipelines.demo.watch import DayRun

MISSING = "–"

LABELS = (
    "rows",
    "AUC, progressive",
    "AUC, held out",
    "AUC, exported",
    "AUC, baseline",
    "rows in table",
    "bytes, trained",
    "bytes, exported",
    "parity, max |Δp|",
    "verdict",
    "run",
    "seconds",
)
"""What is said of a day. Progressive: the model of the day before on the whole day, before learning it."""

_FIGURES = ("rows", "auc_progressive", "auc", "auc_exported", "auc_lr_baseline", "rows_in_table")


def day_table(days: Sequence[DayRun], reports: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a column per day from the runs and the days' reports (keys of `elastic-ctr report --json`)."""
    table = Table(title="What each day brought")
    table.add_column("", no_wrap=True)
    for day in days:
        table.add_column(day.run.day, justify="right", no_wrap=True)
    columns = [list(_day_cells(day, reports.get(day.run.day, {}))) for day in days]
    for index, label in enumerate(LABELS):
        table.add_row(label, *(column[index] for column in columns))
    return table


def stage_table(days: Sequence[DayRun]) -> Table:
    """Return where the time went: seconds of each task per day, and its share of all tasks' seconds."""
    table = Table(title="Where the time went (seconds)")
    table.add_column("task")
    for day in days:
        table.add_column(day.run.day, justify="right")
    table.add_column("share", justify="right")
    total = sum(day.seconds for day in days) or 1.0
    for task_id, seconds in _by_task(days).items():
        table.add_row(
            task_id,
            *(_number(each, ".1f") for each in seconds),
            f"{sum(s or 0 for s in seconds) / total:.0%}",
        )
    table.add_row("all", *(f"{day.seconds:.1f}" for day in days), "100%", style="bold")
    return table


def _day_cells(day: DayRun, report: Mapping[str, Any]) -> Iterable[str]:
    for name in _FIGURES:
        yield _number(report.get(name), ",.0f" if name.startswith("rows") else ".4f")
    yield _bytes(report.get("bytes_trained"))
    yield _bytes(report.get("bytes_exported"))
    yield _number(report.get("parity_max_abs_diff"), ".1e")
    yield str(report.get("verdict") or MISSING)
    yield _state_of(day)
    yield f"{day.seconds:.0f}"


def _state_of(day: DayRun) -> str:
    skipped = any(task.task_id == "ingest" and task.state == "skipped" for task in day.tasks)
    return "no data" if skipped else day.run.state


def _by_task(days: Sequence[DayRun]) -> dict[str, list[float | None]]:
    """Seconds of each task on each day, tasks in the order in which they ran on the first day."""
    names = dict.fromkeys(task.task_id for day in days for task in day.tasks)
    taken = [{task.task_id: task.seconds for task in day.tasks} for day in days]
    return {name: [day.get(name) for day in taken] for name in names}


def _number(value: Any, style: str) -> str:
    return MISSING if value is None or value != value else format(value, style)


def _bytes(count: Any) -> str:
    if count is None:
        return MISSING
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
