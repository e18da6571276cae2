"""PCF-GNN (Li et al., SIGIR 2021): an encoder of graph nodes and a CrossNet, fitted to the statistics of edges.

Minimises Σ w (mean + spread · (b_u + b_v + CrossNet(h_u, h_v)) - a)² / spread² over the edges of every relation, in batches
of one relation each. Beside the loss, l2 / degree of an edge's end is put on the end's own row each time the edge is learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.pretraining import cross_net, kernels
from training.pretraining.adjacency import Adjacency, Block, Sampler
from training.pretraining.encoder import Encoder
from training.pretraining.optimizer import RowGradients, SparseAdam
from training.pretraining.parameters import Parameters
from training.pretraining.settings import PretrainSettings
from training.pretraining.targets import Targets

Floats = NDArray[Any]
_AHEAD = 3
_LEAST_BATCHES = 20
"""In an epoch, however few the edges: their batches are smaller then."""


@dataclass(frozen=True)
class Batch:
    """Edges of one relation: their sampled block, standardised targets and weights [b], and who is shown, by field [n, 1]."""

    relation: str
    block: Block
    target: Floats
    weight: Floats
    shown: Mapping[str, Floats]


@dataclass(frozen=True)
class Gradients:
    """Of a batch's loss: those of rows, dense ones by name; and the loss itself."""

    rows: Sequence[RowGradients]
    dense: Mapping[str, Floats]
    loss: float


