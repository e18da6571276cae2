"""The factorisation against closed forms, and pretraining on planted graphs."""

import json
import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from training_data import read_json

from features import keys as feature_keys
from features.errors import InputError
from training.models.cross_input import read_encodings
from training.pretraining.factorisation import Edges, Factors, explained, factorise
from training.pretraining.pcf_gnn import pretrain
from training.settings import PretrainSettings

SETTINGS = PretrainSettings(dim=3, epochs=8, l2=0.1)


def objective(edges, factors, l2):
    residual = edges.value - factors.predict(edges)
    return np.sum(edges.weight * residual**2) + l2 * (np.sum(factors.left**2) + np.sum(factors.right**2))


def random_edges(seed, count=60, nodes=8):
    draw = np.random.default_rng(seed)
    pairs = draw.integers(nodes, size=(2, count))
    return Edges(pairs[0], pairs[1], draw.normal(size=count), draw.random(count) + 0.1)


def start(nodes=8, dim=2, seed=0):
    draw = np.random.default_rng(seed)
    return Factors(np.zeros((nodes, dim + 1)), draw.normal(size=(nodes, dim + 1)), 0.0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_the_objective_never_rises(seed):
    edges = random_edges(seed)
    values = [objective(edges, factorise(edges, start(seed=seed), 0.5, sweeps), 0.5) for sweeps in range(1, 6)]
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(values))


def test_a_half_sweep_solves_each_node_exactly():
    """After the right side is solved, the objective has no slope in it."""
    edges = random_edges(3)
    factors = factorise(edges, start(), 0.5, 2)
    for node, column in [(0, 0), (3, 1), (5, 2)]:
        shift = np.zeros_like(factors.right)
        shift[node, column] = 1e-4
        up, down = (objective(edges, Factors(factors.left, factors.right + s * shift, factors.mean), 0.5) for s in (1, -1))
        assert (up - down) / 2e-4 == pytest.approx(0, abs=1e-6)


def test_chunks_do_not_change_the_result(monkeypatch):
    edges = random_edges(4)
    whole = factorise(edges, start(), 0.5, 3)
    monkeypatch.setattr("training.pretraining.factorisation._CHUNK", 5)
    np.testing.assert_allclose(factorise(edges, start(), 0.5, 3).right, whole.right, rtol=1e-12)


def test_a_node_without_edges_is_zero():
    edges = Edges(np.array([0]), np.array([2]), np.array([1.5]), np.array([2.0]))
    factors = factorise(edges, start(nodes=3), 1.0, 3)
    assert factors.mean == 1.5
    np.testing.assert_array_equal(factors.left[1:], np.zeros((2, 3)))
    np.testing.assert_array_equal(factors.right[:2], np.zeros((2, 3)))


def test_node_biases_by_hand():
    """Two left nodes at ±1, one right node, biases only: b = 1 / (1 + l2) of the shift, the right node symmetric at 0."""
    edges = Edges(np.array([0, 1]), np.array([0, 0]), np.array([1.0, -1.0]), np.ones(2))
    factors = factorise(edges, Factors(np.zeros((2, 1)), np.zeros((1, 1)), 0.0), 1.0, 5)
    np.testing.assert_allclose(factors.left[:, 0], [0.5, -0.5])
    np.testing.assert_allclose(factors.right[:, 0], [0.0], atol=1e-12)


def test_explained_by_hand():
    edges = Edges(np.array([0, 1]), np.array([0, 0]), np.array([1.0, -1.0]), np.ones(2))
    half = Factors(np.array([[0.5], [-0.5]]), np.zeros((1, 1)), 0.0)
    assert explained(edges, half) == 0.75
    assert math.isnan(explained(Edges(np.array([0]), np.array([0]), np.ones(1), np.ones(1)), half))


def planted_graph(path, users=60, items=50, seed=0):
    """Edges whose logits are node biases plus a rank-2 interaction plus noise."""
    draw = np.random.default_rng(seed)
    pairs = np.unique(draw.integers([users, items], size=(2500, 2)), axis=0)
    u, v, b, c = (draw.normal(size=shape) for shape in [(users, 2), (items, 2), users, items])
    logit = (
        -1
        + b[pairs[:, 0]]
        + c[pairs[:, 1]]
        + np.sum(u[pairs[:, 0]] * v[pairs[:, 1]], axis=1)
        + draw.normal(size=len(pairs)) * 0.1
    )
    frame = pd.DataFrame({
        "relation": "user__item", "left": [f"u{i}" for i in pairs[:, 0]], "right": [f"i{i}" for i in pairs[:, 1]],
        "impressions": draw.integers(3, 50, len(pairs)), "clicks": 1, "logit": logit,
    })  # fmt: skip
    write_graph(path, frame)
    return frame


