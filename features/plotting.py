"""The style of the project's plots: colours, a figure that is saved to a file, a title."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, MUTED, GRID, PALE = "#1c2733", "#8a97a6", "#e3e8ee", "#c9d6e2"
"""Colours of text, of secondary text, of grid lines, of bars in the background."""

BLUE, ORANGE, GREEN, PURPLE, RED = COLOURS = ("#1f6fb2", "#d17a00", "#5b8c5a", "#7b5ea7", "#b23b4e")
"""Colours of series, in order."""


@contextmanager
def figure_file(path: Path, inches: tuple[float, float]) -> Iterator[Figure]:
    """Yield an empty figure, which is written to `path` as PNG when the block ends.

    The folder of `path` is created if missing.
    """
    # Without pyplot: it keeps every figure of the process, and looks for a display.
    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the version of matplotlib, so that equal figures give equal bytes.
    figure.savefig(path, dpi=120, metadata={"Software": None})


def plain_axes(figure: Figure, position: tuple[int, int, int] = (1, 1, 1)) -> Axes:
    """Return new axes with a light grid behind the data and no frame at the top and right.

    `position`: rows and columns of the figure, and which cell, counted from 1.
    """
    axes = figure.add_subplot(*position)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def title(axes: Axes, finding: str, subject: str) -> None:
    """Set a bold title that says what the plot shows, and below it what was plotted."""
    axes.set_title(f"{finding}\n", loc="left", fontweight="bold", color=INK, fontsize=12.5)
    note = axes.annotate(
        subject, (0, 1), (0, 6), "axes fraction", "offset points", color=MUTED, fontsize=9.5
    )
    # Outside the layout, which would otherwise reserve space for it twice.
    note.set_in_layout(False)
