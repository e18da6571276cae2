"""Slabs: the zero row, growth without a retrace, initial vectors, the graph step."""

import numpy as np
import pytest
import tensorflow as tf
from group_adam_reference import ReferenceRow

from features.errors import InputError
from training.elastic import GroupAdam, Slab, SlabSpec
from training.elastic.slab import initial_vectors


def new_slab(dim=3, init_scale=0.1, **strengths):
    return Slab(SlabSpec(dim, GroupAdam(learning_rate=0.1, **strengths), init_scale), "deep")


def rows32(*rows):
    return np.array(rows, np.int32)


def keys64(*keys):
    return np.array(keys, np.int64)


def learn(slab, rows, gradients, step):
    slab.apply(tf.constant(rows), tf.constant(gradients, tf.float32), tf.constant(step, tf.int64))


def test_rows_start_at_zero_and_are_gathered_in_order():
    slab = new_slab()
    assert (slab.gather(rows32(0, 7)).numpy() == 0).all()
    slab.initialise(rows32(1, 2), keys64(10, 20), seed=1)
    np.testing.assert_array_equal(slab.gather(rows32(2, 0, 1))[1], [0, 0, 0])
    np.testing.assert_array_equal(slab.gather(rows32(2, 1)).numpy(), initial_vectors(keys64(20, 10), slab.spec, 1))


def test_apply_follows_the_reference_row_by_row():
    slab = new_slab(l21=0.05)
    slab.initialise(rows32(1, 2, 3), keys64(1, 2, 3), seed=1)
    reference = {row: ReferenceRow(vector) for row, vector in enumerate(slab.read("weights", 3), start=1)}
    rng = np.random.default_rng(0)
    for t in range(1, 40):
        rows = rng.permutation(rows32(1, 2, 3))[: rng.integers(1, 4)]
        g = rng.normal(size=(len(rows), 3)).astype(np.float32)
        learn(slab, rows, g, t)
        for row, gradient in zip(rows, g, strict=True):
            reference[row].learn(gradient.astype(np.float64), t, 0.1, l21=0.05)
    np.testing.assert_allclose(slab.read("weights", 3), [reference[row].x for row in (1, 2, 3)], atol=2e-5)


@pytest.mark.parametrize("gradient", [1.0, np.nan, np.inf])
def test_row_0_stays_zero_in_weights_and_slots_whatever_its_gradient(gradient):
    slab = new_slab()
    slab.initialise(rows32(1), keys64(1), seed=1)
    learn(slab, rows32(1, 0), [[0.5] * 3, [gradient] * 3], 1)
    for name, variable in slab.variables():
        assert (variable[0].numpy() == 0).all(), name
        assert (variable[1].numpy() != 0).all(), name


def test_rows_outside_the_batch_are_left_alone():
    slab = new_slab()
    slab.initialise(rows32(1, 2), keys64(1, 2), seed=1)
    learn(slab, rows32(1, 2), np.ones((2, 3)), 1)
    before = {name: slab.read(name, 2)[1] for name, _ in slab.variables()}
    learn(slab, rows32(1), np.ones((1, 3)), 2)
    for name, _ in slab.variables():
        np.testing.assert_array_equal(slab.read(name, 2)[1], before[name])


def test_growth_doubles_and_keeps_values():
    slab = new_slab()
    slab.initialise(rows32(1, 2), keys64(1, 2), seed=1)
    learn(slab, rows32(1, 2), np.ones((2, 3)), 1)
    before = {name: slab.read(name, 2) for name, _ in slab.variables()}
    slab.ensure(1023)
    assert slab.capacity == 1024
    slab.ensure(1024)
    assert slab.capacity == 2048
    slab.ensure(9000)
    assert slab.capacity == 16384
    for name, variable in slab.variables():
        assert variable.numpy().shape == (16384, 3)
        np.testing.assert_array_equal(slab.read(name, 2), before[name])
        assert (variable[3:].numpy() == 0).all()


def test_a_traced_step_survives_growth_and_changing_batches():
    slab = new_slab()
    traces = []

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int64)])
    def step(rows, inverse, number):
        traces.append(number)
        with tf.GradientTape() as tape:
            block = slab.gather(rows)
            tape.watch(block)
            loss = tf.reduce_sum(tf.square(tf.gather(block, inverse) - 1.0))
        slab.apply(rows, tape.gradient(loss, block), number)
        return loss

    losses = []
    for t, last in enumerate([10, 1500, 5, 70_000] + [10] * 40, start=1):
        slab.ensure(last)
        losses.append(float(step(rows32(0, last), rows32(0, 1, 1), tf.constant(t, tf.int64))))
    assert len(traces) == 1
    assert slab.capacity == 131_072
    assert losses[-1] < 0.7 * losses[4]
    np.testing.assert_array_equal(slab.gather(rows32(0))[0], [0, 0, 0])


def test_initial_vectors_are_uniform_within_the_scale():
    vectors = initial_vectors(np.arange(5_000, dtype=np.int64), SlabSpec(4, GroupAdam(), 0.25), seed=7)
    assert vectors.dtype == np.float32
    assert np.abs(vectors).max() <= 0.25
    assert abs(vectors.mean()) < 0.005
    assert vectors.std() == pytest.approx(0.25 / 3**0.5, rel=0.02)


def test_initial_vectors_do_not_depend_on_the_order_of_keys():
    keys = np.random.default_rng(0).integers(-(2**63), 2**63, 500)
    order = np.random.default_rng(1).permutation(500)
    spec = SlabSpec(8, GroupAdam(), 0.01)
    np.testing.assert_array_equal(initial_vectors(keys[order], spec, 3), initial_vectors(keys, spec, 3)[order])


def test_scale_0_starts_at_zero():
    assert (initial_vectors(keys64(1, 2), SlabSpec(2, GroupAdam(), 0.0), 1) == 0).all()


def test_zero_rows_are_those_whose_every_weight_is_exactly_zero():
    slab = new_slab()
    slab.load({name: np.array([[0, 0, 0], [0, 1e-30, 0], [0, 0, -0.0]], np.float32) for name, _ in slab.variables()})
    assert slab.zero_rows(3).tolist() == [True, False, True]


@pytest.mark.parametrize("rows", [0, 5, 1023, 1024, 3000])
def test_what_is_loaded_is_read(rows):
    slab = new_slab()
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(rows, 3)).astype(np.float32) for name, _ in slab.variables()}
    slab.load(arrays)
    assert slab.capacity > rows
    for name, variable in slab.variables():
        np.testing.assert_array_equal(slab.read(name, rows), arrays[name])
        assert (variable[0].numpy() == 0).all()
        assert variable.numpy().shape == (slab.capacity, 3)


def test_no_variable_is_trainable_and_bytes_are_counted():
    slab = new_slab()
    assert not any(variable.trainable for _, variable in slab.variables())
    assert slab.nbytes() == slab.weights.numpy().nbytes == 1024 * 3 * 4


@pytest.mark.parametrize(("dim", "scale"), [(0, 0.1), (4, -0.1)])
def test_a_slab_without_width_or_with_a_negative_scale_is_refused(dim, scale):
    with pytest.raises(InputError, match="dim must be at least 1"):
        SlabSpec(dim, GroupAdam(), scale)
