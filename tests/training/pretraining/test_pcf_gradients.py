"""Forward and backward of PCF-GNN in float64, against a reference and finite differences."""

from itertools import product

import numpy as np
import pytest
from graph_files import planted_edges, write_graph

from training.pretraining.graph import Adjacency, read_graph
from training.pretraining.parameters import initial_parameters
from training.pretraining.pcf_gnn import PcfGnn
from training.pretraining.settings import PretrainSettings
from training.pretraining.task import targets

RELATIONS = ("user__item", "user__tab", "tab__item")
SHAPES = [*product(("mean", "sum"), (0, 1, 2, 3), ("dot", "mlp"))]


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    edges = {name: planted_edges(9, 7, 30, seed=i) for i, name in enumerate(RELATIONS)}
    return read_graph(write_graph(tmp_path_factory.mktemp("graph"), edges))


def model_of(graph, aggregation, layers, cross_net):
    encoder = {
        "aggregation": aggregation,
        "layers": layers,
        "fanouts": (3, 2, 2),
        "own_dropout": 0.3,
    }
    settings = PretrainSettings(
        dim=3,
        encoder=encoder,
        cross_net={"kind": cross_net, "hidden": (4, 3)},
        batch_size=12,
        l2=0.7,
    )
    adjacency = Adjacency.of(graph)
    edges = {name: targets(each, settings) for name, each in graph.edges.items()}
    parameters = initial_parameters(graph, adjacency, settings, np.float64)
    draw = np.random.default_rng(5)
    for table in parameters.tables.values():
        table += draw.normal(size=table.shape)
    for name in parameters.dense:
        parameters.dense[name] += 0.3 * draw.normal(size=parameters.dense[name].shape)
    return PcfGnn(adjacency, edges, settings), parameters, adjacency, settings


def encode(parameters, adjacency, settings, batch, level, field, number):
    """h of one node of a block's level (0: the output), by the formula, neighbour by neighbour."""
    encoder, block = settings.encoder, batch.block
    if level == encoder.layers:
        return (
            parameters.tables[field][block.nodes[level][field][number], : settings.dim]
            * batch.shown[field][number, 0]
        )
    layer, parts = (
        encoder.layers - level,
        [encode(parameters, adjacency, settings, batch, level + 1, field, number)],
    )
    for slot, drawn in zip(adjacency.slots[field], block.drawn[level][field], strict=True):
        others = drawn.numbers[number][: drawn.counts[number]]
        messages = [
            encode(parameters, adjacency, settings, batch, level + 1, slot.other, other)
            for other in others
        ]
        total = np.sum(messages, axis=0) if messages else np.zeros(settings.dim)
        parts.append(total / max(1, len(messages)) if encoder.aggregation == "mean" else total)
    z = (
        np.concatenate(parts) @ parameters.dense[f"layer/{layer}/{field}/kernel"]
        + parameters.dense[f"layer/{layer}/{field}/bias"]
    )
    return z if level == 0 else np.maximum(z, 0)


def crossed(parameters, relation, left, right):
    if f"cross/{relation}/0/kernel" not in parameters.dense:
        return left @ right
    x = np.concatenate([left, right, left * right])
    for i in range(3):
        x = (
            x @ parameters.dense[f"cross/{relation}/{i}/kernel"]
            + parameters.dense[f"cross/{relation}/{i}/bias"]
        )
        x = np.maximum(x, 0) if i < 2 else x
    return x[0]


def reference(graph, parameters, adjacency, settings, batch):
    """The loss of a batch, the ridge included."""
    relation, edges = graph.edges[batch.relation].relation, graph.edges[batch.relation]
    total, lowest = 0.0, batch.block.nodes[-1]
    scale = settings.l2 / (np.log1p(edges.impressions).mean() * len(batch.target))
    for e, (left, right) in enumerate(zip(batch.block.left, batch.block.right, strict=True)):
        value = crossed(parameters, batch.relation, *(
            encode(parameters, adjacency, settings, batch, 0, f, n)
            for f, n in ((relation.left, left), (relation.right, right))
        ))  # fmt: skip
        for field, number, ends in (
            (relation.left, left, edges.left),
            (relation.right, right, edges.right),
        ):
            at = settings.dim + [slot.relation for slot in adjacency.slots[field]].index(
                batch.relation
            )
            node = lowest[field][number]
            row = parameters.tables[field][node]
            value += row[at] * batch.shown[field][number, 0]
            total += (
                scale / np.sum(ends == node) * (np.sum(row[: settings.dim] ** 2) + row[at] ** 2)
            )
        total += batch.weight[e] * (value - batch.target[e]) ** 2
    return total