def write_graph(folder, frame):
    """Write edges by token as a `cross_graph` folder."""
    folder.mkdir()
    relations, nodes = {}, []
    for name, part in frame.groupby("relation"):
        ends = dict(zip(("left", "right"), ("user", "item"), strict=True))
        coded = {side: pd.factorize(part[side], sort=True) for side in ends}
        nodes += [pd.DataFrame({"field": field, "token": coded[side][1]}) for side, field in ends.items()]
        place = folder / "edges" / f"relation={name}"
        place.mkdir(parents=True)
        numbered = part.assign(**{side: codes.astype("int32") for side, (codes, _) in coded.items()})
        numbered.drop(columns="relation").to_parquet(place / "part-00000.parquet", index=False)
        relations[name] = ends
    pd.concat(nodes or [pd.DataFrame({"field": [], "token": []})]).to_parquet(folder / "nodes.parquet")
    (folder / "graph.json").write_text(json.dumps({"relations": relations}))


def keys(field, tokens):
    return feature_keys.keys(field, tf.constant(tokens)).numpy()


def test_the_interaction_is_found_and_beats_node_biases(tmp_path):
    planted_graph(tmp_path / "graph")
    figures = pretrain(tmp_path / "graph", SETTINGS, tmp_path / "out")
    assert figures["user__item/r2"] > 0.9
    assert 0.2 < figures["user__item/r2_node_bias"] < figures["user__item/r2"] - 0.2
    assert 0 < figures["user__item/heldout_edges"] < figures["user__item/edges"]
    assert read_json(tmp_path / "out" / "metrics.json")["user__item"]["r2"] == figures["user__item/r2"]


def test_the_encodings_give_the_logits_back_by_key(tmp_path):
    frame = planted_graph(tmp_path / "graph")
    pretrain(tmp_path / "graph", SETTINGS, tmp_path / "out")
    encoding = read_encodings(tmp_path / "out" / "encodings.npz")["user__item"]
    left = encoding.left.table()[encoding.left.positions(keys("user", frame["left"].tolist()))]
    right = encoding.right.table()[encoding.right.positions(keys("item", frame["right"].tolist()))]
    p = encoding.mean + left[:, -1] + right[:, -1] + np.sum(left[:, :-1] * right[:, :-1], axis=1)
    assert np.corrcoef(p, frame["logit"])[0, 1] > 0.98


def test_the_order_of_the_edges_does_not_matter_to_a_byte(tmp_path):
    frame = planted_graph(tmp_path / "graph")
    write_graph(tmp_path / "shuffled", frame.sample(frac=1, random_state=1))
    for name in ("graph", "shuffled"):
        pretrain(tmp_path / name, SETTINGS, tmp_path / f"of_{name}")
    assert (tmp_path / "of_graph" / "encodings.npz").read_bytes() == (tmp_path / "of_shuffled" / "encodings.npz").read_bytes()


def test_starting_from_the_encodings_before_is_ahead_of_starting_anew(tmp_path):
    planted_graph(tmp_path / "graph")
    pretrain(tmp_path / "graph", SETTINGS, tmp_path / "before")
    short = SETTINGS.model_copy(update={"epochs": 1, "seed": 5})
    anew = pretrain(tmp_path / "graph", short, tmp_path / "anew")
    warm = pretrain(tmp_path / "graph", short, tmp_path / "warm", previous=tmp_path / "before")
    assert warm["user__item/r2"] > anew["user__item/r2"]


def test_no_edges_give_empty_encodings(tmp_path):
    write_graph(tmp_path / "empty", planted_graph(tmp_path / "graph").head(0))
    assert pretrain(tmp_path / "empty", SETTINGS, tmp_path / "out") == {}
    assert read_encodings(tmp_path / "out" / "encodings.npz") == {}
    assert read_json(tmp_path / "out" / "metrics.json") == {}


def test_a_single_edge_has_undefined_figures_and_a_finite_encoding(tmp_path):
    write_graph(tmp_path / "one", planted_graph(tmp_path / "graph").head(1))
    figures = pretrain(tmp_path / "one", SETTINGS, tmp_path / "out")
    assert (figures["user__item/edges"], figures["user__item/heldout_edges"]) == (1, 0)
    assert math.isnan(figures["user__item/r2"])
    assert read_json(tmp_path / "out" / "metrics.json")["user__item"]["r2"] is None
    assert np.isfinite(read_encodings(tmp_path / "out" / "encodings.npz")["user__item"].left.vectors).all()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"graph\.json"):
        pretrain(tmp_path / "graph", SETTINGS, tmp_path / "out")


def test_a_relation_that_cannot_be_taken_apart_is_refused(tmp_path):
    write_graph(tmp_path / "odd", planted_graph(tmp_path / "graph").assign(relation="user__id__item"))
    with pytest.raises(InputError, match="user__id__item"):
        pretrain(tmp_path / "odd", SETTINGS, tmp_path / "out")
