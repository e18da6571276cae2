"""The tables that the demo prints at its end: metrics by day, and seconds by task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from pipelines.cli.console import MISSING, format_bytes, format_value
from pipelines.demo.watch import DayRun

_POSSIBLE = "AUC, possible"
"""AUC of the true probabilities."""

_METRICS = {
    # Progressive: the model of the day before, on the whole day, before it is trained on.
    "rows": ("rows", ",.0f"),
    "AUC, progressive": ("auc_progressive", ".4f"),
    "AUC, held out": ("auc", ".4f"),
    "AUC, exported": ("auc_exported", ".4f"),
    "AUC, baseline": ("auc_lr_baseline", ".4f"),
    _POSSIBLE: ("auc_possible", ".4f"),
    "rows in table": ("rows_in_table", ",.0f"),
}
"""Label → key of `elastic-ctr report --json`, and format."""


def day_table(days: Sequence[DayRun], reports: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a table with a column per day.

    Args:
        days: the finished runs.
        reports: day → metrics, as in `elastic-ctr report --json`.
    """
    found = {day.run.day: reports.get(day.run.day, {}) for day in days}
    table = report_table(found)
    runs = [dict(_run_cells(day)) for day in days]
    for label in dict.fromkeys(label for run in runs for label in run):
        table.add_row(label, *(run[label] for run in runs))
    return table


def report_table(reports: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a table with a column per day.

    Args:
        reports: day → metrics, as in `elastic-ctr report --json`, in order.
    """
    table = Table(title="Results by day")
    table.add_column("", no_wrap=True)
    for day in reports:
        table.add_column(day, justify="right", no_wrap=True)
    for label, cells in figure_rows(reports):
        table.add_row(label, *cells)
    return table


def figure_rows(reports: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Yield the label of each figure and its text for each day."""
    columns = [dict(_cells(report)) for report in reports.values()]
    for label in dict.fromkeys(label for column in columns for label in column):
        # Only a simulated log has it.
        if label != _POSSIBLE or any(column[label] != MISSING for column in columns):
            yield label, [column[label] for column in columns]


def stage_table(days: Sequence[DayRun]) -> Table:
    """Return a table of seconds by task and day, with each task's share of the total."""
    table = Table(title="Seconds by task")
    table.add_column("task")
    for day in days:
        table.add_column(day.run.day, justify="right")
    table.add_column("share", justify="right")
    # Not 0: with no task run at all the shares would divide by it.
    total = sum(day.seconds for day in days) or 1.0
    seconds_by_day = [{task.task_id: task.seconds for task in day.tasks} for day in days]
    # In the order in which tasks ran on the first day.
    for task_id in dict.fromkeys(task.task_id for day in days for task in day.tasks):
        seconds = [by_task.get(task_id) for by_task in seconds_by_day]
        share = f"{sum(each or 0 for each in seconds) / total:.0%}"
        table.add_row(task_id, *(format_value(each, ".1f") for each in seconds), share)
    table.add_row("all", *(f"{day.seconds:.1f}" for day in days), "100%", style="bold")
    return table


def _cells(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for label, (key, style) in _METRICS.items():
        yield label, format_value(report.get(key), style)
    yield "bytes, trained", format_bytes(report.get("bytes_trained"))
    yield "bytes, exported", format_bytes(report.get("bytes_exported"))
    yield "parity, max |Δp|", format_value(report.get("parity_max_abs_diff"), ".1e")
    yield "verdict", str(report.get("verdict") or MISSING)


def _run_cells(day: DayRun) -> Iterator[tuple[str, str]]:
    skipped = any(task.task_id == "ingest" and task.state == "skipped" for task in day.tasks)
    yield "run", "no data" if skipped else day.run.state
    yield "seconds", f"{day.seconds:.0f}"
