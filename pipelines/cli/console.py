"""What a person sees: lines, tables and complaints, coloured on a terminal and plain in a log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pipelines.stages.stage import Outcome

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)
_SHOWN = 4


def say(text: str) -> None:
    """Print one line of progress."""
    _out.print(f"  {text}", markup=False)


def heading(text: str) -> None:
    """Print a heading."""
    _out.print(f"[bold]{text}[/bold]")


def complain(text: str) -> None:
    """Print an error to standard error."""
    _err.print("[bold red]error:[/bold red] ", end="")
    _err.print(text, markup=False)


def show_outcome(outcome: Outcome) -> None:
    """Print what a stage did: its figures, or that it was committed already."""
    state = "already committed" if outcome.reused else f"{outcome.seconds:.1f} s"
    figures = "" if outcome.reused else _figures(outcome.version.metrics)
    _out.print(f"  {outcome.stage:<19} {state:>18}  {figures}", markup=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table; numbers are aligned right."""
    view = Table(title=Text(title), title_justify="left", title_style="bold")
    for column in columns:
        view.add_column(Text(column), justify="right")
    for row in rows:
        view.add_row(*(Text(format_value(value)) for value in row))
    _out.print(view)


def format_value(value: Any) -> str:
    """Spell a value for a table: missing as a dash, large integers with commas, floats with five figures."""
    if value is None or value != value:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def format_bytes(count: float | None) -> str:
    """Spell a number of bytes: 1.5 MB."""
    if count is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _figures(metrics: Mapping[str, Any]) -> str:
    plain = [(k, v) for k, v in metrics.items() if isinstance(v, bool | int | float | str)]
    return "  ".join(f"{k} {format_value(v)}" for k, v in plain[:_SHOWN])
