"""The weights of PCF-GNN and their optimizer.

Each node has a row: its vector, and a bias for each relation it is in. Dense weights are few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from elastic_embeddings.core.threads import split_rows
from training.data.arrays import Arrays
from training.models.encoding_inputs import key_positions
from training.pretraining import kernels
from training.pretraining.graph import Adjacency, CrossGraph
from training.pretraining.settings import PretrainSettings

Floats = NDArray[Any]
"""float32 in training, float64 in tests of gradients."""

_START_SCALE = 0.2
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
_ONE_ROW = np.zeros(1, np.int32)
_ROWS_PER_THREAD = 2048


@dataclass
class Parameters:
    """Weights of one model.

    Attributes:
        dim: width d of vectors and encodings.
        keys: by field, int64 [N] in the graph's order.
        tables: by field [N, d + S]: vectors, then the biases of the field's S slots
            (`Adjacency.slots`).
        dense: `layer/<k>/<field>/kernel` [(1 + S) d, d] and `bias` [d] for layers k = 1, 2, and so
            on; `cross/<relation>/<i>/kernel` and `bias` of an MLP.
    """

    dim: int
    keys: Mapping[str, NDArray[np.int64]]
    tables: dict[str, Floats]
    dense: dict[str, Floats]

    def arrays(self) -> Arrays:
        """Return all weights by name, as `starting_parameters` reads them."""
        named: Arrays = {f"dense/{name}": weights for name, weights in self.dense.items()}
        for field, table in self.tables.items():
            named |= {f"keys/{field}": self.keys[field], f"table/{field}": table}
        return named

    def copy(self) -> Parameters:
        """Return a copy of the weights."""
        tables = {field: table.copy() for field, table in self.tables.items()}
        dense = {name: weights.copy() for name, weights in self.dense.items()}
        return Parameters(self.dim, self.keys, tables, dense)

    def aligned(self, graph: CrossGraph, adjacency: Adjacency) -> Parameters:
        """Return the weights for the nodes of another graph; a node without weights has zeros."""
        tables = {
            field: _aligned_rows(
                self.keys.get(field),
                self.tables.get(field),
                keys,
                self.dim + len(adjacency.slots[field]),
            )
            for field, keys in graph.keys.items()
        }
        return Parameters(self.dim, graph.keys, tables, dict(self.dense))


def initial_parameters(
    graph: CrossGraph,
    adjacency: Adjacency,
    settings: PretrainSettings,
    dtype: DTypeLike = np.float32,
) -> Parameters:
    """Return initial weights.

    A node's vector is a function of its key and the seed. Biases are 0, kernels Glorot-uniform. The
    identity is added to a layer's kernel for the node's own vector, so the model starts near the
    model without the layer.
    """
    draw, dim = np.random.default_rng(settings.seed), settings.dim
    tables: dict[str, Floats] = {}
    dense: dict[str, Floats] = {}
    for field, keys in graph.keys.items():
        vectors = _initial_vectors(keys, dim, settings.seed).astype(dtype)
        biases = np.zeros((len(keys), len(adjacency.slots[field])), dtype)
        tables[field] = np.concatenate([vectors, biases], axis=1)
    for layer in range(1, settings.encoder.layers + 1):
        for field, slots in adjacency.slots.items():
            kernel = _glorot(draw, (1 + len(slots)) * dim, dim)
            kernel[:dim] += np.eye(dim)
            dense[f"layer/{layer}/{field}/kernel"] = kernel
            dense[f"layer/{layer}/{field}/bias"] = np.zeros(dim)
    if settings.cross_net.kind == "mlp":
        widths = (3 * dim, *settings.cross_net.hidden, 1)
        for name in graph.edges:
            for i, (rows, columns) in enumerate(pairwise(widths)):
                dense[f"cross/{name}/{i}/kernel"] = _glorot(draw, rows, columns)
                dense[f"cross/{name}/{i}/bias"] = np.zeros(columns)
    typed = {name: weights.astype(dtype) for name, weights in dense.items()}
    return Parameters(dim, graph.keys, tables, typed)


def starting_parameters(
    graph: CrossGraph, adjacency: Adjacency, settings: PretrainSettings, previous: Arrays | None
) -> Parameters:
    """Return initial weights, replaced by those of an earlier fit where they fit.

    Args:
        graph: nodes to start with.
        adjacency: of the graph.
        settings: shape and seed.
        previous: `Parameters.arrays` of the earlier fit. Rows are matched by key, dense weights by
            name. Weights of another shape are not used; with another `dim`, none are.
    """
    start = initial_parameters(graph, adjacency, settings)
    if not previous:
        return start
    for field, table in start.tables.items():
        known, keys = previous.get(f"table/{field}"), previous.get(f"keys/{field}")
        if known is not None and keys is not None and known.shape[1] == table.shape[1]:
            old = _aligned_rows(keys, known, graph.keys[field], table.shape[1])
            # A row of zeros was never trained on: the initial vector is better.
            trained = old.any(axis=1)
            table[trained] = old[trained]
    for name, weights in start.dense.items():
        before = previous.get(f"dense/{name}")
        if before is not None and before.shape == weights.shape:
            start.dense[name] = before.copy()
    return start


def _aligned_rows(
    known: NDArray[np.int64] | None, table: Floats | None, keys: NDArray[np.int64], width: int
) -> Floats:
    """Return rows [N, width] of `table` for keys; zeros for keys that it does not have."""
    if known is None or table is None or table.shape[1] != width:
        return np.zeros((len(keys), width), np.float32)
    order = np.argsort(known, kind="stable")
    places = key_positions(known[order], keys)
    # Position 0 is that of an unknown key, so a row of zeros comes first.
    return np.concatenate([np.zeros((1, width), table.dtype), table[order]])[places]


def _initial_vectors(keys: NDArray[np.int64], dim: int, seed: int) -> Floats:
    """Return uniform float64 [N, d] within ± `_START_SCALE`."""
    columns = np.tile(np.arange(dim, dtype=np.int64), len(keys))
    # The upper 53 bits fill a float64's mantissa, so every number in [0, 1) is exact.
    bits = kernels.pair_hash(np.repeat(keys, dim), columns, seed) >> np.uint64(11)
    uniform = bits.astype(np.float64) / 2**53
    return (_START_SCALE * (2 * uniform - 1)).reshape(len(keys), dim)


def _glorot(draw: np.random.Generator, rows: int, columns: int) -> Floats:
    limit = np.sqrt(6 / (rows + columns))
    return draw.uniform(-limit, limit, (rows, columns))


@dataclass(frozen=True)
class RowGradients:
    """Gradients [n, columns] of distinct rows int32 [n] of a field's table, from `column` on."""

    field: str
    nodes: NDArray[np.int32]
    column: int
    gradients: Floats


