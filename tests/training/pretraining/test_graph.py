"""Reading the `cross_graph` artifact, and the lists and samples that are made of it."""

import json

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from graph_files import planted_edges, write_graph

from features import keys as feature_keys
from features.errors import InputError
from training.pretraining.graph import Adjacency, Sampler, read_graph
from training.pretraining.settings import EncoderSettings, PretrainSettings, WeightSettings
from training.pretraining.task import edge_weights, held_out

EDGES = pd.DataFrame({
    "left": ["ä", "b", "b", "a"], "right": ["x", "x", "y", "y"],
    "impressions": [4, 5, 6, 7], "clicks": 1, "ctr": 0.25,
    "logit": [0.1, 0.2, 0.3, 0.4], "pmi": [1.0, 2.0, 3.0, 4.0], "log_count": 1.5,
})  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return write_graph(tmp_path / "graph", {"user__item": EDGES}, "2026-01-01", "2026-01-02", 2)


def test_nodes_edges_and_days(folder):
    graph = read_graph(folder)
    assert (
        graph.keys["user"].tolist()
        == feature_keys.keys("user", tf.constant(["a", "b", "ä"])).numpy().tolist()
    )
    edges = graph.edges["user__item"]
    assert list(zip(edges.left.tolist(), edges.right.tolist(), strict=True)) == [
        (0, 1),
        (1, 0),
        (1, 1),
        (2, 0),
    ]
    assert edges.statistics["logit"].tolist() == [0.4, 0.2, 0.3, 0.1]
    assert edges.impressions.tolist() == [7, 5, 6, 4]
    assert (str(graph.first_day), str(graph.last_day), graph.days) == (
        "2026-01-01",
        "2026-01-02",
        2,
    )


def rewritten(path, **columns):
    pd.read_parquet(path).assign(**columns).to_parquet(path)


def spoil(folder, name):
    nodes, part = (
        folder / "nodes.parquet",
        folder / "edges" / "relation=user__item" / "part-00001.parquet",
    )
    {
        "no nodes": nodes.unlink,
        "a cut file": lambda: part.write_bytes(part.read_bytes()[:50]),
        "a column less": lambda: pd.read_parquet(part).drop(columns="pmi").to_parquet(part),
        "another type": lambda: rewritten(part, left=["a", "b"]),
        "an unknown node": lambda: rewritten(part, right=np.int32(9)),
        "unsorted": lambda: rewritten(part, left=np.int32(0)),
        "not finite": lambda: rewritten(part, logit=np.inf),
        "nodes misnumbered": lambda: rewritten(nodes, node=np.int32(0)),
        "no JSON": lambda: (folder / "graph.json").write_text("{"),
        "no days": lambda: (folder / "graph.json").write_text(json.dumps({"relations": {}})),
    }[name]()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no nodes", r"nodes\.parquet"),
        ("a cut file", r"part-00001\.parquet"),
        ("a column less", r"part-00001\.parquet.*pmi"),
        ("another type", "relation=user__item"),
        ("an unknown node", "right node is not among the 2 nodes of item"),
        ("unsorted", "not sorted"),
        ("not finite", "logit holds values that are not finite"),
        ("nodes misnumbered", "numbered from 0"),
        ("no JSON", r"graph\.json"),
        ("no days", r"graph\.json.*first_day"),
    ],
)
def test_a_bad_graph_is_refused_by_name(folder, name, words):
    spoil(folder, name)
    with pytest.raises(InputError, match=words) as caught:
        read_graph(folder)
    assert "run `elastic-ctr cross-graph` again" in str(caught.value)


def test_both_sides_have_their_neighbours(folder):
    graph = read_graph(folder)
    left, right = (Adjacency.of(graph).slots[field][0] for field in ("user", "item"))
    assert (left.offsets.tolist(), left.ends.tolist()) == ([0, 1, 3, 4], [1, 0, 1, 0])
    assert (right.offsets.tolist(), right.ends.tolist()) == ([0, 2, 4], [1, 2, 0, 1])
    chosen = Adjacency.of(graph, {"user__item": np.array([True, False, True, False])})
    assert chosen.slots["user"][0].ends.tolist() == [1, 1]
    assert chosen.slots["user"][0].offsets.tolist() == [0, 1, 2, 2]
    assert chosen.slots["item"][0].ends.tolist() == [0, 1]


