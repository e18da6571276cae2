"""The picture of `select-features`: importance beside cost, field by field."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from compression.selection.report import Line, Selection
from pipelines.cli.console import format_bytes

_INK, _MUTED, _GRID = "#1c2733", "#8a97a6", "#e3e8ee"
_KEPT, _DROPPED = "#1f6fb2", "#c9d1da"


def plot_selection(found: Selection, name: str, path: Path) -> Path:
    """Draw the importance of every field beside the bytes that it alone takes; return the path.

    Args:
        found: the selection.
        name: says what model it is.
        path: PNG to write; its folder is made if missing.
    """
    lines = list(found.lines())
    figure = Figure(figsize=(10.5, 2.0 + 0.25 * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    _importance(left, lines)
    _cost(right, lines)
    figure.suptitle(_message(found), x=0.01, ha="left", fontweight="bold", color=_INK, fontsize=13)
    left.set_title(_details(found, name), loc="left", color=_MUTED, fontsize=9.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return path


def _importance(axes: Axes, lines: Sequence[Line]) -> None:
    _bars(axes, lines, [line.importance for line in lines])
    axes.set_yticks(range(len(lines)), [line.name for line in lines], color=_INK)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set(xlim=(0, 1), xlabel="importance: learned chance δ to be kept")


def _cost(axes: Axes, lines: Sequence[Line]) -> None:
    _bars(axes, lines, [max(1, line.bytes) for line in lines])
    for place, line in enumerate(lines):
        label = f" {format_bytes(line.bytes)} · {line.online:.3g}"
        axes.text(max(1, line.bytes), place, label, va="center", color=_MUTED, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(left=10, right=30 * max(100, *(line.bytes for line in lines)))
    axes.xaxis.set_major_locator(LogLocator(numticks=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count / 1000:,.10g} kB"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(
        "cost: bytes saved without the field (log)\nbeside each bar: bytes · values per impression"
    )


def _bars(axes: Axes, lines: Sequence[Line], values: Sequence[float]) -> None:
    axes.barh(
        range(len(lines)),
        values,
        color=[_KEPT if line.kept else _DROPPED for line in lines],
        height=0.72,
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _message(found: Selection) -> str:
    full, pruned = found.sizes()
    if pruned == full:
        return f"Importance of {full.count} inputs; none dropped"
    change = found.pruned.tuned.auc - found.full.tuned.auc
    return f"{pruned.count} of {full.count} inputs: {pruned.bytes / full.bytes:.0%} of the bytes, AUC {change:+.4f}"


def _details(found: Selection, name: str) -> str:
    full, pruned = found.sizes()
    sizes = f"{format_bytes(full.bytes)} → {format_bytes(pruned.bytes)}"
    aucs = (
        f"held-out AUC {found.full.tuned.auc:.4f} → {found.pruned.tuned.auc:.4f} after fine-tuning"
    )
    return f"{name}, {found.method}: {sizes}; {aucs}. Blue stays, grey goes"