class SparseAdam:
    """Adam (Kingma and Ba, ICLR 2015) that updates only the numbers that have a gradient.

    Only their moments decay. Bias corrections count the steps of the whole model, as in TensorFlow
    Addons' LazyAdam.
    """

    def __init__(self, parameters: Parameters, learning_rate: float) -> None:
        self._parameters, self._learning_rate, self._step = parameters, learning_rate, 0
        # One dictionary: the names of dense weights contain `/`, those of fields do not.
        tables = {**parameters.tables, **parameters.dense}
        self._moments = {
            name: (np.zeros_like(table), np.zeros_like(table)) for name, table in tables.items()
        }

    def step(self, rows: Sequence[RowGradients], dense: Mapping[str, Floats]) -> None:
        """Update the parameters by gradients of rows, and of dense weights by name."""
        self._step += 1
        # Both bias corrections in one rate, as at the end of section 2 of the paper.
        rate = self._learning_rate * np.sqrt(1 - _BETA_2**self._step) / (1 - _BETA_1**self._step)
        factors = (rate, _BETA_1, 1 - _BETA_1, _BETA_2, 1 - _BETA_2, _EPSILON)
        for each in rows:
            table = self._parameters.tables[each.field]
            self._update(each.field, table, each.nodes, each.column, each.gradients, factors)
        for name, gradient in dense.items():
            # A dense weight is one row for the kernel.
            flat = self._parameters.dense[name].reshape(1, -1)
            self._update(name, flat, _ONE_ROW, 0, gradient.reshape(1, -1), factors)

    def _update(
        self,
        name: str,
        table: Floats,
        rows: NDArray[np.int32],
        column: int,
        gradients: Floats,
        factors: tuple[float, ...],
    ) -> None:
        first, second = (moment.reshape(table.shape) for moment in self._moments[name])
        # Of the weights' type: factors of float64 would make the kernel compute in float64.
        typed = np.array(factors, table.dtype)
        kernel = partial(kernels.adam, table, first, second, rows, column, gradients, typed)
        split_rows(kernel, len(rows), at_least=_ROWS_PER_THREAD)