class PcfGnn:
    """The model of a graph: draws batches, gives gradients and predictions. It holds no weights.

    Args:
        adjacency: of the edges that may be aggregated over.
        edges: to be learned, by relation.
        settings: shape, sampling and regularisation.
    """

    def __init__(
        self, adjacency: Adjacency, edges: Mapping[str, Targets], settings: PretrainSettings
    ) -> None:
        encoder = settings.encoder
        self.encoder = Encoder(adjacency.slots, encoder.layers, encoder.aggregation == "sum")
        self._adjacency, self._edges, self._settings = adjacency, edges, settings
        self._fanouts = encoder.fanouts[: encoder.layers]
        self._sampler = Sampler(adjacency, self._fanouts)
        self._scale = {name: (each.mean(), each.spread()) for name, each in edges.items()}
        self._degrees = {name: self._degrees_of(each) for name, each in edges.items()}

    def learn(self, parameters: Parameters, optimizer: SparseAdam, epoch: int) -> float:
        """Take one pass over the edges and return the mean loss of its batches. Batches are drawn ahead on a second thread."""
        losses = []
        for batch in self.batches(parameters, epoch):
            gradients = self.gradients(parameters, batch)
            optimizer.step(gradients.rows, gradients.dense)
            losses.append(gradients.loss)
        return float(np.mean(losses)) if losses else 0.0

    def batches(self, parameters: Parameters, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch; seed and epoch decide edges, order and neighbours."""
        plan = self._plan(epoch)
        dtype = next(iter(parameters.tables.values())).dtype
        jobs = (
            (name, chosen, [self._settings.seed, epoch, i], dtype)
            for i, (name, chosen) in enumerate(plan)
        )
        with ThreadPoolExecutor(1, "sampling") as pool:
            waiting = [pool.submit(self._batch, *job) for job in islice(jobs, _AHEAD)]
            while waiting:
                batch = waiting.pop(0).result()
                waiting += [pool.submit(self._batch, *job) for job in islice(jobs, 1)]
                yield batch

    def gradients(self, parameters: Parameters, batch: Batch) -> Gradients:
        """Return loss and gradients of a batch."""
        relation, block = self._edges[batch.relation].relation, batch.block
        encodings, tape = self.encoder.forward(parameters, block, batch.shown)
        left, right = encodings[relation.left][block.left], encodings[relation.right][block.right]
        layers = cross_net.layers_of(parameters.dense, batch.relation)
        crossed, inputs = cross_net.forward(left, right, layers)
        residual = crossed + self._biases(parameters, batch) - batch.target
        up = 2 * batch.weight * residual
        of_left, of_right, of_layers = cross_net.backward(left, right, layers, inputs, up)
        outer = {field: np.zeros_like(h) for field, h in encodings.items()}
        kernels.scatter_rows(of_left, block.left, outer[relation.left])
        kernels.scatter_rows(of_right, block.right, outer[relation.right])
        vectors, dense = self.encoder.backward(parameters, block, tape, outer)
        for i, (kernel, bias) in enumerate(of_layers):
            dense |= {
                f"cross/{batch.relation}/{i}/kernel": kernel,
                f"cross/{batch.relation}/{i}/bias": bias,
            }
        loss = float(np.sum(batch.weight * residual**2))
        return Gradients(self._rows(parameters, batch, vectors, up), dense, loss)

    def encodings(self, parameters: Parameters) -> dict[str, Floats]:
        """Return the encodings [N, d] of all nodes by field, from all their neighbours."""
        return self.encoder.all_nodes(parameters, self._adjacency, self._fanouts)

    def predictions(
        self, parameters: Parameters, edges: Mapping[str, Targets]
    ) -> dict[str, Floats]:
        """Return the modelled statistic of edges by relation, float64 [E]."""
        encodings, predicted = self.encodings(parameters), {}
        for name, each in edges.items():
            left, right = (
                encodings[each.relation.left][each.left],
                encodings[each.relation.right][each.right],
            )
            crossed, _ = cross_net.forward(left, right, cross_net.layers_of(parameters.dense, name))
            own_left, own_right = (
                parameters.tables[f][n, c]
                for f, n, c in self._bias_places(name, each.left, each.right)
            )
            mean, spread = self._scale[name]
            predicted[name] = mean + spread * (crossed + own_left + own_right).astype(np.float64)
        return predicted

    @property
    def relations(self) -> tuple[str, ...]:
        """Those that are learned."""
        return tuple(self._edges)

    def scale(self, name: str) -> tuple[float, float]:
        """Return the mean and the spread of a relation's learned edges."""
        return self._scale[name]

    def bias_columns(self, name: str) -> tuple[int, int]:
        """Return where in the tables of its two fields a relation's biases lie."""
        relation, dim = self._edges[name].relation, self._settings.dim
        places = [
            i
            for i, slot in enumerate(self._adjacency.slots[relation.left])
            if slot.relation == name
        ]
        others = [
            i
            for i, slot in enumerate(self._adjacency.slots[relation.right])
            if slot.relation == name
        ]
        return dim + places[0], dim + others[-1]

    def _plan(self, epoch: int) -> list[tuple[str, NDArray[np.int64]]]:
        """The epoch's batches: relation and edges of each, shuffled within and across relations."""
        draw, plan = np.random.default_rng([self._settings.seed, epoch]), []
        for name, each in self._edges.items():
            order, size = (
                draw.permutation(len(each)),
                min(self._settings.batch_size, max(1, len(each) // _LEAST_BATCHES)),
            )
            plan += [(name, order[i : i + size]) for i in range(0, len(each), size)]
        return [plan[i] for i in draw.permutation(len(plan))]

    def _batch(self, name: str, chosen: NDArray[np.int64], seed: list[int], dtype: Any) -> Batch:
        edges, draw = self._edges[name], np.random.default_rng(seed)
        fields = (edges.relation.left, edges.relation.right)
        block = self._sampler.block(
            fields, edges.left[chosen], edges.right[chosen], int(draw.integers(2**63))
        )
        hidden = self._settings.encoder.own_dropout if self.encoder.layers else 0.0
        shown = {
            f: (draw.random((len(n), 1)) >= hidden).astype(dtype)
            for f, n in block.nodes[-1].items()
        }
        mean, spread = self._scale[name]
        weight = edges.weight[chosen] / edges.weight[chosen].sum()
        return Batch(
            name,
            block,
            ((edges.value[chosen] - mean) / spread).astype(dtype),
            weight.astype(dtype),
            shown,
        )

    def _bias_places(self, name: str, left: Any, right: Any) -> tuple[tuple[str, Any, int], ...]:
        relation, columns = self._edges[name].relation, self.bias_columns(name)
        return (relation.left, left, columns[0]), (relation.right, right, columns[1])

    def _ends(self, batch: Batch) -> tuple[tuple[str, NDArray[np.int32], int], ...]:
        return self._bias_places(batch.relation, batch.block.left, batch.block.right)

    def _biases(self, parameters: Parameters, batch: Batch) -> Floats:
        lowest = batch.block.nodes[-1]
        left, right = (
            parameters.tables[f][lowest[f][numbers], column] * batch.shown[f][numbers, 0]
            for f, numbers, column in self._ends(batch)
        )
        return left + right

    def _rows(
        self, parameters: Parameters, batch: Batch, vectors: Mapping[str, Floats], up: Floats
    ) -> tuple[RowGradients, ...]:
        """Gradients of vectors, through the encoder, and of the biases of the edges' ends; the ridge of the ends with both."""
        lowest, found = batch.block.nodes[-1], []
        for side, (field, numbers, column) in enumerate(self._ends(batch)):
            count = int(numbers.max()) + 1
            ends, table = lowest[field][:count], parameters.tables[field]
            bias = np.zeros((count, 1), up.dtype)
            kernels.scatter_rows((up * batch.shown[field][numbers, 0])[:, None], numbers, bias)
            if self._settings.l2:
                ridge = self._ridge(batch, side, ends, numbers).astype(up.dtype)
                vectors[field][:count] += ridge * table[ends, : parameters.dim]
                bias += ridge * table[ends, column : column + 1]
            found.append(RowGradients(field, ends, column, bias))
        return (
            *found,
            *(RowGradients(field, nodes, 0, vectors[field]) for field, nodes in lowest.items()),
        )

    def _ridge(
        self, batch: Batch, side: int, ends: NDArray[np.int32], numbers: NDArray[np.int32]
    ) -> Floats:
        """The factor [T, 1] of the ends' own numbers: 2 l2 / degree for each time that an edge of the batch ends there."""
        times = np.bincount(numbers, minlength=len(ends)) / np.maximum(
            self._degrees[batch.relation][side][ends], 1
        )
        total = self._edges[batch.relation].weight.mean() * len(batch.target)
        return (2 * self._settings.l2 / total * times)[:, None]

    def _degrees_of(self, edges: Targets) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        nodes = self._adjacency.nodes
        return (
            np.bincount(edges.left, minlength=nodes[edges.relation.left]),
            np.bincount(edges.right, minlength=nodes[edges.relation.right]),
        )
