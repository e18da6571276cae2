"""A picture of a graph's degrees: is it a few hubs and a long tail, and on which side?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_COLOURS = ("#1f6fb2", "#d17a00", "#5b8c5a", "#7b5ea7", "#8a97a6")
_STYLES = {"left": "-", "right": "--"}


def plot_degrees(rows: Iterable[tuple[str, str, int, int, int, int]], path: Path) -> None:
    """Draw nodes by the power of two of their degree, a line for each relation and side.

    Args:
        rows: of `degrees.parquet`: relation, side, at_least, nodes, edges, impressions.
        path: the picture; its folder is made.
    """
    lines: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for relation, side, at_least, nodes, _, _ in rows:
        lines.setdefault((relation, side), []).append((at_least, nodes))
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = {
        name: _COLOURS[i % len(_COLOURS)]
        for i, name in enumerate(dict.fromkeys(name for name, _ in lines))
    }
    for (relation, side), points in lines.items():
        axes.plot(
            *zip(*points, strict=True),
            _STYLES[side],
            marker="o",
            ms=3,
            color=colours[relation],
            label=f"{relation}, {side}",
        )
    axes.set(xscale="log", yscale="log", xlabel="edges of a node, at least", ylabel="nodes")
    axes.set_title("How many edges a node has" if lines else "No edges", loc="left")
    if lines:
        axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
