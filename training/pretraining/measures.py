"""How well a relation's edges are predicted, and whether that is good enough for the click model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.models.cross_input import Encoding, PairTable
from training.pretraining.baselines import biases
from training.pretraining.fitting import Fitted, Task
from training.pretraining.settings import Kind
from training.pretraining.targets import Targets

Floats = NDArray[np.float64]

_RIDGES = (0.1, 1.0, 10.0)
_YARDSTICKS: tuple[Kind, ...] = ("node_bias", "lookup")


@dataclass(frozen=True)
class Judgement:
    """The figures of one relation.

    Attributes:
        edges: all of them.
        heldout_edges: those held out whose two nodes have learned edges; the two figures below are of these.
        r2: weighted R² of the model.
        r2_node_bias: of mean + b_u + b_v, the best of three ridges.
        rows: nodes, or pairs of a table, that serve.
        bytes: of the arrays that serve.
        refused: why the click model may not use it; empty: it may.
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
    """Held-out edges of one relation: statistic, prediction and weight float64 [e], impressions int64 [e]."""

    observed: Floats
    predicted: Floats
    weight: Floats
    impressions: NDArray[np.int64]


def explained(observed: Floats, predicted: Floats, weight: Floats) -> float:
    """Return the weighted R² = 1 - Σ w (a - p)² / Σ w (a - ā)²; NaN where the values do not vary."""
    if not len(observed):
        return math.nan
    total = float(np.sum(weight * (observed - np.average(observed, weights=weight)) ** 2))
    left = float(np.sum(weight * (observed - predicted) ** 2))
    return 1.0 - left / total if total > 0 else math.nan


def predictions(task: Task, measured: Fitted) -> dict[str, Prediction]:
    """Return by relation what a fit says, to the click model, of held-out edges between nodes that it has learned."""
    learned, found = task.learned(), {}
    for name, encoding in measured.encodings.items():
        heldout = task.heldout[name]
        seen = heldout.seen_in(learned[name])
        predicted = encoding.column(task.heldout_pairs(name)).astype(np.float64)[seen]
        found[name] = Prediction(
            heldout.value[seen], predicted, heldout.weight[seen], heldout.impressions[seen]
        )
    return found


def judge(task: Task, predicted: dict[str, Prediction], final: Fitted) -> dict[str, Judgement]:
    """Return the figures and the verdict of every relation of the graph."""
    learned = task.learned()
    return {
        name: _judgement(task, name, learned.get(name), predicted.get(name), final)
        for name in task.graph.edges
    }


def refusal(kind: Kind, r2: float, r2_node_bias: float) -> str:
    """Return why a relation is refused, or nothing.

    Its R² must be above that of the node biases, and of the mean alone, which is 0; what is not a number fails. Kinds that are
    yardsticks themselves have only to have figures.
    """
    if not (math.isfinite(r2) and math.isfinite(r2_node_bias)):
        return "no held-out figure: too few edges"
    if kind not in _YARDSTICKS and not r2 > max(r2_node_bias, 0.0):
        return f"held-out R² {r2:.4f} is not above the node biases' {r2_node_bias:.4f} and above 0"
    return ""


def _judgement(
    task: Task, name: str, learned: Targets | None, predicted: Prediction | None, final: Fitted
) -> Judgement:
    edges = len(task.graph.edges[name])
    if learned is None or predicted is None or name not in final.encodings:
        return Judgement(edges, 0, math.nan, math.nan, 0, 0, "no edges")
    r2 = explained(predicted.observed, predicted.predicted, predicted.weight)
    bias = _best_biases(task, name, learned)
    encoding = final.encodings[name]
    why = (
        refusal(task.settings.kind, r2, bias)
        if _is_finite(encoding)
        else "not finite: lower pretraining.learning_rate"
    )
    return Judgement(edges, len(predicted.observed), r2, bias, encoding.rows, encoding.nbytes, why)


def _is_finite(encoding: Encoding | PairTable) -> bool:
    if isinstance(encoding, PairTable):
        return bool(np.isfinite(encoding.values).all())
    if encoding.corrections and not _is_finite(encoding.corrections):
        return False
    sides, layers = (encoding.left, encoding.right), encoding.network
    arrays = [
        *(a for side in sides for a in (side.vectors, side.biases)),
        *(weights for layer in layers for weights in layer),
    ]
    return all(bool(np.isfinite(array).all()) for array in arrays)


def _best_biases(task: Task, name: str, learned: Targets) -> float:
    heldout, pairs = task.heldout[name], task.heldout_pairs(name)
    seen = heldout.seen_in(learned)
    fits = (biases(task.graph, name, learned, l2).column(pairs)[seen] for l2 in _RIDGES)
    figures = [
        explained(heldout.value[seen], fit.astype(np.float64), heldout.weight[seen]) for fit in fits
    ]
    return max(figures) if all(map(math.isfinite, figures)) else math.nan
