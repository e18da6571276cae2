"""What PCF-GNN learns: a row a node (its vector, and a bias for each relation it is in) and small dense weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from training.data.arrays import Arrays
from training.models.cross_input import key_positions
from training.pretraining import kernels
from training.pretraining.adjacency import Adjacency
from training.pretraining.graph import Graph
from training.pretraining.settings import PretrainSettings

Floats = NDArray[Any]
_START_SCALE = 0.2


@dataclass
class Parameters:
    """Weights of one model.

    Attributes:
        dim: width d of vectors and encodings.
        keys: by field, int64 [N] in the graph's order.
        tables: by field [N, d + S]: vectors, then the biases of the field's S slots (`Adjacency.slots`).
        dense: `layer/<k>/<field>/kernel` [(1 + S) d, d] and `bias` [d] for layers k = 1, 2, …; `cross/<relation>/<i>/kernel`
            and `bias` of an MLP.
    """

    dim: int
    keys: Mapping[str, NDArray[np.int64]]
    tables: dict[str, Floats]
    dense: dict[str, Floats]

    def arrays(self) -> Arrays:
        """Return everything by name, as `restored` reads it."""
        named: Arrays = {f"dense/{name}": weights for name, weights in self.dense.items()}
        for field, table in self.tables.items():
            named |= {f"keys/{field}": self.keys[field], f"table/{field}": table}
        return named

    def copy(self) -> Parameters:
        """Return the same with arrays of its own."""
        return Parameters(
            self.dim,
            self.keys,
            {f: t.copy() for f, t in self.tables.items()},
            {n: w.copy() for n, w in self.dense.items()},
        )

    def aligned(self, graph: Graph, adjacency: Adjacency) -> Parameters:
        """Return the weights for the nodes of another graph; a node that is new to them has a row of zeros."""
        tables = {
            field: _rows(
                self.keys.get(field),
                self.tables.get(field),
                keys,
                self.dim + len(adjacency.slots[field]),
            )
            for field, keys in graph.keys.items()
        }
        return Parameters(self.dim, graph.keys, tables, dict(self.dense))


def fresh(
    graph: Graph, adjacency: Adjacency, settings: PretrainSettings, dtype: DTypeLike = np.float32
) -> Parameters:
    """Return a start: a node's vector is a function of its key and the seed, biases are 0, kernels Glorot-uniform.

    A layer's kernel has the identity added where a node's own vector enters: it starts near the model without the layer.
    """
    draw, dim = np.random.default_rng(settings.seed), settings.dim
    tables: dict[str, Floats] = {}
    dense: dict[str, Floats] = {}
    for field, keys in graph.keys.items():
        biases = np.zeros((len(keys), len(adjacency.slots[field])), dtype)
        tables[field] = np.concatenate(
            [_vectors(keys, dim, settings.seed).astype(dtype), biases], axis=1
        )
    for layer in range(1, settings.encoder.layers + 1):
        for field, slots in adjacency.slots.items():
            kernel = _glorot(draw, (1 + len(slots)) * dim, dim)
            kernel[:dim] += np.eye(dim)
            dense |= {
                f"layer/{layer}/{field}/kernel": kernel,
                f"layer/{layer}/{field}/bias": np.zeros(dim),
            }
    if settings.cross_net.kind == "mlp":
        for name in graph.edges:
            dense |= _network(draw, name, (3 * dim, *settings.cross_net.hidden, 1))
    return Parameters(
        dim, graph.keys, tables, {name: weights.astype(dtype) for name, weights in dense.items()}
    )


def started(
    graph: Graph, adjacency: Adjacency, settings: PretrainSettings, previous: Arrays | None
) -> Parameters:
    """Return a start that takes over rows by key and dense weights by name from `Parameters.arrays` of before.

    What has another shape there starts anew; with another `dim`, everything does.
    """
    start = fresh(graph, adjacency, settings)
    if not previous:
        return start
    for field, table in start.tables.items():
        known, keys = previous.get(f"table/{field}"), previous.get(f"keys/{field}")
        if known is not None and keys is not None and known.shape[1] == table.shape[1]:
            old = _rows(keys, known, graph.keys[field], table.shape[1])
            trained = old.any(axis=1)
            table[trained] = old[trained]
    for name, weights in start.dense.items():
        before = previous.get(f"dense/{name}")
        if before is not None and before.shape == weights.shape:
            start.dense[name] = before.copy()
    return start


def _rows(
    known: NDArray[np.int64] | None, table: Floats | None, keys: NDArray[np.int64], width: int
) -> Floats:
    """Rows [N, width] of `table` for keys, zeros for keys that it has not."""
    if known is None or table is None or table.shape[1] != width:
        return np.zeros((len(keys), width), np.float32)
    order = np.argsort(known, kind="stable")
    places = key_positions(known[order], keys)
    return np.concatenate([np.zeros((1, width), table.dtype), table[order]])[places]


def _vectors(keys: NDArray[np.int64], dim: int, seed: int) -> Floats:
    """Uniform float64 [N, d] within ± `_START_SCALE`."""
    columns = np.tile(np.arange(dim, dtype=np.int64), len(keys))
    bits = kernels.pair_hash(np.repeat(keys, dim), columns, seed) >> np.uint64(11)
    uniform = bits.astype(np.float64) / 2**53
    return (_START_SCALE * (2 * uniform - 1)).reshape(len(keys), dim)


def _network(
    draw: np.random.Generator, relation: str, widths: tuple[int, ...]
) -> dict[str, Floats]:
    weights = {}
    for i, (rows, columns) in enumerate(pairwise(widths)):
        weights[f"cross/{relation}/{i}/kernel"] = _glorot(draw, rows, columns)
        weights[f"cross/{relation}/{i}/bias"] = np.zeros(columns)
    return weights


def _glorot(draw: np.random.Generator, rows: int, columns: int) -> Floats:
    limit = np.sqrt(6 / (rows + columns))
    return draw.uniform(-limit, limit, (rows, columns))
