"""Pictures of pretraining: predicted against observed statistic by support, and the losses by epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.pretraining.fitting import Epoch
from training.pretraining.measures import Judgement, Prediction

_INK, _GRID = "#1c2733", "#e3e8ee"
_COLOURS = ("#b23b4e", "#d17a00", "#1f6fb2")
_SUPPORTS, _BINS = 3, 12


def plot_relation(name: str, edges: Prediction, judged: Judgement, path: Path) -> Path:
    """Draw the mean observed against the mean predicted statistic of held-out edges, by support, and return the PNG's path.

    Args:
        name: of the relation.
        edges: those held out, maybe none.
        judged: its figures, for the title.
        path: whose folder is made if missing.
    """
    with _drawing(path) as axes:
        for (low, high), chosen, colour in _supports(edges):
            observed, predicted = _binned(edges, chosen)
            axes.plot(
                predicted,
                observed,
                "o-",
                color=colour,
                markersize=4,
                label=f"{low:,} to {high:,} impressions",
            )
        if len(edges.observed):
            ends = (float(edges.predicted.min()), float(edges.predicted.max()))
            axes.plot(ends, ends, color=_INK, linewidth=1, linestyle="--", label="as predicted")
            axes.legend(frameon=False)
        axes.set(
            xlabel="predicted statistic, mean of a bin",
            ylabel="observed statistic, weighted mean of the bin",
        )
        axes.set_title(
            f"{name}: R² {judged.r2:.3f}, node biases {judged.r2_node_bias:.3f}, {len(edges.observed):,} held-out edges"
        )
    return path


def plot_losses(curve: Sequence[Epoch], best: int, path: Path) -> Path:
    """Draw the loss of learned and of held-out edges by epoch and return the PNG's path."""
    with _drawing(path) as axes:
        numbers = [epoch.number for epoch in curve]
        axes.plot(
            numbers,
            [epoch.loss for epoch in curve],
            "o-",
            color=_COLOURS[1],
            label="learned edges, while learned",
        )
        axes.plot(
            numbers,
            [epoch.heldout_loss for epoch in curve],
            "o-",
            color=_COLOURS[2],
            label="held-out edges",
        )
        axes.axvline(best, color=_INK, linewidth=1, linestyle="--", label="kept")
        axes.set(
            xlabel="epoch",
            ylabel="weighted square error, variances of the statistic",
            ylim=(0, None),
        )
        axes.set_title(f"Stopped after epoch {curve[-1].number}, kept epoch {best}")
        axes.legend(frameon=False)
    return path


def _supports(edges: Prediction) -> Iterator[tuple[tuple[int, int], np.ndarray, str]]:
    """The edges in parts of about equally many, by impressions."""
    if not len(edges.observed):
        return
    bounds = np.unique(
        np.quantile(edges.impressions, np.linspace(0, 1, _SUPPORTS + 1), method="lower")
    )
    for i, colour in zip(range(max(1, len(bounds) - 1)), _COLOURS, strict=False):
        last = i + 2 >= len(bounds)
        high = bounds[-1] if last else bounds[i + 1] - 1
        chosen = (edges.impressions >= bounds[i]) & (edges.impressions <= high)
        yield (int(bounds[i]), int(high)), chosen, colour


def _binned(edges: Prediction, chosen: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean observed and predicted of bins of equally many edges, by what is predicted."""
    order = np.flatnonzero(chosen)[np.argsort(edges.predicted[chosen], kind="stable")]
    bins = [part for part in np.array_split(order, _BINS) if len(part)]
    observed = [
        float(np.average(edges.observed[part], weights=edges.weight[part])) for part in bins
    ]
    return observed, [
        float(np.average(edges.predicted[part], weights=edges.weight[part])) for part in bins
    ]


@contextmanager
def _drawing(path: Path) -> Iterator[Axes]:
    figure = Figure(figsize=(7.5, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.grid(color=_GRID)
    axes.spines[["top", "right"]].set_visible(False)
    yield axes
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
