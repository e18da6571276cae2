"""The fit of PCF-GNN: epochs with early stopping, warm start, and the encodings it leaves for serving."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from threadpoolctl import threadpool_limits

from training.models.cross_input import Encoding, Network, sorted_nodes
from training.pretraining import cross_net
from training.pretraining.adjacency import Adjacency
from training.pretraining.fitting import Epoch, Fitted, Task
from training.pretraining.graph import Graph
from training.pretraining.optimizer import SparseAdam
from training.pretraining.parameters import Parameters, started
from training.pretraining.pcf_gnn import PcfGnn
from training.pretraining.settings import PretrainSettings
from training.pretraining.targets import Targets


def pcf_gnn(task: Task) -> Fitted:
    """Fit PCF-GNN and return the weights of its best epoch by the held-out edges; of its last one where none are held out.

    The same task gives the same bytes: matrix products run on one thread, the other one samples.
    """
    learned = task.learned()
    if not learned:
        return Fitted({})
    adjacency = Adjacency.of(task.graph, task.chosen)
    model = PcfGnn(adjacency, learned, task.settings)
    heldout = {name: each for name, each in task.heldout.items() if name in learned and len(each)}
    with threadpool_limits(1, "blas"):
        parameters, curve, best = _learn(
            model,
            started(task.graph, adjacency, task.settings, task.previous),
            heldout,
            task.settings,
        )
        _forget_strangers(parameters, adjacency, task)
        return Fitted(
            encode(model, parameters, task.graph, task.settings), curve, best, parameters.arrays()
        )


def encode(
    model: PcfGnn, parameters: Parameters, graph: Graph, settings: PretrainSettings
) -> dict[str, Encoding]:
    """Return what serves: encodings of all nodes of the graph, for each relation the model has learned.

    A node that was not learned (a row of zeros, see `Parameters.aligned`) is encoded by its neighbours alone. The spread of
    the statistic goes into the left vectors, the biases and the last layer of an MLP.
    """
    vectors = model.encodings(parameters)
    return {
        name: _encoding(name, model, parameters, graph, vectors, settings)
        for name in model.relations
    }


def _learn(
    model: PcfGnn,
    parameters: Parameters,
    heldout: Mapping[str, Targets],
    settings: PretrainSettings,
) -> tuple[Parameters, tuple[Epoch, ...], int]:
    optimizer = SparseAdam(parameters, settings.learning_rate)
    best, best_loss, best_epoch = parameters.copy() if heldout else parameters, math.inf, 0
    curve: list[Epoch] = []
    for number in range(settings.epochs + 1):
        loss = model.learn(parameters, optimizer, number) if number else math.nan
        curve.append(Epoch(number, loss, _heldout_loss(model, parameters, heldout)))
        if curve[-1].heldout_loss < best_loss:
            best, best_loss, best_epoch = parameters.copy(), curve[-1].heldout_loss, number
        if heldout and number - best_epoch >= settings.patience:
            break
    return (
        (best, tuple(curve), best_epoch) if heldout else (parameters, tuple(curve), settings.epochs)
    )


def _heldout_loss(model: PcfGnn, parameters: Parameters, heldout: Mapping[str, Targets]) -> float:
    """The mean over relations of the weighted square error in units of the variance of the learned edges; NaN without any."""
    if not heldout:
        return math.nan
    losses = []
    for name, predicted in model.predictions(parameters, heldout).items():
        each, (_, spread) = heldout[name], model.scale(name)
        losses.append(np.average((each.value - predicted) ** 2, weights=each.weight) / spread**2)
    return float(np.mean(losses))


def _forget_strangers(parameters: Parameters, adjacency: Adjacency, task: Task) -> None:
    """Zero the rows of nodes that no learned edge ends in, now or before: what they hold is the start's noise."""
    for field, slots in adjacency.slots.items():
        met = np.zeros(len(parameters.tables[field]), np.bool_)
        for slot in slots:
            met |= np.diff(slot.offsets) > 0
        parameters.tables[field][
            ~(met | np.isin(parameters.keys[field], task.previous.get(f"keys/{field}", ())))
        ] = 0


def _encoding(
    name: str,
    model: PcfGnn,
    parameters: Parameters,
    graph: Graph,
    vectors: Mapping[str, np.ndarray],
    settings: PretrainSettings,
) -> Encoding:
    relation, columns, (mean, spread) = (
        graph.edges[name].relation,
        model.bias_columns(name),
        model.scale(name),
    )
    layers = cross_net.layers_of(parameters.dense, name)
    sides = []
    for field, column, factor in zip(
        (relation.left, relation.right), columns, (1.0 if layers else spread, 1.0), strict=True
    ):
        bias = spread * parameters.tables[field][:, column]
        sides.append(
            sorted_nodes(
                graph.keys[field], factor * vectors[field], bias, np.dtype(settings.storage)
            )
        )
    return Encoding(sides[0], sides[1], mean, _scaled(layers, spread))


def _scaled(layers: list[tuple[np.ndarray, np.ndarray]], spread: float) -> Network:
    factors = [1.0] * (len(layers) - 1) + [spread]
    pairs = zip(layers, factors, strict=True) if layers else ()
    return tuple(
        ((k * factor).astype(np.float32), (b * factor).astype(np.float32))
        for (k, b), factor in pairs
    )
