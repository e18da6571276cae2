"""The training pass of a hidden layer against float64 NumPy and TensorFlow's gradients."""

import numpy as np
import pytest
import tensorflow as tf

from training.models.parts.perceptron import EPSILON, DropoutMask, batch_normed

DRAW = np.random.default_rng(5)
AFFINE = DRAW.normal(loc=0.7, scale=2.0, size=(64, 6))
SCALE, BIAS, UPSTREAM = DRAW.normal(1, 0.3, 6), DRAW.normal(0, 0.3, 6), DRAW.normal(size=(64, 6))
SEED = tf.constant([3, 8], tf.int64)


def _dropout(rate):
    return DropoutMask.draw(tf.zeros(AFFINE.shape), rate, SEED) if rate else DropoutMask.none()


def _float32(*arrays):
    return [tf.constant(array, tf.float32) for array in arrays]


def _gradients(function, arguments):
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        loss = tf.reduce_sum(function(*arguments) * tf.constant(UPSTREAM, arguments[0].dtype))
    return tape.gradient(loss, arguments)


def _plain(dropout):
    mask, share = tf.cast(dropout.mask, tf.float64), dropout.keep

    def layer(affine, scale, bias):
        mean, variance = tf.nn.moments(affine, axes=[0])
        return (
            tf.nn.relu((affine - mean) / tf.sqrt(variance + EPSILON) * scale + bias) * mask / share
        )

    return layer


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5])
def test_it_is_dropout_of_relu_of_batch_norm(rate):
    dropout = _dropout(rate)
    hidden, mean, variance = batch_normed(*_float32(AFFINE, SCALE, BIAS), dropout)
    expected = (AFFINE - AFFINE.mean(axis=0)) / np.sqrt(AFFINE.var(axis=0) + EPSILON) * SCALE + BIAS
    expected = np.maximum(expected, 0) * dropout.mask.numpy() / dropout.keep
    np.testing.assert_allclose(hidden, expected, atol=2e-6)
    np.testing.assert_allclose(mean, AFFINE.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(variance, AFFINE.var(axis=0), rtol=1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5])
def test_its_gradients_are_those_of_the_plain_form_in_float64(rate):
    dropout = _dropout(rate)
    ours = _gradients(
        lambda *arguments: batch_normed(*arguments, dropout)[0], _float32(AFFINE, SCALE, BIAS)
    )
    plain = _gradients(
        _plain(dropout), [tf.constant(array, tf.float64) for array in (AFFINE, SCALE, BIAS)]
    )
    for mine, expected in zip(ours, plain, strict=True):
        np.testing.assert_allclose(mine, expected, atol=2e-5)


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.75])
def test_dropout_keeps_its_share_and_the_mean(rate):
    dropout = DropoutMask.draw(tf.zeros([1000, 301]), rate, SEED)
    assert set(np.unique(dropout.mask)) == {0.0, 1.0}
    assert dropout.keep == pytest.approx(1 - rate, abs=2**-16)
    assert float(tf.reduce_mean(dropout.mask)) == pytest.approx(
        1 - rate, abs=5 * np.sqrt(rate * (1 - rate) / 301_000)
    )
    np.testing.assert_allclose(dropout.apply(tf.ones([1000, 301])), dropout.mask / dropout.keep)


def test_a_mask_is_a_function_of_the_seed_and_columns_are_not_alike():
    one, again = (DropoutMask.draw(tf.zeros([400, 8]), 0.5, SEED).mask.numpy() for _ in range(2))
    other = DropoutMask.draw(tf.zeros([400, 8]), 0.5, SEED + 1).mask.numpy()
    np.testing.assert_array_equal(one, again)
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.1
    assert np.abs(np.corrcoef(one.T) - np.eye(8)).max() < 0.25


def test_a_rate_near_one_keeps_something():
    assert DropoutMask.draw(tf.zeros([2, 2]), 1 - 1e-9, SEED).keep > 0
