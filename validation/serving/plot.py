"""The picture of `serve-check`: what each export costs to hold and to ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from validation.serving.compare import ServingCosts

_INK, _MUTED = "#1c2733", "#8a97a6"
_COLOURS = ("#8a97a6", "#1f6fb2", "#d17a00", "#5b8c5a", "#7b5ea7")
_MIB = 2**20
_THOUSAND = 1000
_ABREAST = 2
"""Bars of a group whose figures have room side by side."""


def plot_serving(costs: Mapping[str, ServingCosts], what: str, path: Path) -> Path:
    """Draw size, memory and load time, and by batch size latency and requests per second; return the path.

    Args:
        costs: by name of the export, in the order of the bars.
        what: says whose requests they are.
        path: PNG to write; its folder is made if missing.
    """
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 3)
    _bars(top[0], costs, "on disk, MiB", lambda c: c.bytes / _MIB)
    _bars(top[1], costs, "resident above TensorFlow, MiB", lambda c: c.rss_bytes / _MIB)
    _bars(top[2], costs, "load, s", lambda c: c.load_s)
    sizes = list(next(iter(costs.values())).batches)
    _groups(bottom[0], costs, sizes, "median latency, ms", lambda c, b: c.batches[b].p50_ms)
    _groups(bottom[1], costs, sizes, "99th percentile, ms", lambda c, b: c.batches[b].p99_ms)
    _groups(bottom[2], costs, sizes, "requests per second", lambda c, b: c.batches[b].per_second)
    figure.legend(
        *bottom[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(costs),
        frameon=False,
    )
    figure.suptitle(
        f"What serving costs: {what}", x=0.01, ha="left", color=_INK, fontsize=12, fontweight="bold"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return path


def _bars(
    axes: Axes,
    costs: Mapping[str, ServingCosts],
    title: str,
    figure_of: Callable[[ServingCosts], float],
) -> None:
    heights = [figure_of(cost) for cost in costs.values()]
    bars = axes.bar(list(costs), heights, color=_colours(costs), width=0.6)
    axes.bar_label(bars, [f"{height:.3g}" for height in heights], color=_INK, fontsize=9, padding=2)
    _frame(axes, title, heights)


def _groups(
    axes: Axes,
    costs: Mapping[str, ServingCosts],
    sizes: Sequence[int],
    title: str,
    figure_of: Callable[[ServingCosts, int], float],
) -> None:
    """A group of bars for each batch size."""
    width, places = 0.8 / len(costs), np.arange(len(sizes))
    for number, ((name, cost), colour) in enumerate(
        zip(costs.items(), _colours(costs), strict=True)
    ):
        heights = [figure_of(cost, size) for size in sizes]
        bars = axes.bar(
            places + (number - (len(costs) - 1) / 2) * width,
            heights,
            width,
            color=colour,
            label=name,
        )
        upright = 90 if len(costs) > _ABREAST else 0
        axes.bar_label(
            bars,
            [_short(height) for height in heights],
            color=_INK,
            fontsize=8,
            padding=3,
            rotation=upright,
        )
    axes.set_xticks(places, [f"batch {size}" for size in sizes])
    axes.set_yscale("log")
    _frame(axes, title, None)


def _frame(axes: Axes, title: str, heights: Sequence[float] | None) -> None:
    axes.set_title(title, loc="left", color=_INK, fontsize=10)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", left=False, labelleft=False, which="both")
    axes.tick_params(axis="x", colors=_INK, labelsize=9, length=0)
    axes.spines["bottom"].set_color(_MUTED)
    if heights is None:
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * 3)
    else:
        axes.set_ylim(0, max([*heights, 1e-9]) * 1.18)


def _short(value: float) -> str:
    return f"{value / 1000:.3g} k" if value >= _THOUSAND else f"{value:.3g}"


def _colours(costs: Mapping[str, ServingCosts]) -> list[str]:
    return [_COLOURS[number % len(_COLOURS)] for number in range(len(costs))]
