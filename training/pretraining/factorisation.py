"""Fits without a graph: weighted factorisation, node biases, and a table of the statistic.

They are the baselines of PCF-GNN. NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.models.encoding_inputs import Encoding, PairTable, sorted_nodes
from training.pretraining.graph import CrossGraph
from training.pretraining.task import FitResult, Targets, Task

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

_START_SCALE = 0.1
_BIAS_SWEEPS = 10

_CHUNK = 65_536
"""Edges whose outer products are in memory at once, give or take one node's."""


@dataclass(frozen=True)
class WeightedEdges:
    """Edges between numbered nodes: left and right int64 [E], value and weight float64 [E]."""

    left: Codes
    right: Codes
    value: Floats
    weight: Floats


@dataclass(frozen=True)
class Factors:
    """The model: value ≈ mean + b_u + b_v + <h_u, h_v>.

    Attributes:
        left: float64 [N, d + 1], vectors and, in the last column, biases.
        right: float64 [M, d + 1].
        mean: of the values.
    """

    left: Floats
    right: Floats
    mean: float

    def predict(self, edges: WeightedEdges) -> Floats:
        """Return the modelled value of each edge, float64 [E]."""
        left, right = self.left[edges.left], self.right[edges.right]
        product = np.einsum("ed,ed->e", left[:, :-1], right[:, :-1])
        return self.mean + left[:, -1] + right[:, -1] + product


def factorise(edges: WeightedEdges, start: Factors, l2: float, sweeps: int) -> Factors:
    """Minimise Σ w (a - mean - b_u - b_v - <h_u, h_v>)² + l2 · Σ (‖h‖² + b²).

    Alternating least squares: each half sweep solves every node of one side exactly while the other
    side is fixed, so the objective never rises. A node without edges becomes zero. With d = 0 it is
    the model of node biases alone.

    Args:
        edges: at least one.
        start: initial factors. The left side is solved first, so only the right one matters.
        l2: ridge, in units of edge weight; positive.
        sweeps: full sweeps.
    """
    factors = replace(start, mean=float(np.average(edges.value, weights=edges.weight)))
    reversed_edges = WeightedEdges(edges.right, edges.left, edges.value, edges.weight)
    # Sorted once: the edges are the same in every sweep.
    by_left = np.argsort(edges.left, kind="stable")
    by_right = np.argsort(edges.right, kind="stable")
    for _ in range(sweeps):
        left = _solve(edges, by_left, factors.right, len(factors.left), factors.mean, l2)
        right = _solve(reversed_edges, by_right, left, len(factors.right), factors.mean, l2)
        factors = replace(factors, left=left, right=right)
    return factors


def _solve(
    edges: WeightedEdges, order: Codes, other: Floats, nodes: int, mean: float, l2: float
) -> Floats:
    """Solve the ridge regression of each left node; `order` sorts the edges by left node."""
    solved = np.zeros((nodes, other.shape[1]))
    present, starts = np.unique(edges.left[order], return_index=True)
    stops = np.append(starts[1:], len(order))
    first = 0
    while first < len(present):
        # 1. Take as many nodes as have `_CHUNK` edges together, but at least one.
        last = max(first + 1, int(np.searchsorted(stops, starts[first] + _CHUNK, side="right")))
        part = order[starts[first] : stops[last - 1]]
        node_starts = starts[first:last] - starts[first]

        # 2. The other side's bias is fixed, so it moves to the target; a column of ones takes its
        #    place in the design matrix, for the bias that is solved for.
        partner = other[edges.right[part]]
        design = np.concatenate([partner[:, :-1], np.ones((len(part), 1))], axis=1)
        weighted = design * edges.weight[part, None]
        target = edges.value[part] - mean - partner[:, -1]

        # 3. Sum the normal equations by node and solve all of them.
        outer = weighted[:, :, None] * design[:, None, :]
        # The ridge makes every matrix regular, also that of a node with fewer edges than columns.
        gram = np.add.reduceat(outer, node_starts, axis=0) + l2 * np.eye(design.shape[1])
        moment = np.add.reduceat(weighted * target[:, None], node_starts, axis=0)
        solved[present[first:last]] = np.linalg.solve(gram, moment[:, :, None])[:, :, 0]
        first = last
    return solved


def lookup(task: Task) -> FitResult:
    """Return the statistic of every training pair as a table; other pairs get the mean."""
    return FitResult(
        {
            name: PairTable.of(edges.pairs_in(task.graph), edges.value, edges.mean())
            for name, edges in task.training_edges.items()
        }
    )


def node_bias(task: Task) -> FitResult:
    """Return mean + b_u + b_v, by alternating least squares with the settings' ridge."""
    return FitResult(
        {
            name: biases(task.graph, name, edges, task.settings.l2)
            for name, edges in task.training_edges.items()
        }
    )


def factorisation(task: Task) -> FitResult:
    """Return mean + b_u + b_v + <h_u, h_v>, by alternating least squares, relation by relation."""
    settings, encodings = task.settings, {}
    for name, edges in task.training_edges.items():
        lefts, rights = map(len, task.graph.sides(name))
        draw, columns = np.random.default_rng(settings.seed), settings.dim + 1
        # Random: from zero vectors on one side, the solution of the other side is zero too.
        right = draw.normal(scale=_START_SCALE, size=(rights, columns))
        start = Factors(np.zeros((lefts, columns)), right, 0.0)
        encodings[name] = _encoded(
            task.graph, name, edges, start, settings.l2, settings.epochs, settings.storage
        )
    return FitResult(encodings)


def biases(graph: CrossGraph, name: str, edges: Targets, l2: float) -> Encoding:
    """Return the node biases of one relation, for a ridge in units of edge weight."""
    left, right = (np.zeros((len(keys), 1)) for keys in graph.sides(name))
    return _encoded(graph, name, edges, Factors(left, right, 0.0), l2, _BIAS_SWEEPS)


def _encoded(
    graph: CrossGraph,
    name: str,
    edges: Targets,
    start: Factors,
    l2: float,
    sweeps: int,
    storage: str = "float32",
) -> Encoding:
    # In units of the spread, so that one ridge suits every statistic.
    mean, spread = edges.mean(), edges.spread()
    left, right = edges.left.astype(np.int64), edges.right.astype(np.int64)
    scaled = WeightedEdges(left, right, (edges.value - mean) / spread, edges.weight)
    factors = factorise(scaled, start, l2, sweeps)
    # The vectors' product carries the spread once: on the left side.
    left_nodes, right_nodes = (
        sorted_nodes(keys, rows[:, :-1] * vector_scale, rows[:, -1] * spread, np.dtype(storage))
        for keys, rows, vector_scale in zip(
            graph.sides(name), (factors.left, factors.right), (spread, 1.0), strict=True
        )
    )
    return Encoding(left_nodes, right_nodes, mean=mean + spread * factors.mean)
