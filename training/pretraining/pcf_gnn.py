"""PCF-GNN (Li et al., SIGIR 2021): pre-trained cross features from a graph neural network.

Minimises the weighted square error over the edges of every relation, in batches of one relation:

    Σ w (mean + spread · (b_u + b_v + CrossNet(h_u, h_v)) - a)² / spread²

plus a ridge: each time that an edge is trained on, l2 / degree is applied to the rows of its ends.
The fit stops early by the held-out edges and can start from an earlier fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from training.models.encoding_inputs import Encoding, sorted_nodes
from training.pretraining import kernels
from training.pretraining.encoder import Encoder, cross_backward, cross_forward, cross_layers
from training.pretraining.graph import Adjacency, CrossGraph, SampledBlock, Sampler
from training.pretraining.parameters import (
    Floats,
    Parameters,
    RowGradients,
    SparseAdam,
    starting_parameters,
)
from training.pretraining.settings import PretrainSettings
from training.pretraining.task import Epoch, FitResult, Targets, Task

_BATCHES_AHEAD = 3

_LEAST_BATCHES = 20
"""Batches of an epoch; with few edges the batches become smaller."""


@dataclass(frozen=True)
class EdgeBatch:
    """Edges of one relation.

    Attributes:
        relation: its name.
        block: the sampled neighbours.
        target: standardised statistic [b].
        weight: [b], their sum is 1.
        shown: by field [n, 1], 0 for nodes whose own row is hidden, or 1.
    """

    relation: str
    block: SampledBlock
    target: Floats
    weight: Floats
    shown: Mapping[str, Floats]


@dataclass(frozen=True)
class BatchGradients:
    """Gradients of a batch's loss: of rows, and of dense weights by name; and the loss."""

    rows: Sequence[RowGradients]
    dense: Mapping[str, Floats]
    loss: float


