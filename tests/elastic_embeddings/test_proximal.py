"""The proximal step: optimality conditions, exact zero sets, and agreement of graph and kernel."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from optimizer_reference import proximal_point

from elastic_embeddings.core.native import compiled
from elastic_embeddings.optimizers.kernel import (
    CURVATURE_AT,
    LINEAR_AT,
    STATE_AT,
    divide,
    shrink_closed,
    shrink_exact,
    soft_threshold,
)
from elastic_embeddings.optimizers.proximal import DynamicL1, proximal_step

DIM = 4


@st.composite
def problems(draw, spread=4.0):
    """z, A, l1, c; curvatures spread over 10^±spread, and rows on both sides of the threshold."""
    z = np.array(
        draw(
            st.lists(
                st.floats(-3, 3).map(lambda number: round(number, 6)), min_size=DIM, max_size=DIM
            )
        )
    )
    exponents = draw(st.lists(st.floats(-spread, spread), min_size=DIM, max_size=DIM))
    return (
        z,
        10.0 ** np.array(exponents),
        draw(st.sampled_from([0.0, 0.3, 1.0])),
        draw(st.floats(1e-3, 4.0)),
    )


def in_graph(z, a, l1, c, *, exact):
    return proximal_step(
        tf.constant(z[None]), tf.constant(a[None]), tf.constant(l1, z.dtype), c, exact=exact
    ).numpy()[0]


@compiled
def _block_closed(b, count, dim, l1, c):
    soft_threshold(b, 0, count * dim, l1)
    for r in range(count):
        shrink_closed(b, r * dim, dim, dim, c)
    divide(b, count * dim)


@compiled
def _block_exact(b, count, dim, l1, c):
    soft_threshold(b, 0, count * dim, l1)
    for r in range(count):
        shrink_exact(b, r * dim, dim, dim, c)
    divide(b, count * dim)


def in_kernel(z, a, l1, c, *, exact):
    block = np.zeros(STATE_AT, np.float32)
    block[LINEAR_AT : LINEAR_AT + len(z)], block[CURVATURE_AT : CURVATURE_AT + len(z)] = z, a
    (_block_exact if exact else _block_closed)(block, 1, len(z), np.float32(l1), np.float32(c))
    return block[: len(z)]


def assert_optimal(x, problem):
    """0 ∈ z + A x + l1 ∂|x|₁ + c ∂‖x‖₂."""
    z, a, l1, c = problem
    if not x.any():
        assert np.linalg.norm(np.maximum(np.abs(z) - l1, 0)) <= c * (1 + 1e-9)
        return
    pull = z + a * x + c * x / np.linalg.norm(x)
    on = x != 0
    np.testing.assert_allclose((pull + l1 * np.sign(x))[on], 0, atol=1e-7)
    assert (np.abs(pull[~on]) <= l1 + 1e-9).all()


@given(problems())
@settings(max_examples=60, deadline=None)
def test_the_exact_step_meets_the_optimality_conditions(problem):
    assert_optimal(in_graph(*problem, exact=True), problem)


@given(problems(spread=0.0))
@settings(max_examples=30, deadline=None)
def test_the_closed_form_meets_them_where_curvatures_are_equal(problem):
    assert_optimal(in_graph(*problem, exact=False), problem)


def test_the_closed_form_does_not_meet_them_where_curvatures_differ():
    problem = (np.array([1.0, -1.0, 1.0, 1.0]), np.array([1.0, 10.0, 1.0, 1.0]), 0.0, 1.0)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_optimal(in_graph(*problem, exact=False), problem)


@pytest.mark.parametrize("exact", [True, False])
@given(problem=problems())
@settings(max_examples=40, deadline=None)
def test_the_zero_set_is_exact_either_way(exact, problem):
    z, _, l1, c = problem
    soft = np.maximum(np.abs(z) - l1, 0)
    x = in_graph(*problem, exact=exact)
    norm = np.linalg.norm(soft)
    if abs(norm - c) > 1e-9:
        assert (x != 0).any() == (norm > c)
    if norm > c + 1e-9:
        np.testing.assert_array_equal(x == 0, soft == 0)


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False])
@given(problem=problems(spread=3.0))
@settings(max_examples=60, deadline=None)
def test_the_kernel_equals_a_float64_bisection(exact, problem):
    z, a, l1, c = problem
    expected, margin = proximal_point(z, a, l1, c, exact=exact)
    if margin > 1e-3 * c:
        np.testing.assert_allclose(
            in_kernel(*problem, exact=exact),
            expected,
            rtol=2e-3,
            atol=1e-6 * np.abs(expected).max(),
        )


@pytest.mark.slow
@given(problems(spread=8.0))
@settings(max_examples=30, deadline=None)
def test_float32_stays_finite_with_curvatures_sixteen_decades_apart(problem):
    z, a, l1, c = problem
    for solve in (in_graph, in_kernel):
        x = solve(z.astype(np.float32), a.astype(np.float32), l1, c, exact=True)
        assert np.isfinite(x).all()
        assert (x * z <= 0).all()


def test_without_a_group_term_the_exact_step_is_soft_thresholding():
    z, a = np.array([0.5, -2.0, 0.1, 1.0]), np.array([1.0, 2.0, 3.0, 4.0])
    expected = [-0.2, 0.85, 0.0, -0.175]
    np.testing.assert_allclose(in_graph(z, a, 0.3, 0.0, exact=True), expected, rtol=1e-12)
    np.testing.assert_allclose(in_kernel(z, a, 0.3, 0.0, exact=True), expected, rtol=1e-6)


def test_zeros_have_no_sign():
    """Or the same table would save other bytes on other devices."""
    for exact in (True, False):
        x = in_kernel(np.array([0.1, -0.1, 0.0, 0.2]), np.ones(4), 0.0, 5.0, exact=exact)
        np.testing.assert_array_equal(x.view(np.uint32), 0)


@given(st.floats(0, 10), st.integers(1, 1000), st.integers(0, 2000), st.integers(0, 2000))
def test_the_l1_factor_falls_with_the_count_down_to_one(multiple, least, count, more):
    dynamic = DynamicL1(multiple, least)
    assert dynamic.factor(count) >= dynamic.factor(count + more) >= 1
    assert dynamic.factor(least + count) == 1
    assert dynamic.factor(0) == pytest.approx(1 + multiple)
