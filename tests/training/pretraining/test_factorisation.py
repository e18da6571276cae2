"""The factorisation by alternating least squares, against closed forms."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.pretraining.factorisation import Factors, WeightedEdges, factorise


def objective(edges, factors, l2):
    residual = edges.value - factors.predict(edges)
    return np.sum(edges.weight * residual**2) + l2 * (
        np.sum(factors.left**2) + np.sum(factors.right**2)
    )


def random_edges(seed, count=60, nodes=8):
    draw = np.random.default_rng(seed)
    pairs = draw.integers(nodes, size=(2, count))
    return WeightedEdges(pairs[0], pairs[1], draw.normal(size=count), draw.random(count) + 0.1)


def start(nodes=8, dim=2, seed=0):
    draw = np.random.default_rng(seed)
    return Factors(np.zeros((nodes, dim + 1)), draw.normal(size=(nodes, dim + 1)), 0.0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_the_objective_never_rises(seed):
    edges = random_edges(seed)
    values = [
        objective(edges, factorise(edges, start(seed=seed), 0.5, sweeps), 0.5)
        for sweeps in range(1, 6)
    ]
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(values))


def test_a_half_sweep_solves_each_node_exactly():
    """After the right side is solved, the objective has no slope in it."""
    edges = random_edges(3)
    factors = factorise(edges, start(), 0.5, 2)
    for node, column in [(0, 0), (3, 1), (5, 2)]:
        shift = np.zeros_like(factors.right)
        shift[node, column] = 1e-4
        up, down = (
            objective(edges, Factors(factors.left, factors.right + s * shift, factors.mean), 0.5)
            for s in (1, -1)
        )
        assert (up - down) / 2e-4 == pytest.approx(0, abs=1e-6)


def test_chunks_do_not_change_the_result(monkeypatch):
    edges = random_edges(4)
    whole = factorise(edges, start(), 0.5, 3)
    monkeypatch.setattr("training.pretraining.factorisation._CHUNK", 5)
    np.testing.assert_allclose(factorise(edges, start(), 0.5, 3).right, whole.right, rtol=1e-12)


def test_a_node_without_edges_is_zero():
    edges = WeightedEdges(np.array([0]), np.array([2]), np.array([1.5]), np.array([2.0]))
    factors = factorise(edges, start(nodes=3), 1.0, 3)
    assert factors.mean == 1.5
    np.testing.assert_array_equal(factors.left[1:], np.zeros((2, 3)))
    np.testing.assert_array_equal(factors.right[:2], np.zeros((2, 3)))


def test_node_biases_by_hand():
    """Two left nodes at ±1, one right node, biases only: b is 1 / (1 + l2) of the shift."""
    edges = WeightedEdges(np.array([0, 1]), np.array([0, 0]), np.array([1.0, -1.0]), np.ones(2))
    factors = factorise(edges, Factors(np.zeros((2, 1)), np.zeros((1, 1)), 0.0), 1.0, 5)
    np.testing.assert_allclose(factors.left[:, 0], [0.5, -0.5])
    np.testing.assert_allclose(factors.right[:, 0], [0.0], atol=1e-12)
