"""The update rule against float64 references, Keras' Adam, and the conditions of its zeros."""

import numpy as np
import pytest
import tensorflow as tf
from group_adam_reference import LazyAdamRow, ReferenceRow
from hypothesis import given, settings
from hypothesis import strategies as st

from elastic_embeddings import GroupAdam
from features.errors import InputError

STRENGTHS = {
    "none": {},
    "l1": {"l1": 0.02},
    "l2": {"l2": 0.5},
    "l21": {"l21": 0.03},
    "all": {"l1": 0.01, "l2": 0.2, "l21": 0.02},
}


def new_state(weights, optimizer):
    return tf.constant(weights), {
        name: tf.zeros_like(tf.constant(weights)) for name in optimizer.slot_names
    }


def update(optimizer, weights, slots, gradients, step):
    return optimizer.update(
        weights, slots, tf.constant(gradients, weights.dtype), tf.constant(step, tf.int64)
    )


@pytest.mark.parametrize("strengths", STRENGTHS.values(), ids=STRENGTHS.keys())
def test_equals_the_float64_reference_over_hundreds_of_lazy_steps(strengths):
    rng = np.random.default_rng(1)
    optimizer = GroupAdam(learning_rate=0.01, **strengths)
    start = rng.uniform(-0.5, 0.5, (12, 4))
    reference = [ReferenceRow(row) for row in start]
    weights, slots = new_state(start, optimizer)
    update_rows = tf.function(optimizer.update)
    for t in range(1, 301):
        rows = np.flatnonzero(rng.random(12) < np.linspace(0.02, 1, 12))
        g = rng.normal(0, 0.1, (len(rows), 4)) * (rng.random((len(rows), 4)) < 0.8)
        picked = {name: tf.gather(slot, rows) for name, slot in slots.items()}
        new, state = update_rows(
            tf.gather(weights, rows), picked, tf.constant(g), tf.constant(t, tf.int64)
        )
        weights = tf.tensor_scatter_nd_update(weights, rows[:, None], new)
        slots = {
            name: tf.tensor_scatter_nd_update(slots[name], rows[:, None], state[name])
            for name in slots
        }
        for row, gradient in zip(rows, g, strict=True):
            reference[row].learn(gradient, t, 0.01, **strengths)
    np.testing.assert_allclose(weights, [row.x for row in reference], rtol=1e-9, atol=1e-12)
    for name in optimizer.slot_names:
        np.testing.assert_allclose(
            slots[name], [getattr(row, name) for row in reference], rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("strengths", [STRENGTHS["l1"], STRENGTHS["l21"], STRENGTHS["all"]])
def test_float32_zero_sets_are_the_references(strengths):
    rng = np.random.default_rng(2)
    optimizer = GroupAdam(learning_rate=0.01, **strengths)
    start = rng.uniform(-0.05, 0.05, (200, 4)).astype(np.float32)
    reference = [ReferenceRow(row) for row in start]
    weights, slots = new_state(start, optimizer)
    zeros = 0
    for t in range(1, 21):
        g = rng.normal(0, 0.02, (200, 4)).astype(np.float32)
        weights, slots = update(optimizer, weights, slots, g, t)
        for row, gradient in zip(reference, g, strict=True):
            row.learn(gradient.astype(np.float64), t, 0.01, **strengths)
        clear = np.array([row.margin > 1e-5 for row in reference])
        expected = np.array([(row.x == 0) for row in reference])
        close_to_l1 = np.array([np.abs(np.abs(row.z) - optimizer.l1) < 1e-5 for row in reference])
        agree = (weights.numpy() == 0) == expected
        assert (agree | close_to_l1 | ~clear[:, None]).all()
        zeros += int(expected.sum())
        assert clear.mean() > 0.95
    assert zeros > 0


def test_without_strengths_it_is_adam_to_float64_precision():
    rng = np.random.default_rng(3)
    optimizer = GroupAdam(learning_rate=0.01)
    adam = LazyAdamRow(rng.uniform(-1, 1, 8))
    weights, slots = new_state(adam.x[None], optimizer)
    for t in range(1, 301):
        g = rng.normal(size=8)
        adam.learn(g, t, 0.01)
        weights, slots = update(optimizer, weights, slots, g[None], t)
    np.testing.assert_allclose(weights[0], adam.x, rtol=0, atol=1e-12)


def test_without_strengths_float32_equals_keras_adam_on_rows_touched_each_step():
    rng = np.random.default_rng(4)
    optimizer = GroupAdam(learning_rate=1e-3)
    start = rng.uniform(-0.1, 0.1, (5, 8)).astype(np.float32)
    dense = tf.Variable(start)
    keras = tf.keras.optimizers.Adam(1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-8)
    weights, slots = new_state(start, optimizer)
    for t in range(1, 201):
        g = rng.normal(size=(5, 8)).astype(np.float32)
        keras.apply_gradients([(tf.constant(g), dense)])
        weights, slots = update(optimizer, weights, slots, g, t)
    np.testing.assert_allclose(weights, dense, rtol=0, atol=1e-6)


@pytest.mark.parametrize("first_step", [1, 2, 1000])
def test_a_row_first_touched_late_keeps_its_initial_vector_and_follows_lazy_adam(first_step):
    optimizer = GroupAdam(learning_rate=0.01)
    start = np.array([[0.3, -0.2, 0.1]])
    adam = LazyAdamRow(start[0])
    weights, slots = new_state(start, optimizer)
    for t, g in enumerate(
        np.array([[1e-9, 0.0, 1.0], [0.0, 0.0, -1.0], [0.5, 0.0, 2.0]]), start=first_step
    ):
        adam.learn(g, t, 0.01)
        weights, slots = update(optimizer, weights, slots, g[None], t)
        np.testing.assert_allclose(weights[0], adam.x, rtol=1e-9)
    np.testing.assert_allclose(weights[0, 1], -0.2, rtol=1e-12)


def test_a_float32_row_whose_gradient_is_zero_keeps_its_initial_vector():
    optimizer = GroupAdam(learning_rate=0.001)
    start = np.array([[0.007, -0.003]], np.float32)
    weights, slots = new_state(start, optimizer)
    for t in range(5, 55):
        weights, slots = update(optimizer, weights, slots, [[0.0, 0.0]], t)
    np.testing.assert_allclose(weights, start, rtol=1e-5)


def test_one_step_by_hand():
    """g = 1, t = 1, β = 0: a = m = v = 1; z = 1 - 2 · 0.25; s = -0.5; x = s / (1/lr + 2 l2)."""
    optimizer = GroupAdam(learning_rate=0.5, beta_1=0.0, beta_2=0.0, epsilon=1e-12, l2=1.0)
    weights, slots = update(optimizer, *new_state(np.array([[0.25]]), optimizer), [[1.0]], 1)
    assert slots["z"].numpy() == pytest.approx(0.5)
    assert weights.numpy() == pytest.approx(-0.5 / (2 + 2))


def test_the_group_threshold_grows_with_the_root_of_the_width():
    """β = 0, x = 0, g = (3, 4): z = g, ‖s‖ = 5; the row dies exactly where l21 √2 reaches 5."""
    for l21, alive in [(4.99 / 2**0.5, True), (5.0 / 2**0.5 + 1e-9, False)]:
        optimizer = GroupAdam(learning_rate=1.0, beta_1=0.0, beta_2=0.0, l21=l21)
        weights, _ = update(optimizer, *new_state(np.zeros((1, 2)), optimizer), [[3.0, 4.0]], 1)
        assert bool((weights.numpy() != 0).all()) is alive
        assert bool((weights.numpy() == 0).all()) is not alive


def test_a_zeroed_row_keeps_its_state_and_comes_back():
    optimizer = GroupAdam(learning_rate=0.1, l21=0.5)
    weights, slots = update(
        optimizer, *new_state(np.full((1, 2), 0.01), optimizer), [[0.3, 0.1]], 1
    )
    assert (weights.numpy() == 0).all()
    assert all((slots[name].numpy() != 0).all() for name in ("z", "m", "v"))
    for t in range(2, 30):
        weights, slots = update(optimizer, weights, slots, [[0.3, 0.1]], t)
    assert (weights.numpy() < 0).all()


@given(
    z=st.lists(st.floats(-3, 3).map(lambda number: round(number, 6)), min_size=3, max_size=3),
    l1=st.sampled_from([0.0, 0.3]),
    l2=st.sampled_from([0.0, 0.7]),
    l21=st.sampled_from([0.0, 0.4]),
)
@settings(max_examples=60, deadline=None)
def test_kkt_conditions_hold_where_the_preconditioner_is_constant(z, l1, l2, l21):
    """Minimise z·x + A/2 ‖x‖² + l1 |x|₁ + l21 √d ‖x‖₂.

    Zero rows need ‖soft(z)‖ ≤ l21 √d, others a subgradient of zero.
    """
    optimizer = GroupAdam(
        learning_rate=1.0, beta_1=0.0, beta_2=0.0, epsilon=1.0, l1=l1, l2=l2, l21=l21
    )
    state = {"z": np.array([z]), "m": np.zeros((1, 3)), "v": np.zeros((1, 3))}
    weights, _ = update(optimizer, tf.zeros([1, 3], tf.float64), state, np.zeros((1, 3)), 1)
    x, z = weights.numpy()[0], np.array(z)
    soft = np.sign(z) * np.maximum(np.abs(z) - l1, 0)
    if not x.any():
        assert np.linalg.norm(soft) <= l21 * 3**0.5 + 1e-12
        return
    residual = soft + (1 + 2 * l2) * x + l21 * 3**0.5 * x / np.linalg.norm(x)
    np.testing.assert_allclose(residual, 0, atol=1e-9)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4)])
def test_serves_dense_weights_of_any_shape(shape):
    rng = np.random.default_rng(5)
    optimizer = GroupAdam(learning_rate=0.01)
    start = rng.normal(size=shape)
    adam = LazyAdamRow(start)
    weights, slots = new_state(start, optimizer)
    for t in range(1, 5):
        g = rng.normal(size=shape)
        adam.learn(g, t, 0.01)
        weights, slots = update(optimizer, weights, slots, g, t)
    assert weights.shape == shape
    np.testing.assert_allclose(weights, adam.x, rtol=1e-12)


@pytest.mark.parametrize(
    "bad",
    [
        {"learning_rate": 0.0},
        {"beta_1": 1.0},
        {"beta_2": -0.1},
        {"epsilon": 0.0},
        {"l1": -1.0},
        {"l2": -1.0},
        {"l21": -1.0},
    ],
)
def test_parameters_out_of_range_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        GroupAdam(**bad)
