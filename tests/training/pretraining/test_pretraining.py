"""Pre-training on planted graphs: every kind of fit, new nodes, warm starts, the gate."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from graph_files import planted_edges, write_graph

from features import keys as feature_keys
from features.errors import InputError
from training.data.arrays import read_arrays
from training.models.encoding_inputs import PairTable, pair_keys, read_encodings
from training.pretraining.graph import Adjacency, read_graph
from training.pretraining.measures import evaluate, explained, predictions, rejection_reason
from training.pretraining.parameters import Parameters, starting_parameters
from training.pretraining.pcf_gnn import PcfGnn, encode, pcf_gnn
from training.pretraining.pretrain import PLOTS, pretrain
from training.pretraining.settings import PretrainSettings
from training.pretraining.task import FitResult, Task

NAME = "user__item"
SETTINGS = PretrainSettings(
    dim=4, epochs=60, patience=10, l2=0.1, batch_size=64, learning_rate=0.02
)


def keys(field, tokens):
    return feature_keys.keys(field, tf.constant(list(tokens))).numpy()


def pairs_of(edges):
    return np.stack([keys("user", edges["left"]), keys("item", edges["right"])], axis=1)


def settings(**changes):
    return PretrainSettings.model_validate(SETTINGS.model_dump() | changes)


@pytest.fixture(scope="module")
def edges():
    return planted_edges()


@pytest.fixture(scope="module")
def graph_folder(edges, tmp_path_factory):
    return write_graph(
        tmp_path_factory.mktemp("planted") / "graph", {NAME: edges}, "2026-01-01", "2026-01-03", 3
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "least"),
    [
        ({"kind": "factorisation", "epochs": 8}, 0.9),
        ({"encoder": {"layers": 0}}, 0.9),
        ({"encoder": {"layers": 1, "own_dropout": 0.0}}, 0.85),
        ({"encoder": {"layers": 1, "own_dropout": 0.0}, "cross_net": {"kind": "mlp"}}, 0.8),
    ],
    ids=["factorisation", "no layer", "one layer", "mlp"],
)
def test_the_interaction_is_found_and_beats_node_biases(
    graph_folder, edges, tmp_path, changes, least
):
    figures = pretrain(graph_folder, settings(**changes), tmp_path / "out")
    assert figures[f"{NAME}/r2"] > least
    assert 0.2 < figures[f"{NAME}/r2_node_bias"] < figures[f"{NAME}/r2"] - 0.2
    assert 0 < figures[f"{NAME}/heldout_edges"] < figures[f"{NAME}/edges"] == len(edges)
    assert (figures["relations_used"], figures["graph_last_day"], figures["graph_days"]) == (
        1,
        "2026-01-03",
        3,
    )
    encoding = read_encodings(tmp_path / "out" / "encodings.npz")[NAME]
    assert np.corrcoef(encoding.column(pairs_of(edges)), edges["logit"])[0, 1] > 0.95
    assert figures[f"{NAME}/bytes"] == encoding.nbytes


def test_metrics_and_plots_are_written(graph_folder, tmp_path):
    figures = pretrain(graph_folder, settings(epochs=3), tmp_path / "out")
    document = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert document["relations"][NAME]["r2"] == figures[f"{NAME}/r2"]
    assert document["graph"] == {
        "first_day": "2026-01-01",
        "last_day": "2026-01-03",
        "days": 3,
        "hours": 72,
    }
    assert [epoch["number"] for epoch in document["epochs"]] == [0, 1, 2, 3]
    assert document["epochs"][0]["loss"] is None
    assert {path.name for path in (tmp_path / "out" / PLOTS).iterdir()} == {
        f"{NAME}.png",
        "loss.png",
    }


def test_a_table_gives_the_statistic_back_and_the_mean_for_other_pairs(
    graph_folder, edges, tmp_path
):
    figures = pretrain(graph_folder, settings(kind="lookup"), tmp_path / "out")
    table = read_encodings(tmp_path / "out" / "encodings.npz")[NAME]
    assert isinstance(table, PairTable)
    np.testing.assert_array_equal(
        table.column(pairs_of(edges)), edges["logit"].to_numpy(np.float32)
    )
    mean = np.average(edges["logit"], weights=np.log1p(edges["impressions"]))
    assert table.column(np.array([[1, 2]]))[0] == pytest.approx(mean)
    assert figures[f"{NAME}/bytes"] == 12 * len(edges)
    assert abs(figures[f"{NAME}/r2"]) < 0.05, "held-out pairs are not in the table that is measured"


def test_node_biases_are_their_own_yardstick(graph_folder, tmp_path):
    figures = pretrain(graph_folder, settings(kind="node_bias", l2=1.0), tmp_path / "out")
    assert figures[f"{NAME}/r2"] <= figures[f"{NAME}/r2_node_bias"]
    assert figures["relations_used"] == 1
    assert read_encodings(tmp_path / "out" / "encodings.npz")[NAME].left.vectors.shape == (60, 0)


@pytest.mark.parametrize("kind", ["pcf_gnn", "factorisation"])
def test_the_same_graph_and_seed_give_the_same_bytes(graph_folder, tmp_path, kind):
    for name in ("a", "b"):
        pretrain(graph_folder, settings(kind=kind, epochs=3), tmp_path / name)
    for file in ("encodings.npz", "parameters.npz", "metrics.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    pretrain(graph_folder, settings(kind=kind, epochs=3, seed=18), tmp_path / "c")
    assert (tmp_path / "a" / "encodings.npz").read_bytes() != (
        tmp_path / "c" / "encodings.npz"
    ).read_bytes()


def test_a_statistic_without_pattern_fails_the_gate_and_is_left_out(graph_folder, tmp_path):
    """`pmi` is drawn at random here."""
    said = []
    figures = pretrain(
        graph_folder, settings(statistic="pmi", epochs=5), tmp_path / "out", log=said.append
    )
    assert figures["relations_used"] == 0
    assert "not above the node biases" in figures[f"{NAME}/refused"]
    assert read_encodings(tmp_path / "out" / "encodings.npz") == {}
    assert "NOT USED, the click model sees zeros" in said[0]
    assert (
        "not above"
        in json.loads((tmp_path / "out" / "metrics.json").read_text())["relations"][NAME]["refused"]
    )


def test_a_relation_that_fails_does_not_take_the_others_with_it(edges, tmp_path):
    swapped = edges.rename(columns={"left": "right", "right": "left"})
    noise = swapped.assign(logit=np.random.default_rng(1).normal(size=len(edges)))
    folder = write_graph(tmp_path / "graph", {NAME: edges, "tab__user": noise})
    figures = pretrain(folder, settings(encoder={"layers": 0}), tmp_path / "out")
    assert figures["relations_used"] == 1
    assert set(read_encodings(tmp_path / "out" / "encodings.npz")) == {NAME}


@pytest.mark.parametrize(
    ("kind", "r2", "bias", "refused"),
    [
        ("pcf_gnn", 0.5, 0.4, False),
        ("pcf_gnn", 0.4, 0.4, True),
        ("pcf_gnn", math.nan, 0.4, True),
        ("pcf_gnn", 0.5, math.nan, True),
        ("factorisation", 0.3, 0.4, True),
        ("lookup", -0.1, 0.4, False),
        ("lookup", math.nan, 0.4, True),
    ],
)
def test_the_gate(kind, r2, bias, refused):
    assert bool(rejection_reason(kind, r2, bias)) is refused


def test_explained_by_hand():
    one = np.ones(2)
    assert explained(np.array([1.0, -1.0]), np.array([0.5, -0.5]), one) == 0.75
    assert explained(
        np.array([1.0, -1.0]), np.array([1.0, 0.0]), np.array([3.0, 1.0])
    ) == pytest.approx(1 - 1 / 3)
    assert math.isnan(explained(one[:1], one[:1], one[:1]))
    assert math.isnan(explained(one[:0], one[:0], one[:0]))


def split(graph_folder, changes):
    task = Task.of(read_graph(graph_folder), settings(**changes), {})
    return task, pcf_gnn(task)


def test_it_stops_early_and_keeps_the_best_epoch(graph_folder):
    task, fitted = split(
        graph_folder, {"epochs": 200, "patience": 3, "l2": 0.0, "learning_rate": 0.05}
    )
    losses = [epoch.heldout_loss for epoch in fitted.curve]
    assert len(losses) < 150
    assert fitted.best_epoch == int(np.argmin(losses)) == len(losses) - 1 - 3
    heldout, predicted = task.heldout[NAME], fitted.encodings[NAME].column(task.heldout_pairs(NAME))
    spread = task.training_edges[NAME].spread()
    error = np.average((heldout.value - predicted) ** 2, weights=heldout.weight) / spread**2
    assert error == pytest.approx(min(losses), rel=1e-4)


def test_held_out_pairs_are_held_out_of_every_graph(graph_folder, edges, tmp_path):
    """A warm start takes over what has not seen them either."""
    later = write_graph(
        tmp_path / "later", {NAME: edges.iloc[200:].assign(left=edges["left"].iloc[200:])}
    )
    held = [
        set(map(tuple, Task.of(read_graph(f), SETTINGS, {}).heldout_pairs(NAME).tolist()))
        for f in (graph_folder, later)
    ]
    remaining = set(map(tuple, pairs_of(edges.iloc[200:]).tolist()))
    assert held[1] == held[0] & remaining
    assert len(held[1]) > 50


@pytest.mark.slow
def test_a_warm_start_is_ahead_and_goes_by_keys(graph_folder, edges, tmp_path):
    """New items shift the numbers of the nodes; the other rows are those of the earlier fit."""
    pretrain(graph_folder, settings(encoder={"layers": 0}), tmp_path / "before")
    fresh_items = (
        edges.head(40)
        .assign(right=[f"a{i % 5}" for i in range(40)])
        .drop_duplicates(["left", "right"])
    )
    later = write_graph(tmp_path / "later", {NAME: pd.concat([edges, fresh_items])})
    graph, changed = read_graph(later), settings(encoder={"layers": 0}, epochs=1)
    before = read_arrays(tmp_path / "before" / "parameters.npz")
    start = starting_parameters(graph, Adjacency.of(graph), changed, before)
    rows = dict(zip(before["keys/item"], before["table/item"], strict=True))
    taken_over = zip(graph.keys["item"], start.tables["item"], strict=True)
    assert sum(np.array_equal(rows.get(key, 0), row) for key, row in taken_over) == 50
    assert len(graph.keys["item"]) == 55
    cold_start = pretrain(later, changed, tmp_path / "cold_start")
    warm = pretrain(later, changed, tmp_path / "warm", tmp_path / "before")
    cold = pretrain(
        later,
        settings(encoder={"layers": 0}, epochs=1, warm_start=False),
        tmp_path / "cold",
        tmp_path / "before",
    )
    assert warm[f"{NAME}/r2"] > cold_start[f"{NAME}/r2"] + 0.3
    assert cold[f"{NAME}/r2"] == cold_start[f"{NAME}/r2"]


def test_a_new_node_is_encoded_from_its_neighbours(tmp_path):
    """Users of three kinds click alike. A user without a trained row is encoded by its items."""
    draw = np.random.default_rng(0)
    kinds, items = np.arange(200) % 3, np.arange(60) % 3
    pairs = np.unique(draw.integers([200, 60], size=(8000, 2)), axis=0)
    likes = kinds[pairs[:, 0]] == items[pairs[:, 1]]
    seen = likes | (draw.random(len(pairs)) < 0.3)  # most edges join nodes of one kind
    frame = pd.DataFrame({
        "left": [f"u{i}" for i in pairs[:, 0]], "right": [f"i{i}" for i in pairs[:, 1]],
        "impressions": 20, "clicks": 5,
        "ctr": 0.2, "logit": np.where(likes, 1.0, -1.0) + 0.1 * draw.normal(size=len(pairs)),
        "pmi": 0.0, "log_count": 3.0,
    })[seen]  # fmt: skip
    newcomers = {f"u{i}" for i in range(20)}
    new = frame["left"].isin(newcomers)
    known, everyone = (
        write_graph(tmp_path / n, {NAME: f}) for n, f in (("known", frame[~new]), ("all", frame))
    )
    chosen = settings(
        encoder={"layers": 1, "own_dropout": 0.5, "fanouts": [10]}, heldout_fraction=0.1
    )
    learned = pcf_gnn(Task.of(read_graph(known), chosen, {}))
    graph = read_graph(everyone)
    adjacency = Adjacency.of(graph)
    model = PcfGnn(adjacency, Task.of(graph, chosen, {}).training_edges, chosen)
    arrays = learned.arrays
    parameters = Parameters(
        chosen.dim,
        {f: arrays[f"keys/{f}"] for f in ("user", "item")},
        {f: arrays[f"table/{f}"] for f in ("user", "item")},
        {name.removeprefix("dense/"): w for name, w in arrays.items() if name.startswith("dense/")},
    ).aligned(graph, adjacency)
    places = np.isin(graph.keys["user"], keys("user", newcomers))
    assert not parameters.tables["user"][places].any()
    predicted = encode(model, parameters, graph, chosen)[NAME].column(pairs_of(frame[new]))
    assert np.corrcoef(predicted, frame["logit"][new])[0, 1] > 0.6
    nobody = learned.encodings[NAME].column(pairs_of(frame[new]))
    assert abs(np.corrcoef(nobody, frame["logit"][new])[0, 1]) < 0.35, (
        "without its neighbours a new user is unknown"
    )


def test_a_node_whose_edges_are_all_held_out_keeps_nothing_of_the_start(graph_folder):
    task, fitted = split(graph_folder, {"epochs": 1, "heldout_fraction": 0.97})
    learned = task.training_edges[NAME]
    untrained = np.setdiff1d(np.arange(60), learned.left)
    assert len(untrained)
    assert not fitted.arrays["table/user"][untrained].any()


def test_half_precision_halves_the_vectors_and_keeps_the_values(graph_folder, edges, tmp_path):
    for storage in ("float32", "float16"):
        pretrain(graph_folder, settings(epochs=5, storage=storage), tmp_path / storage)
    full, half = (
        read_encodings(tmp_path / storage / "encodings.npz")[NAME]
        for storage in ("float32", "float16")
    )
    assert half.left.vectors.dtype == np.float16
    assert 2 * half.left.vectors.nbytes == full.left.vectors.nbytes
    np.testing.assert_allclose(
        half.column(pairs_of(edges)), full.column(pairs_of(edges)), atol=0.02
    )


def test_no_edges_give_empty_encodings(edges, tmp_path):
    figures = pretrain(
        write_graph(tmp_path / "graph", {NAME: edges.head(0)}, days=0), SETTINGS, tmp_path / "out"
    )
    assert (
        figures["edges"],
        figures["relations_used"],
        figures["graph_days"],
        figures["graph_last_day"],
    ) == (0, 0, 0, None)
    assert figures[f"{NAME}/refused"] == "no edges"
    assert read_encodings(tmp_path / "out" / "encodings.npz") == {}


@pytest.mark.parametrize("kind", ["pcf_gnn", "factorisation", "node_bias", "lookup"])
def test_a_single_edge_has_no_figure_and_is_refused(edges, tmp_path, kind):
    folder = write_graph(tmp_path / "graph", {NAME: edges.head(1)})
    figures = pretrain(folder, settings(kind=kind, epochs=2), tmp_path / "out")
    assert math.isnan(figures[f"{NAME}/r2"])
    assert figures[f"{NAME}/refused"]
    assert figures["relations_used"] == 0


def test_encodings_that_are_not_finite_are_refused(graph_folder):
    task, fitted = split(graph_folder, {"epochs": 2})
    predicted = predictions(task, fitted)
    assert not evaluate(task, predicted, fitted)[NAME].refused.startswith("not finite")
    nodes = fitted.encodings[NAME].left
    for part in ("vectors", "biases"):
        array = getattr(nodes, part).copy()
        array[3] = np.inf
        broken = replace(fitted.encodings[NAME], left=replace(nodes, **{part: array}))
        assert (
            evaluate(task, predicted, FitResult({NAME: broken}))[NAME].refused
            == "not finite: lower pretraining.learning_rate"
        )


def test_pair_keys_are_the_same_in_numpy_and_in_tensorflow():
    left, right = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, (2, 1000))
    here, there = pair_keys(left, right), pair_keys(tf.constant(left), tf.constant(right)).numpy()
    np.testing.assert_array_equal(here, there)
    assert len(np.unique(here)) == 1000
    exact = [
        (int(a) * -7046029254386353131 + int(b) + 2**63) % 2**64 - 2**63
        for a, b in zip(left, right, strict=True)
    ]
    assert here.tolist() == exact


def test_a_missing_graph_is_named(tmp_path):
    with pytest.raises(InputError, match=r"graph\.json.*run `elastic-ctr cross-graph`"):
        pretrain(tmp_path, SETTINGS, tmp_path / "out")
