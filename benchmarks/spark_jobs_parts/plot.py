"""A picture of seconds a million impressions by size, ours beside DuckDB's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_COLOURS = {"ours": "#1f6fb2", "DuckDB": "#8a97a6"}


def plot_sizes(seconds: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw one line a system: seconds a million impressions, by size as `--sizes` spells it."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, by_size in seconds.items():
        axes.plot(
            list(by_size), list(by_size.values()), marker="o", color=_COLOURS[name], label=name
        )
    axes.set(xlabel="impressions", ylabel="seconds a million impressions", ylim=(0, None))
    axes.set_title("Statistics and graph of one day, start-up left out", loc="left")
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, metadata={"Software": None})