class PcfGnn:
    """The model of a graph: draws batches, computes gradients and predictions. It holds no weights.

    Args:
        adjacency: of the edges that may be aggregated over.
        edges: to train on, by relation.
        settings: shape, sampling and regularisation.
    """

    def __init__(
        self, adjacency: Adjacency, edges: Mapping[str, Targets], settings: PretrainSettings
    ) -> None:
        encoder, nodes = settings.encoder, adjacency.nodes
        self.encoder = Encoder(adjacency.slots, encoder.layers, encoder.aggregation == "sum")
        self._adjacency, self._edges, self._settings = adjacency, edges, settings
        self._fanouts = encoder.fanouts[: encoder.layers]
        self._sampler = Sampler(adjacency, self._fanouts)
        self._scale = {name: (each.mean(), each.spread()) for name, each in edges.items()}
        self._degrees = {
            name: (
                np.bincount(each.left, minlength=nodes[each.relation.left]),
                np.bincount(each.right, minlength=nodes[each.relation.right]),
            )
            for name, each in edges.items()
        }

    def train_epoch(self, parameters: Parameters, optimizer: SparseAdam, epoch: int) -> float:
        """Take one pass over the edges and return the mean loss of its batches."""
        losses = []
        for batch in self.batches(parameters, epoch):
            gradients = self.gradients(parameters, batch)
            optimizer.step(gradients.rows, gradients.dense)
            losses.append(gradients.loss)
        return float(np.mean(losses)) if losses else 0.0

    def batches(self, parameters: Parameters, epoch: int) -> Iterator[EdgeBatch]:
        """Yield the batches of an epoch; seed and epoch decide edges, order and neighbours."""
        # 1. Plan: shuffle the edges within each relation, then the batches across relations.
        draw = np.random.default_rng([self._settings.seed, epoch])
        plan: list[tuple[str, NDArray[np.int64]]] = []
        for name, each in self._edges.items():
            order = draw.permutation(len(each))
            size = min(self._settings.batch_size, max(1, len(each) // _LEAST_BATCHES))
            plan += [(name, order[i : i + size]) for i in range(0, len(each), size)]
        plan = [plan[i] for i in draw.permutation(len(plan))]

        # 2. Draw neighbours a few batches ahead on a second thread: the kernels release the GIL.
        #    Each batch has its own seed, so the result does not depend on the threads.
        dtype = next(iter(parameters.tables.values())).dtype
        jobs = (
            (name, chosen, [self._settings.seed, epoch, i], dtype)
            for i, (name, chosen) in enumerate(plan)
        )
        #    One thread, because the sampler uses its arrays again for every block.
        with ThreadPoolExecutor(1, "sampling") as pool:
            waiting = [pool.submit(self._batch, *job) for job in islice(jobs, _BATCHES_AHEAD)]
            while waiting:
                batch = waiting.pop(0).result()
                waiting += [pool.submit(self._batch, *job) for job in islice(jobs, 1)]
                yield batch

    def gradients(self, parameters: Parameters, batch: EdgeBatch) -> BatchGradients:
        """Return loss and gradients of a batch."""
        relation, block = self._edges[batch.relation].relation, batch.block
        # 1. Forward: encodings, CrossNet, and the biases of the edges' ends.
        encodings, tape = self.encoder.forward(parameters, block, batch.shown)
        left, right = encodings[relation.left][block.left], encodings[relation.right][block.right]
        layers = cross_layers(parameters.dense, batch.relation)
        crossed, inputs = cross_forward(left, right, layers)
        lowest = block.nodes[-1]
        left_bias, right_bias = (
            parameters.tables[f][lowest[f][numbers], column] * batch.shown[f][numbers, 0]
            for f, numbers, column in self._bias_places(batch.relation, block.left, block.right)
        )
        residual = crossed + (left_bias + right_bias) - batch.target
        loss = float(np.sum(batch.weight * residual**2))

        # 2. Backward in reverse order. Several edges may end in one node: their gradients add up.
        upstream = 2 * batch.weight * residual
        of_left, of_right, of_layers = cross_backward(left, right, layers, inputs, upstream)
        of_encodings = {field: np.zeros_like(h) for field, h in encodings.items()}
        kernels.scatter_rows(of_left, block.left, of_encodings[relation.left])
        kernels.scatter_rows(of_right, block.right, of_encodings[relation.right])
        vectors, dense = self.encoder.backward(parameters, block, tape, of_encodings)
        for i, (kernel, bias) in enumerate(of_layers):
            dense[f"cross/{batch.relation}/{i}/kernel"] = kernel
            dense[f"cross/{batch.relation}/{i}/bias"] = bias
        return BatchGradients(
            self._row_gradients(parameters, batch, vectors, upstream), dense, loss
        )

    def encodings(self, parameters: Parameters) -> dict[str, Floats]:
        """Return the encodings [N, d] of all nodes by field, from all their neighbours."""
        return self.encoder.all_nodes(parameters, self._adjacency, self._fanouts)

    def predictions(
        self, parameters: Parameters, edges: Mapping[str, Targets]
    ) -> dict[str, Floats]:
        """Return the modelled statistic of edges by relation, float64 [E]."""
        encodings, predicted = self.encodings(parameters), {}
        for name, each in edges.items():
            left = encodings[each.relation.left][each.left]
            right = encodings[each.relation.right][each.right]
            crossed, _ = cross_forward(left, right, cross_layers(parameters.dense, name))
            left_bias, right_bias = (
                parameters.tables[field][nodes, column]
                for field, nodes, column in self._bias_places(name, each.left, each.right)
            )
            mean, spread = self._scale[name]
            predicted[name] = mean + spread * (crossed + left_bias + right_bias).astype(np.float64)
        return predicted

    @property
    def relations(self) -> tuple[str, ...]:
        """The relations that are trained on."""
        return tuple(self._edges)

    def scale(self, name: str) -> tuple[float, float]:
        """Return the mean and the spread of a relation's training edges."""
        return self._scale[name]

    def bias_columns(self, name: str) -> tuple[int, int]:
        """Return the columns of a relation's biases in the tables of its two fields."""
        relation, dim, slots = self._edges[name].relation, self._settings.dim, self._adjacency.slots
        left, right = (
            [i for i, slot in enumerate(slots[field]) if slot.relation == name]
            for field in (relation.left, relation.right)
        )
        # Of a relation of a field with itself, the left side's slot comes first.
        return dim + left[0], dim + right[-1]

    def _bias_places(self, name: str, left: Any, right: Any) -> tuple[tuple[str, Any, int], ...]:
        """Return field, nodes and column of the biases of both ends of edges."""
        relation, columns = self._edges[name].relation, self.bias_columns(name)
        return (relation.left, left, columns[0]), (relation.right, right, columns[1])

    def _batch(
        self, name: str, chosen: NDArray[np.int64], seed: list[int], dtype: Any
    ) -> EdgeBatch:
        edges, draw = self._edges[name], np.random.default_rng(seed)
        fields, block_seed = (edges.relation.left, edges.relation.right), int(draw.integers(2**63))
        block = self._sampler.block(fields, edges.left[chosen], edges.right[chosen], block_seed)
        # Without layers a node is its own vector alone: hiding it would leave nothing.
        hidden = self._settings.encoder.own_dropout if self.encoder.layers else 0.0
        shown = {
            field: (draw.random((len(nodes), 1)) >= hidden).astype(dtype)
            for field, nodes in block.nodes[-1].items()
        }
        mean, spread = self._scale[name]
        target = ((edges.value[chosen] - mean) / spread).astype(dtype)
        weight = edges.weight[chosen] / edges.weight[chosen].sum()
        return EdgeBatch(name, block, target, weight.astype(dtype), shown)

    def _row_gradients(
        self,
        parameters: Parameters,
        batch: EdgeBatch,
        vectors: Mapping[str, Floats],
        upstream: Floats,
    ) -> tuple[RowGradients, ...]:
        """Return gradients of the vectors and of the ends' biases, both with the ridge."""
        block, biases = batch.block, []
        for side, (field, numbers, column) in enumerate(
            self._bias_places(batch.relation, block.left, block.right)
        ):
            # The ends of the edges are the first nodes of their field, numbered without gaps.
            count = int(numbers.max()) + 1
            ends, table = block.nodes[-1][field][:count], parameters.tables[field]
            bias = np.zeros((count, 1), upstream.dtype)
            of_edges = (upstream * batch.shown[field][numbers, 0])[:, None]
            kernels.scatter_rows(of_edges, numbers, bias)
            if self._settings.l2:
                # 2 l2 / degree for each time that an edge of the batch ends in the node.
                times = np.bincount(numbers, minlength=count) / np.maximum(
                    self._degrees[batch.relation][side][ends], 1
                )
                # The loss is divided by the batch's weights, the ridge by the sum that they have on
                # average: it is then the same for light and heavy edges.
                total = self._edges[batch.relation].weight.mean() * len(batch.target)
                ridge = (2 * self._settings.l2 / total * times)[:, None].astype(upstream.dtype)
                vectors[field][:count] += ridge * table[ends, : parameters.dim]
                bias += ridge * table[ends, column : column + 1]
            biases.append(RowGradients(field, ends, column, bias))
        lowest = block.nodes[-1].items()
        return (*biases, *(RowGradients(f, nodes, 0, vectors[f]) for f, nodes in lowest))


def pcf_gnn(task: Task) -> FitResult:
    """Fit PCF-GNN and return the weights of its best epoch by the held-out edges.

    Without held-out edges they are those of the last epoch. The same task gives the same bytes.
    """
    edges = task.training_edges
    if not edges:
        return FitResult({})
    adjacency = Adjacency.of(task.graph, task.chosen)
    model = PcfGnn(adjacency, edges, task.settings)
    heldout = {name: each for name, each in task.heldout.items() if name in edges and len(each)}
    # Matrix products on several threads would sum in varying order: results must not depend on it.
    with threadpool_limits(1, "blas"):
        start = starting_parameters(task.graph, adjacency, task.settings, task.previous)
        parameters, curve, best = _train(model, start, heldout, task.settings)

        # Nodes without any training edge, now or before, still hold random initial vectors.
        for field, slots in adjacency.slots.items():
            trained = np.isin(parameters.keys[field], task.previous.get(f"keys/{field}", ()))
            for slot in slots:
                trained |= np.diff(slot.offsets) > 0
            parameters.tables[field][~trained] = 0

        encodings = encode(model, parameters, task.graph, task.settings)
    return FitResult(encodings, curve, best, parameters.arrays())


def encode(
    model: PcfGnn, parameters: Parameters, graph: CrossGraph, settings: PretrainSettings
) -> dict[str, Encoding]:
    """Return the encodings for serving, of all nodes of the graph and each relation of the model.

    A node without a trained row (zeros, see `Parameters.aligned`) is encoded by its neighbours
    alone. The left vectors, the biases and the last layer of an MLP are multiplied by the spread
    of the statistic.
    """
    vectors, encodings = model.encodings(parameters), {}
    for name in model.relations:
        relation, (mean, spread) = graph.edges[name].relation, model.scale(name)
        layers = cross_layers(parameters.dense, name)
        # 1. The nodes. Without a network the left vectors carry the spread, so it counts once.
        sides = []
        for field, column, factor in zip(
            (relation.left, relation.right),
            model.bias_columns(name),
            (1.0 if layers else spread, 1.0),
            strict=True,
        ):
            bias = spread * parameters.tables[field][:, column]
            own = factor * vectors[field]
            sides.append(sorted_nodes(graph.keys[field], own, bias, np.dtype(settings.storage)))
        # 2. The network. Its output is linear in the last layer only, so the spread goes there.
        factors = [1.0] * (len(layers) - 1) + [spread] if layers else []
        network = tuple(
            ((kernel * factor).astype(np.float32), (bias * factor).astype(np.float32))
            for (kernel, bias), factor in zip(layers, factors, strict=True)
        )
        encodings[name] = Encoding(sides[0], sides[1], mean, network)
    return encodings


def _train(
    model: PcfGnn,
    parameters: Parameters,
    heldout: Mapping[str, Targets],
    settings: PretrainSettings,
) -> tuple[Parameters, tuple[Epoch, ...], int]:
    """Return the parameters of the best epoch, the losses, and the number of that epoch."""
    optimizer = SparseAdam(parameters, settings.learning_rate)
    # Without held-out edges the last epoch is returned, so no copy is needed.
    best, best_loss, best_epoch = parameters.copy() if heldout else parameters, math.inf, 0
    curve: list[Epoch] = []
    for number in range(settings.epochs + 1):
        # Epoch 0 only evaluates the start: a warm start may already be the best.
        loss = model.train_epoch(parameters, optimizer, number) if number else math.nan
        heldout_loss = _heldout_loss(model, parameters, heldout)
        curve.append(Epoch(number, loss, heldout_loss))
        if heldout_loss < best_loss:
            best, best_loss, best_epoch = parameters.copy(), heldout_loss, number
        if heldout and number - best_epoch >= settings.patience:
            break
    if not heldout:
        return parameters, tuple(curve), settings.epochs
    return best, tuple(curve), best_epoch


def _heldout_loss(model: PcfGnn, parameters: Parameters, heldout: Mapping[str, Targets]) -> float:
    """Return the mean over relations of the weighted square error in units of the variance."""
    if not heldout:
        return math.nan
    losses = []
    for name, predicted in model.predictions(parameters, heldout).items():
        each, (_, spread) = heldout[name], model.scale(name)
        losses.append(np.average((each.value - predicted) ** 2, weights=each.weight) / spread**2)
    return float(np.mean(losses))