def batch_of(model, parameters, relation):
    return next(batch for batch in model.batches(parameters, 1) if batch.relation == relation)


@pytest.mark.parametrize(("aggregation", "layers", "cross_net"), SHAPES)
def test_the_loss_is_the_formulas(graph, aggregation, layers, cross_net):
    model, parameters, adjacency, settings = model_of(graph, aggregation, layers, cross_net)
    unpenalised = settings.model_copy(update={"l2": 0.0})
    for relation in RELATIONS:
        batch = batch_of(model, parameters, relation)
        expected = reference(graph, parameters, adjacency, unpenalised, batch)
        assert model.gradients(parameters, batch).loss == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize(("aggregation", "layers", "cross_net"), SHAPES)
def test_gradients_are_those_of_the_reference(graph, aggregation, layers, cross_net):
    """Central differences of the reference, along random directions of every weight."""
    model, parameters, adjacency, settings = model_of(graph, aggregation, layers, cross_net)
    batch = batch_of(model, parameters, "user__item")
    found = model.gradients(parameters, batch)
    draw = np.random.default_rng(3)
    for holder, name in [
        *((parameters.tables, f) for f in parameters.tables),
        *((parameters.dense, n) for n in parameters.dense),
    ]:
        direction, start = draw.normal(size=holder[name].shape), holder[name]
        losses = []
        for step in (1e-6, -1e-6):
            holder[name] = start + step * direction
            losses.append(reference(graph, parameters, adjacency, settings, batch))
        holder[name] = start
        expected = np.diff(losses[::-1])[0] / 2e-6
        assert dot(found, name, direction, holder is parameters.tables) == pytest.approx(
            expected, rel=1e-6, abs=2e-7
        )


def dot(found, name, direction, is_table):
    if not is_table:
        return np.sum(found.dense[name] * direction) if name in found.dense else 0.0
    total = 0.0
    for rows in found.rows:
        if rows.field == name:
            assert len(np.unique(rows.nodes)) == len(rows.nodes)
            width = rows.gradients.shape[1]
            total += np.sum(
                rows.gradients * direction[rows.nodes, rows.column : rows.column + width]
            )
    return total


@pytest.mark.slow
@pytest.mark.parametrize("aggregation", ["mean", "sum"])
def test_all_neighbours_are_what_sampling_all_of_them_gives(graph, aggregation):
    """With a fan-out above every degree, a batch's encodings are those of the whole graph."""
    encoder = {"aggregation": aggregation, "layers": 2, "fanouts": (64, 64), "own_dropout": 0.0}
    settings = PretrainSettings(dim=3, encoder=encoder, batch_size=12)
    adjacency = Adjacency.of(graph)
    model = PcfGnn(
        adjacency, {name: targets(each, settings) for name, each in graph.edges.items()}, settings
    )
    parameters = initial_parameters(graph, adjacency, settings, np.float64)
    everything = model.encodings(parameters)
    batch = batch_of(model, parameters, "tab__item")
    sampled, _ = model.encoder.forward(parameters, batch.block, batch.shown)
    for field, nodes in batch.block.nodes[0].items():
        np.testing.assert_allclose(sampled[field], everything[field][nodes], rtol=1e-11)


@pytest.mark.covers("audit-R06")
def test_edges_count_in_a_batch_by_their_weight(graph):
    """The paper's loss is weighted: a frequent pair counts more than one that was seen once."""
    model, _, _, settings = model_of(graph, "mean", 1, "dot")
    edges = targets(graph.edges["user__item"], settings)
    chosen = np.arange(10)
    batch = model._batch("user__item", chosen, [0], np.float64)
    wanted = edges.weight[chosen] / edges.weight[chosen].sum()
    np.testing.assert_allclose(batch.weight, wanted)
    assert batch.weight.max() > 1.5 * batch.weight.min()
