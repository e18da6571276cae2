"""The plot of `select-features`: importance and cost of every field."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from compression.selection.report import FieldSelection, RankedField
from features.plotting import BLUE, GRID, INK, MUTED, PALE, figure_file, title
from pipelines.cli.console import format_bytes


def plot_selection(selection: FieldSelection, name: str, path: Path) -> Path:
    """Plot the importance of every field and the bytes that dropping it alone would save.

    Args:
        selection: what to plot.
        name: name of the model, for the subtitle.
        path: PNG file to write; its folder is made if missing.

    Returns:
        `path`.
    """
    lines = list(selection.lines())
    full, pruned = selection.sizes()
    before, after = selection.full.tuned.auc, selection.pruned.tuned.auc
    finding = f"Importance of {full.count} inputs; none dropped"
    if pruned != full:
        share = f"{pruned.bytes / full.bytes:.0%} of the bytes"
        finding = f"{pruned.count} of {full.count} inputs: {share}, AUC {after - before:+.4f}"
    sizes = f"{format_bytes(full.bytes)} → {format_bytes(pruned.bytes)}"
    aucs = f"held-out AUC {before:.4f} → {after:.4f} after fine-tuning"
    with figure_file(path, (10.5, 2.0 + 0.25 * len(lines))) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        _plot_importance(left, lines)
        _plot_cost(right, lines)
        title(left, finding, f"{name}, {selection.method}: {sizes}; {aucs}. Blue: kept")
    return path


def _plot_importance(axes: Axes, lines: Sequence[RankedField]) -> None:
    _bars(axes, lines, [line.importance for line in lines])
    axes.set_yticks(range(len(lines)), [line.name for line in lines], color=INK)
    # The most important field is at the top.
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set(xlim=(0, 1), xlabel="importance: trained probability δ to be kept")


def _plot_cost(axes: Axes, lines: Sequence[RankedField]) -> None:
    # A logarithmic axis cannot show the 0 bytes of a field without a vocabulary.
    widths = [max(1, line.bytes) for line in lines]
    _bars(axes, lines, widths)
    for y, (width, line) in enumerate(zip(widths, lines, strict=True)):
        label = f" {format_bytes(line.bytes)} · {line.online:.3g}"
        axes.text(width, y, label, va="center", color=MUTED, fontsize=8)
    axes.set_xscale("log")
    # The right end leaves space for the label of the longest bar.
    axes.set_xlim(left=10, right=30 * max(100, *(line.bytes for line in lines)))
    axes.xaxis.set_major_locator(LogLocator(numticks=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count / 1000:,.10g} kB"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(
        "cost: bytes saved without the field (log)\nlabels: bytes · values per impression"
    )


def _bars(axes: Axes, lines: Sequence[RankedField], widths: Sequence[float]) -> None:
    colours = [BLUE if line.kept else PALE for line in lines]
    axes.barh(range(len(lines)), widths, color=colours, height=0.72)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
