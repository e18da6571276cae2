"""Curves as rows of figures, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from compression_parts.curves import Curves, Line

INK, MUTED, GRID = "#1c2733", "#8a97a6", "#e3e8ee"
_COLOURS = {
    "group lasso, composed": "#1f6fb2",
    "composed": "#3fa7a0",
    "strongest group lasso, composed": "#123f66",
    "group lasso, composed, fine-tuned": "#7fb4e0",
    "strongest group lasso, composed, fine-tuned": "#5b7fa6",
    "composed, fine-tuned": "#9ed6d1",
    "quantization": "#7b5ea7",
    "group lasso": "#5b8c5a",
    "magnitude pruning": "#d17a00",
    "hashing trick": "#b23a48",
    "quotient and remainder": "#8a97a6",
}
_LOWEST = -0.04
_OURS = ("group lasso, composed", "strongest group lasso, composed", "composed")


def row(line: Line, curves: Curves) -> dict[str, Any]:
    """Return the figures of one model; drops and their interval by user are of the users who did not choose."""
    one, drop = line.measured, curves.bench.interval(line.measured)
    return {
        "curve": line.curve,
        "plan": line.plan,
        "ratio": curves.bench.bytes / one.bytes,
        "bytes": one.bytes,
        "rows": one.rows,
        "auc": one.auc_reported,
        "auc_drop": one.drop_reported,
        "auc_drop_low": drop.low,
        "auc_drop_high": drop.high,
        "auc_drop_choosing": one.drop,
    }


def best_at(rows: Sequence[Mapping[str, Any]], ratio: float) -> dict[str, Mapping[str, Any]]:
    """Return by curve the model, of those at least so many times smaller, that the choosing users liked best."""
    found: dict[str, Mapping[str, Any]] = {}
    for one in sorted(rows, key=lambda one: one["auc_drop_choosing"]):
        if one["ratio"] >= ratio:
            found.setdefault(one["curve"], one)
    return found


def plot_curves(rows: Sequence[Mapping[str, Any]], what: str, path: Path) -> None:
    """Draw the drop of AUC against how many times smaller a model is, a line a curve, intervals of ours shaded."""
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for curve, colour in _COLOURS.items():
        _draw(
            axes,
            sorted((one for one in rows if one["curve"] == curve), key=lambda one: one["ratio"]),
            curve,
            colour,
        )
    _frame(axes, what)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _draw(axes: Axes, rows: Sequence[Mapping[str, Any]], curve: str, colour: str) -> None:
    if not rows:
        return
    ratio, change = [one["ratio"] for one in rows], [-one["auc_drop"] for one in rows]
    width, style = 1.8 if curve in _OURS else 1.1, "--" if curve.endswith("fine-tuned") else "-"
    axes.plot(
        ratio, change, style, marker="o", markersize=3.5, linewidth=width, color=colour, label=curve
    )
    if curve in _OURS:
        low, high = ([-one[end] for one in rows] for end in ("auc_drop_high", "auc_drop_low"))
        axes.fill_between(ratio, low, high, color=colour, alpha=0.15, linewidth=0)


def _frame(axes: Axes, what: str) -> None:
    axes.set_xscale("log")
    axes.set_xlim(0.8, 1500)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, _LOWEST), high)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}×"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("times smaller than the model without optimizer slots", color=INK)
    axes.set_ylabel("AUC, difference from that model", color=INK)
    axes.set_title(what, loc="left", color=INK, fontsize=11, fontweight="bold")
    axes.grid(color=GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