@pytest.fixture(scope="module")
def adjacency(tmp_path_factory):
    edges = {
        "user__item": planted_edges(40, 15, 400),
        "item__tab": planted_edges(15, 30, 200, seed=1),
    }
    edges["item__tab"]["left"] = edges["item__tab"]["left"].str.replace("u", "i")
    return Adjacency.of(read_graph(write_graph(tmp_path_factory.mktemp("graph"), edges)))


def drawn_nodes(block, level, slot, field):
    """Return a function that gives, for each target, the nodes of a field that a slot drew."""
    drawn = block.drawn[level][field][slot]
    below, rows = block.nodes[level + 1], list(zip(drawn.numbers, drawn.counts, strict=True))
    return lambda other: [below[other][row[:count]].tolist() for row, count in rows]


def test_a_block_holds_neighbours_each_once_all_where_there_are_few(adjacency):
    left, right = np.array([3, 3, 7], np.int32), np.array([1, 2, 1], np.int32)
    block = Sampler(adjacency, (5, 2)).block(("user", "item"), left, right, 9)
    np.testing.assert_array_equal(block.nodes[0]["user"][block.left], left)
    np.testing.assert_array_equal(block.nodes[0]["item"][block.right], right)
    for level, fanout in enumerate((5, 2)):
        for field, targets in block.nodes[level].items():
            below = block.nodes[level + 1][field]
            np.testing.assert_array_equal(below[: len(targets)], targets)
            assert len(np.unique(below)) == len(below)
            for place, slot in enumerate(adjacency.slots[field]):
                nodes = drawn_nodes(block, level, place, field)
                for target, found in zip(targets, nodes(slot.other), strict=True):
                    everyone = slot.ends[slot.offsets[target] : slot.offsets[target + 1]].tolist()
                    assert len(found) == len(set(found)) == min(fanout, len(everyone))
                    assert set(found) <= set(everyone)


def test_a_seed_draws_the_same_and_another_one_otherwise(adjacency):
    sampler, nodes = Sampler(adjacency, (4,)), np.arange(15, dtype=np.int32)
    blocks = [sampler.block(("user", "item"), nodes, nodes, seed) for seed in (1, 1, 2)]
    numbers = [block.drawn[0]["item"][0].numbers for block in blocks]
    np.testing.assert_array_equal(numbers[0], numbers[1])
    assert not np.array_equal(numbers[0], numbers[2])


def test_neighbours_are_drawn_evenly(adjacency):
    """3,000 draws of 4 of n: each neighbour 12,000 / n times, within six standard deviations."""
    slot, sampler, times = adjacency.slots["item"][0], Sampler(adjacency, (4,)), {}
    target = np.array([2], np.int32)
    for seed in range(3000):
        block = sampler.block(("item", "tab"), target, target, seed)
        nodes = drawn_nodes(
            block, 0, [s.other for s in adjacency.slots["item"]].index(slot.other), "item"
        )
        for node in nodes(slot.other)[0]:
            times[node] = times.get(node, 0) + 1
    degree = slot.offsets[3] - slot.offsets[2]
    share = 4 / degree
    assert len(times) == degree > 8
    assert np.abs(np.array(list(times.values())) - 3000 * share).max() < 6 * np.sqrt(
        3000 * share * (1 - share)
    )


def test_weights_by_hand():
    n = np.array([0, 1, 20])
    np.testing.assert_allclose(edge_weights(n, WeightSettings()), [0, np.log(2), np.log(21)])
    np.testing.assert_allclose(
        edge_weights(n, WeightSettings(kind="saturating", kappa=20)), [0, 1 / 21, 0.5]
    )


def test_about_the_share_asked_for_is_held_out(tmp_path):
    graph = read_graph(write_graph(tmp_path / "g", {"user__item": planted_edges(200, 200, 20_000)}))
    for seed in (1, 2):
        share = held_out(
            graph, "user__item", PretrainSettings(heldout_fraction=0.2, seed=seed)
        ).mean()
        assert share == pytest.approx(0.2, abs=0.02)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="fanouts has 1 numbers for 2 layers"):
        EncoderSettings(layers=2)
    with pytest.raises(ValueError, match="l2 of 0"):
        PretrainSettings(kind="node_bias", l2=0)
    assert "every_days" not in PretrainSettings(every_days=3).model_dump()
