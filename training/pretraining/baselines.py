"""What PCF-GNN is to be held against: the table of the statistic, node biases, and a plain factorisation."""

from __future__ import annotations

import numpy as np

from training.models.cross_input import Encoding, Nodes, PairTable, sorted_nodes
from training.pretraining.factorisation import Edges, Factors, factorise
from training.pretraining.fitting import Fitted, Task
from training.pretraining.graph import Graph
from training.pretraining.targets import Targets

_START_SCALE = 0.1
_BIAS_SWEEPS = 10


def lookup(task: Task) -> Fitted:
    """Return the statistic of every learned pair as a table; other pairs get the mean."""
    return Fitted({name: _table(task.graph, name, each) for name, each in task.learned().items()})


def node_bias(task: Task) -> Fitted:
    """Return mean + b_u + b_v, by alternating least squares with the settings' ridge."""
    return Fitted(
        {
            name: biases(task.graph, name, each, task.settings.l2)
            for name, each in task.learned().items()
        }
    )


def factorisation(task: Task) -> Fitted:
    """Return mean + b_u + b_v + <h_u, h_v>, by alternating least squares: no graph, each relation by itself."""
    return Fitted({name: _factors(task, name, each) for name, each in task.learned().items()})


def biases(graph: Graph, name: str, edges: Targets, l2: float) -> Encoding:
    """Return the node biases of one relation for a ridge in units of edge weight."""
    left, right = (np.zeros((len(keys), 1)) for keys in graph.sides(name))
    return _encoded(graph, name, edges, Factors(left, right, 0.0), l2, _BIAS_SWEEPS)


def _table(graph: Graph, name: str, edges: Targets) -> PairTable:
    return PairTable.of(edges.pairs_in(graph), edges.value, edges.mean())


def _factors(task: Task, name: str, edges: Targets) -> Encoding:
    settings, (left, right) = task.settings, task.graph.sides(name)
    first = np.random.default_rng(settings.seed).normal(
        scale=_START_SCALE, size=(len(right), settings.dim + 1)
    )
    start = Factors(np.zeros((len(left), settings.dim + 1)), first, 0.0)
    return _encoded(task.graph, name, edges, start, settings.l2, settings.epochs, settings.storage)


def _encoded(
    graph: Graph,
    name: str,
    edges: Targets,
    start: Factors,
    l2: float,
    sweeps: int,
    storage: str = "float32",
) -> Encoding:
    """Fit in units of the spread, so that the ridge means the same for every statistic."""
    mean, spread = edges.mean(), edges.spread()
    scaled = Edges(
        edges.left.astype(np.int64),
        edges.right.astype(np.int64),
        (edges.value - mean) / spread,
        edges.weight,
    )
    factors = factorise(scaled, start, l2, sweeps)
    left, right = graph.sides(name)
    sides = (
        _nodes(left, factors.left, spread, spread, storage),
        _nodes(right, factors.right, 1.0, spread, storage),
    )
    return Encoding(*sides, mean=mean + spread * factors.mean)


def _nodes(
    keys: np.ndarray, factors: np.ndarray, of_vectors: float, of_biases: float, storage: str
) -> Nodes:
    return sorted_nodes(
        keys, factors[:, :-1] * of_vectors, factors[:, -1] * of_biases, np.dtype(storage)
    )
