"""The path as a picture: AUC against bytes, a point a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compression_parts.report import GRID, INK, MUTED
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

_COLOUR = "#1f6fb2"


def plot_path(rows: Sequence[Mapping[str, Any]], what: str, path: Path) -> None:
    """Draw the AUC of each step above the start's, with its interval, against bytes from the start's on to fewer."""
    figure = Figure(figsize=(8.6, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    size, gain = [row["bytes"] for row in rows], [row["gain"] for row in rows]
    ends = [[row["gain"] - row["low"] for row in rows], [row["high"] - row["gain"] for row in rows]]
    axes.errorbar(
        size,
        gain,
        yerr=ends,
        color=_COLOUR,
        ecolor=MUTED,
        elinewidth=1,
        capsize=3,
        marker="o",
        markersize=5,
    )
    for number, row in enumerate(rows):
        place, side = ((6, 8), "left") if number % 2 == 0 else ((-6, -16), "right")
        at = (row["bytes"], row["gain"])
        axes.annotate(
            f"{number} {row['step']}",
            at,
            place,
            textcoords="offset points",
            ha=side,
            color=INK,
            fontsize=9,
        )
    axes.set_xscale("log")
    axes.set_xlim(max(size) * 1.4, min(size) / 2.2)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e6:g} MB"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("keys, rows, dense weights, statistics; no optimizer slots", color=INK)
    axes.set_ylabel("AUC, difference from the start", color=INK)
    axes.set_title(what, loc="left", color=INK, fontsize=11, fontweight="bold")
    axes.grid(color=GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})
