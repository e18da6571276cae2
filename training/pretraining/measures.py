"""How well a relation is predicted, whether the click model may use it, and plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.plotting import BLUE, INK, ORANGE, RED, figure_file, plain_axes
from training.models.encoding_inputs import Encoding, PairTable
from training.pretraining.factorisation import biases
from training.pretraining.settings import Kind
from training.pretraining.task import Epoch, FitResult, Floats, Targets, Task

_RIDGES = (0.1, 1.0, 10.0)
_BASELINES: tuple[Kind, ...] = ("node_bias", "lookup")
_SUPPORT_COLOURS, _BINS = (RED, ORANGE, BLUE), 12


@dataclass(frozen=True)
class RelationReport:
    """The figures of one relation.

    Attributes:
        edges: all of them.
        heldout_edges: held-out edges whose two nodes have training edges. The two figures below are
            of these.
        r2: weighted R² of the model.
        r2_node_bias: of mean + b_u + b_v, the best of three ridges.
        rows: nodes, or pairs of a table, that serve.
        bytes: of the arrays that serve.
        refused: why the click model must not use it; empty: it may.
    """

    edges: int
    heldout_edges: int
    r2: float
    r2_node_bias: float
    rows: int
    bytes: int
    refused: str


@dataclass(frozen=True)
class Prediction:
    """Held-out edges of one relation: statistic, its prediction, weight and impressions, [e]."""

    observed: Floats
    predicted: Floats
    weight: Floats
    impressions: NDArray[np.int64]


def explained(observed: Floats, predicted: Floats, weight: Floats) -> float:
    """Return the weighted R² = 1 - Σ w (a - p)² / Σ w (a - ā)²; NaN if the values do not vary."""
    if not len(observed):
        return math.nan
    total = float(np.sum(weight * (observed - np.average(observed, weights=weight)) ** 2))
    left = float(np.sum(weight * (observed - predicted) ** 2))
    return 1.0 - left / total if total > 0 else math.nan


def predictions(task: Task, measured: FitResult) -> dict[str, Prediction]:
    """Return what a fit predicts for held-out edges between nodes with training edges.

    The predictions are those that the click model would read.
    """
    predicted = {}
    for name, encoding in measured.encodings.items():
        heldout = task.heldout[name]
        seen = heldout.seen_in(task.training_edges[name])
        values = encoding.column(task.heldout_pairs(name)).astype(np.float64)[seen]
        predicted[name] = Prediction(
            heldout.value[seen], values, heldout.weight[seen], heldout.impressions[seen]
        )
    return predicted


def evaluate(
    task: Task, predicted: dict[str, Prediction], final: FitResult
) -> dict[str, RelationReport]:
    """Return the figures of every relation of the graph, and whether it may be used."""
    reports = {}
    for name, all_edges in task.graph.edges.items():
        edges, prediction = task.training_edges.get(name), predicted.get(name)
        encoding = final.encodings.get(name)
        if edges is None or prediction is None or encoding is None:
            reports[name] = RelationReport(len(all_edges), 0, math.nan, math.nan, 0, 0, "no edges")
            continue
        r2 = explained(prediction.observed, prediction.predicted, prediction.weight)
        r2_node_bias = _best_node_bias(task, name, edges)
        reason = rejection_reason(task.settings.kind, r2, r2_node_bias)
        if not _is_finite(encoding):
            reason = "not finite: lower pretraining.learning_rate"
        reports[name] = RelationReport(
            edges=len(all_edges),
            heldout_edges=len(prediction.observed),
            r2=r2,
            r2_node_bias=r2_node_bias,
            rows=encoding.rows,
            bytes=encoding.nbytes,
            refused=reason,
        )
    return reports


def rejection_reason(kind: Kind, r2: float, r2_node_bias: float) -> str:
    """Return why a relation must not be used; empty if it may.

    Its R² must be above that of the node biases, and above 0, that of the mean alone. NaN fails.
    The baselines themselves only need figures.
    """
    if not (math.isfinite(r2) and math.isfinite(r2_node_bias)):
        return "no held-out figure: too few edges"
    if kind not in _BASELINES and not r2 > max(r2_node_bias, 0.0):
        return f"held-out R² {r2:.4f} is not above the node biases' {r2_node_bias:.4f} and above 0"
    return ""


def _is_finite(encoding: Encoding | PairTable) -> bool:
    if isinstance(encoding, PairTable):
        return bool(np.isfinite(encoding.values).all())
    if encoding.corrections and not _is_finite(encoding.corrections):
        return False
    sides = (encoding.left, encoding.right)
    arrays = [array for side in sides for array in (side.vectors, side.biases)]
    arrays += [weights for layer in encoding.network for weights in layer]
    return all(bool(np.isfinite(array).all()) for array in arrays)


def _best_node_bias(task: Task, name: str, edges: Targets) -> float:
    heldout, pairs = task.heldout[name], task.heldout_pairs(name)
    seen = heldout.seen_in(edges)
    figures = []
    # The best ridge by the held-out edges themselves: a strict baseline.
    for l2 in _RIDGES:
        fitted = biases(task.graph, name, edges, l2).column(pairs)[seen].astype(np.float64)
        figures.append(explained(heldout.value[seen], fitted, heldout.weight[seen]))
    return max(figures) if all(map(math.isfinite, figures)) else math.nan


def plot_relation(name: str, edges: Prediction, report: RelationReport, path: Path) -> Path:
    """Plot the mean observed against the mean predicted statistic of held-out edges, by support.

    Args:
        name: of the relation.
        edges: the held-out ones, possibly none.
        report: for the title.
        path: of the PNG, returned.
    """
    with figure_file(path, (7.5, 6)) as figure:
        axes = plain_axes(figure)
        if len(edges.observed):
            # 1. Edges by impressions, in parts of about equal size.
            shares = np.linspace(0, 1, len(_SUPPORT_COLOURS) + 1)
            # `lower` gives numbers of impressions that occur; parts with equal bounds are joined.
            bounds = np.unique(np.quantile(edges.impressions, shares, method="lower"))
            lows = bounds[:-1] if len(bounds) > 1 else bounds
            highs = [*(bounds[1:-1] - 1), bounds[-1]]
            for low, high, colour in zip(lows, highs, _SUPPORT_COLOURS, strict=False):
                chosen = (edges.impressions >= low) & (edges.impressions <= high)
                # 2. Means of bins with equally many edges, ordered by their prediction.
                order = np.flatnonzero(chosen)[np.argsort(edges.predicted[chosen], kind="stable")]
                bins = [part for part in np.array_split(order, _BINS) if len(part)]
                predicted, observed = (
                    [float(np.average(values[part], weights=edges.weight[part])) for part in bins]
                    for values in (edges.predicted, edges.observed)
                )
                label = f"{low:,} to {high:,} impressions"
                axes.plot(predicted, observed, "o-", color=colour, markersize=4, label=label)
            ends = (float(edges.predicted.min()), float(edges.predicted.max()))
            axes.plot(ends, ends, color=INK, linewidth=1, linestyle="--", label="as predicted")
            axes.legend(frameon=False)
        axes.set_xlabel("predicted statistic, mean of a bin")
        axes.set_ylabel("observed statistic, weighted mean of the bin")
        axes.set_title(
            f"{name}: R² {report.r2:.3f}, node biases {report.r2_node_bias:.3f}, "
            f"{len(edges.observed):,} held-out edges"
        )
    return path


def plot_losses(curve: Sequence[Epoch], best: int, path: Path) -> Path:
    """Plot the loss of training and held-out edges by epoch; return the PNG's path."""
    with figure_file(path, (7.5, 6)) as figure:
        axes = plain_axes(figure)
        numbers = [epoch.number for epoch in curve]
        for label, losses, colour in (
            ("training edges, during the epoch", [epoch.loss for epoch in curve], ORANGE),
            ("held-out edges", [epoch.heldout_loss for epoch in curve], BLUE),
        ):
            axes.plot(numbers, losses, "o-", color=colour, label=label)
        axes.axvline(best, color=INK, linewidth=1, linestyle="--", label="kept")
        axes.set(xlabel="epoch", ylim=(0, None))
        axes.set_ylabel("weighted square error, variances of the statistic")
        axes.set_title(f"Stopped after epoch {curve[-1].number}, kept epoch {best}")
        axes.legend(frameon=False)
    return path
