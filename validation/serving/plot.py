"""The plot of `serve-check`: size, memory, load time and latency of each export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from features.plotting import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, figure_file
from validation.serving.measure import ServingCosts

_COLOURS = (MUTED, BLUE, ORANGE, GREEN, PURPLE)
_MIB = 2**20
_UPRIGHT_FROM = 3
"""Bars of a group from which on the figures above them are turned, to have room."""


def plot_serving(costs: Mapping[str, ServingCosts], what: str, path: Path) -> Path:
    """Draw size, memory and load time, and by batch size latency and requests per second.

    Args:
        costs: by name of the export, in the order of the bars.
        what: whose requests they are, for the title.
        path: PNG to write; its folder is created if missing.

    Returns:
        The path.
    """
    each = list(costs.values())
    sizes = list(each[0].batches)
    heading: dict[str, Any] = {"color": INK, "fontsize": 12, "fontweight": "bold"}
    with figure_file(path, (11, 6.4)) as figure:
        top, bottom = figure.subplots(2, 3)
        _bars(top[0], costs, "on disk, MiB", [cost.bytes / _MIB for cost in each])
        _bars(top[1], costs, "resident above TensorFlow, MiB", [c.rss_bytes / _MIB for c in each])
        _bars(top[2], costs, "load, s", [cost.load_s for cost in each])
        labels = ("median latency, ms", "99th percentile, ms", "requests per second")
        for axes, label, name in zip(
            bottom, labels, ("p50_ms", "p99_ms", "per_second"), strict=True
        ):
            figures = [[getattr(cost.batches[size], name) for size in sizes] for cost in each]
            _groups(axes, costs, label, figures, [f"batch {size}" for size in sizes])
        handles = bottom[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=len(costs), frameon=False)
        figure.suptitle(f"What serving costs: {what}", x=0.01, ha="left", **heading)
    return path


def _bars(axes: Axes, names: Mapping[str, Any], title: str, heights: Sequence[float]) -> None:
    """A bar for each export."""
    bars = axes.bar(list(names), heights, color=_colours(len(names)), width=0.6)
    axes.bar_label(bars, [f"{height:.3g}" for height in heights], color=INK, fontsize=9, padding=2)
    _style(axes, title)
    axes.set_ylim(0, max([*heights, 1e-9]) * 1.18)


def _groups(
    axes: Axes,
    names: Mapping[str, Any],
    title: str,
    figures: Sequence[Sequence[float]],
    ticks: Sequence[str],
) -> None:
    """A group of bars for each batch size."""
    width, places = 0.8 / len(names), np.arange(len(ticks))
    rotation = 90 if len(names) >= _UPRIGHT_FROM else 0
    for number, (name, heights, colour) in enumerate(
        zip(names, figures, _colours(len(names)), strict=True)
    ):
        left = places + (number - (len(names) - 1) / 2) * width
        bars = axes.bar(left, heights, width, color=colour, label=name)
        shown = [f"{h / 1000:.3g} k" if h >= 1000 else f"{h:.3g}" for h in heights]
        style: dict[str, Any] = {"color": INK, "fontsize": 8, "padding": 3, "rotation": rotation}
        axes.bar_label(bars, shown, **style)
    axes.set_xticks(places, ticks)
    axes.set_yscale("log")
    _style(axes, title)
    # Room for the figures above the bars.
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * 3)


def _style(axes: Axes, title: str) -> None:
    # The figures above the bars make the y axis unnecessary.
    axes.set_title(title, loc="left", color=INK, fontsize=10)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", left=False, labelleft=False, which="both")
    axes.tick_params(axis="x", colors=INK, labelsize=9, length=0)
    axes.spines["bottom"].set_color(MUTED)


def _colours(count: int) -> list[str]:
    return [_COLOURS[number % len(_COLOURS)] for number in range(count)]
