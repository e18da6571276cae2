"""Output for people: lines, tables and errors, coloured on a terminal and plain in a log file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from features.redaction import redact
from pipelines.services.environment import RUN_URL_VARIABLE
from pipelines.tracking.journal import TrackingJournal

if TYPE_CHECKING:
    from pipelines.stages.stage import Context, StageResult

MISSING = "–"
"""Stands in a table for a value that is missing or not a number."""

_SHOWN_METRICS = 4

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)


def info(text: str) -> None:
    """Print one line of progress."""
    # Without markup: paths and values may contain brackets.
    _out.print(f"  {redact(text)}", markup=False)


def warning(text: str) -> None:
    """Print one line to standard error: what a script that reads the output must not get."""
    _err.print(f"  {text}", markup=False)


def heading(text: str) -> None:
    """Print a heading."""
    _out.print(f"[bold]{text}[/bold]")


def error(text: str) -> None:
    """Print an error to standard error."""
    _err.print("[bold red]error:[/bold red] ", end="")
    _err.print(redact(text), markup=False)


def show_result(result: StageResult) -> None:
    """Print the duration and first metrics of a stage, or that it was committed before."""
    state, figures = "already committed", ""
    if not result.reused:
        state = f"{result.seconds:.1f} s"
        metrics = result.version.metrics.items()
        # Lists and mappings do not fit on a line.
        plain = [(k, v) for k, v in metrics if isinstance(v, bool | int | float | str)]
        figures = "  ".join(f"{k} {format_value(v)}" for k, v in plain[:_SHOWN_METRICS])
    _out.print(f"  {result.stage:<19} {state:>18}  {figures}", markup=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table of values, each formatted by `format_value`."""
    view = Table(title=Text(title), title_justify="left", title_style="bold")
    for column in columns:
        # `Text`, here and below: Rich would read brackets in a string as markup.
        view.add_column(Text(column), justify="right")
    for row in rows:
        view.add_row(*(Text(format_value(value)) for value in row))
    _out.print(view)


def format_value(value: Any, style: str = "") -> str:
    """Format a value for a table.

    Args:
        value: None and NaN become a dash, booleans `yes` or `no`.
        style: format of a number, such as `.1f`. By default integers have thousands separators
            and floats five significant digits.
    """
    # NaN is the only value that differs from itself.
    if value is None or value != value:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return format(value, style or ("," if isinstance(value, int) else ".5g"))
    return str(value)


def format_bytes(count: float | None) -> str:
    """Format a number of bytes in decimal units, such as `1.5 MB`."""
    if count is None:
        return MISSING
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def say_links(stage: str, context: Context) -> None:
    """Print the addresses of what MLflow has of the stage's run; the DAG reads the lines."""
    journal = TrackingJournal(context.store.workspace)
    # While the run is not sent, the addresses are those of an earlier one.
    sent = not any(f"-{stage}-" in path.name for path in journal.pending())
    if os.environ.get(RUN_URL_VARIABLE) and sent:
        for name, address in journal.links(context.day, stage).items():
            print(f"link={name} {address}")
