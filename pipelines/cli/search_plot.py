"""The picture of `search-compression`: what each plan does to AUC against what it leaves of the bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from compression.search.bench import Measured
from compression.search.search import Found
from pipelines.cli.console import format_bytes

_INK, _MUTED, _GRID = "#1c2733", "#8a97a6", "#e3e8ee"
_OURS, _CHOSEN = "#1f6fb2", "#c23b22"
_OTHERS = (
    ("#d98c2b", "s", "--"),
    ("#5a8f4e", "^", ":"),
    ("#7d5ba6", "D", "-."),
    ("#3a9a9a", "v", (0, (5, 1, 1, 1))),
)
"""Colour, marker and dashes of the baselines: no two look alike without colour either."""


def plot_search(found: Found, name: str, path: Path) -> Path:
    """Draw AUC on the reported half against bytes, with intervals for the front; return the path.

    Args:
        found: the search.
        name: says what model it is.
        path: PNG to write; its folder is made if missing.
    """
    figure = Figure(figsize=(9.5, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    others = {
        one.name: [o for o in found.baselines if o.name == one.name] for one in found.baselines
    }
    for (kind, plans), (colour, marker, dashes) in zip(others.items(), _OTHERS, strict=False):
        _curve(axes, plans, label=f"{kind} alone", color=colour, marker=marker, linestyle=dashes)
    _curve(
        axes, found.front, label="searched", color=_OURS, marker="o", linestyle="-", linewidth=2.2
    )
    _bars(axes, found, found.front)
    axes.plot(
        [found.chosen.bytes],
        [-found.chosen.drop_reported],
        "*",
        color=_CHOSEN,
        markersize=17,
        label="chosen",
        zorder=5,
    )
    _limits(axes, found)
    _dress(axes, found)
    figure.suptitle(_message(found), x=0.01, ha="left", fontweight="bold", color=_INK, fontsize=13)
    axes.set_title(
        f"{name}, reported half of held-out users; bars: 95 % of their draws; {len(found.plans)} plans measured",
        loc="left",
        color=_MUTED,
        fontsize=9.5,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return path


def _curve(axes: Axes, plans: Sequence[Measured], **style: Any) -> None:
    ordered = sorted(plans, key=lambda one: one.bytes)
    axes.plot(
        [one.bytes for one in ordered],
        [-one.drop_reported for one in ordered],
        markersize=5,
        **style,
    )


def _bars(axes: Axes, found: Found, plans: Sequence[Measured]) -> None:
    drops = [found.intervals[one.steps] for one in plans]
    sizes, lows, highs = (
        [one.bytes for one in plans],
        [-drop.high for drop in drops],
        [-drop.low for drop in drops],
    )
    axes.vlines(sizes, lows, highs, color=_OURS, alpha=0.3, linewidth=1.5)


def _limits(axes: Axes, found: Found) -> None:
    if found.goal.max_bytes is not None:
        axes.axvline(found.goal.max_bytes, color=_MUTED, linewidth=1, linestyle="--")
    if found.goal.max_drop is not None:
        axes.axhline(-found.goal.max_drop, color=_MUTED, linewidth=1, linestyle="--")


def _dress(axes: Axes, found: Found) -> None:
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: format_bytes(count)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    changes = [-one.drop_reported for one in (*found.front, found.chosen)]
    room = max(0.001, float(np.max(np.abs(changes))))
    axes.set_ylim(
        -1.8 * room, max(0.5 * room, 1.3 * max(changes))
    )  # baselines may leave the picture downwards
    axes.set(
        xlabel="bytes of keys, rows, dense weights and encodings (log)",
        ylabel="AUC minus the trained model's",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="lower left")


def _message(found: Found) -> str:
    drop = found.intervals[found.chosen.steps]
    return (
        f"{found.bytes / found.chosen.bytes:.1f} times smaller ({format_bytes(found.chosen.bytes)}), "
        f"AUC {-found.chosen.drop_reported:+.4f} ({-drop.high:+.4f} to {-drop.low:+.4f})"
    )
