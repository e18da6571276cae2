"""Corrections: the pairs that a prediction misses most keep their own statistic."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from graph_files import planted_edges, write_graph

from features import keys as feature_keys
from training.models.encoding_inputs import read_encodings
from training.pretraining.pretrain import pretrain
from training.pretraining.settings import PretrainSettings

NAME = "user__item"


@pytest.fixture(scope="module")
def edges():
    return planted_edges()


@pytest.fixture(scope="module")
def graph_folder(edges, tmp_path_factory):
    return write_graph(
        tmp_path_factory.mktemp("planted") / "graph", {NAME: edges}, "2026-01-01", "2026-01-03", 3
    )


def learned(graph_folder, out, **changes):
    """A prediction that misses much: two numbers a node, a strong ridge."""
    given = {"kind": "factorisation", "dim": 2, "epochs": 3, "l2": 20.0} | changes
    figures = pretrain(graph_folder, PretrainSettings.model_validate(given), out)
    return read_encodings(out / "encodings.npz")[NAME], figures


def pairs_of(edges):
    sides = (
        feature_keys.keys(field, tf.constant(list(edges[side]))).numpy()
        for field, side in (("user", "left"), ("item", "right"))
    )
    return np.stack(list(sides), axis=1)


def test_the_heaviest_misses_are_corrected_and_no_other_pair_moves(graph_folder, edges, tmp_path):
    plain, figures = learned(graph_folder, tmp_path / "plain")
    encoding, judged = learned(graph_folder, tmp_path / "out", corrections=0.2)
    pairs, statistic = pairs_of(edges), edges["logit"].to_numpy()
    loss = np.log1p(edges["impressions"].to_numpy()) * (statistic - plain.column(pairs)) ** 2
    kept = int(0.2 * len(edges))
    worst = np.argsort(-loss)[:kept]
    assert encoding.corrections.rows == kept > 10
    np.testing.assert_allclose(encoding.column(pairs)[worst], statistic[worst], atol=1e-6)
    others = np.setdiff1d(np.arange(len(edges)), worst)
    np.testing.assert_array_equal(encoding.column(pairs)[others], plain.column(pairs)[others])
    assert judged[f"{NAME}/bytes"] == figures[f"{NAME}/bytes"] + 12 * kept
    assert judged[f"{NAME}/rows"] == figures[f"{NAME}/rows"] + kept


def test_what_is_held_out_is_judged_without_them(graph_folder, tmp_path):
    (_, plain), (_, corrected) = (
        learned(graph_folder, tmp_path / str(share), corrections=share) for share in (0.0, 1.0)
    )
    assert corrected[f"{NAME}/r2"] == plain[f"{NAME}/r2"] < 0.99


@pytest.mark.slow
@pytest.mark.parametrize("refit", [True, False])
def test_pcf_gnn_with_all_pairs_corrected_is_the_table(graph_folder, edges, tmp_path, refit):
    gnn = {
        "kind": "pcf_gnn",
        "dim": 4,
        "epochs": 30,
        "l2": 0.1,
        "batch_size": 64,
        "learning_rate": 0.02,
        "refit": refit,
    }
    encoding, _ = learned(graph_folder, tmp_path, corrections=1.0, storage="float16", **gnn)
    assert (encoding.corrections.rows, encoding.corrections.values.dtype) == (
        len(edges),
        np.float16,
    )
    np.testing.assert_allclose(encoding.column(pairs_of(edges)), edges["logit"], atol=4e-3)


def test_a_table_has_nothing_to_correct(graph_folder, tmp_path):
    (plain, _), (table, _) = (
        learned(graph_folder, tmp_path / str(s), kind="lookup", corrections=s) for s in (0.0, 0.5)
    )
    assert [a.tobytes() for a in (table.keys, table.values)] == [
        a.tobytes() for a in (plain.keys, plain.values)
    ]


def test_more_corrections_leave_less_loss(graph_folder, edges, tmp_path):
    pairs, weight = pairs_of(edges), np.log1p(edges["impressions"])
    losses = []
    for share in (0.0, 0.1, 0.5, 1.0):
        encoding, _ = learned(graph_folder, tmp_path / str(share), corrections=share)
        losses.append(np.sum(weight * (edges["logit"] - encoding.column(pairs)) ** 2))
    assert all(more < less for less, more in itertools.pairwise(losses))


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_between_0_and_1(share):
    with pytest.raises(ValueError, match="corrections"):
        PretrainSettings(corrections=share)
