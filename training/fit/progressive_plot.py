"""A picture of progressive validation: three figures by hour of the day, and how many impressions they rest on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from training.fit.progressive import HourFigures

_INK, _GRID, _PALE = "#1c2733", "#e3e8ee", "#c9d6e2"
_COLOURS = ("#1f6fb2", "#d17a00", "#5b8c5a")
_FIGURES = {
    "auc": "AUC",
    "log_loss": "log loss,\nnats an impression",
    "calibration": "calibration,\nexpected / observed clicks",
}


def plot_progressive(hours: Sequence[HourFigures], timezone: str, path: Path) -> Path:
    """Draw the hours into a PNG and return its path.

    Args:
        hours: at least one, ascending.
        timezone: whose hours they are.
        path: whose folder is made if missing.
    """
    figure = Figure(figsize=(11, 9), layout="constrained")
    FigureCanvasAgg(figure)
    *upper, lowest = figure.subplots(len(_FIGURES) + 1, 1, sharex=True, height_ratios=[3, 3, 3, 2])
    for axes, (name, words), colour in zip(upper, _FIGURES.items(), _COLOURS, strict=True):
        _draw_figure(axes, hours, name, words, colour)
    upper[-1].axhline(1.0, color=_INK, linewidth=1, linestyle="--")
    _draw_rows(lowest, hours, timezone)
    figure.align_ylabels()
    figure.suptitle(_message(hours), x=0.01, ha="left", fontweight="bold", color=_INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


def _draw_figure(
    axes: Axes, hours: Sequence[HourFigures], name: str, words: str, colour: str
) -> None:
    axes.plot(
        [h.hour for h in hours],
        [getattr(h, name) for h in hours],
        color=colour,
        marker="o",
        markersize=4,
    )
    axes.set_ylabel(words)
    axes.grid(axis="y", color=_GRID)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_rows(axes: Axes, hours: Sequence[HourFigures], timezone: str) -> None:
    places = [h.hour for h in hours]
    axes.bar(places, [h.rows for h in hours], color=_PALE, label="impressions")
    axes.bar(places, [h.clicks for h in hours], color=_INK, label="clicks")
    axes.set(
        xlabel=f"hour of the day, {timezone}",
        ylabel="number",
        xlim=(-0.6, 23.6),
        xticks=np.arange(24),
    )
    axes.set_ylim(0, 1.35 * max(h.rows for h in hours))  # room for the legend
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=2, loc="upper left")


def _message(hours: Sequence[HourFigures]) -> str:
    """Say which hours stand out, or that none could be judged."""
    judged = [h for h in hours if not math.isnan(h.auc)]
    if not judged:
        return "Before it was learned: no hour had scores and both clicks and non-clicks"
    worst, best = min(judged, key=lambda h: h.auc), max(judged, key=lambda h: h.auc)
    return f"Before it was learned: AUC from {worst.auc:.3f} at {worst.hour} h to {best.auc:.3f} at {best.hour} h"
