"""How the rows of an id become its vector: against NumPy in float64, gradients included."""

import numpy as np
import pytest
import tensorflow as tf

from features.errors import InputError
from training.models.multi_hash.keys import combine
from training.models.multi_hash.settings import MultiHashSettings

IDS, HASHES, WIDTH = 5, 3, 4
EPSILON = 1e-6


def settings(way):
    return MultiHashSettings(rows=30, hashes=HASHES, combine=way)


def reference(way, vectors, weights, own):
    """The definition, id by id."""
    made = []
    for rows, shares, alone in zip(vectors, weights, own, strict=True):
        if way == "concat":
            made.append(np.concatenate(list(rows)))
        elif alone:
            made.append(rows[0])
        else:
            made.append(
                sum(
                    (w if way == "weighted" else 1.0) * row
                    for w, row in zip(shares, rows, strict=True)
                )
            )
    return np.array(made)


@pytest.fixture
def drawn():
    rng = np.random.default_rng(3)
    return (
        rng.normal(size=(IDS, HASHES, WIDTH)),
        rng.normal(size=(IDS, HASHES)),
        np.array([0, 1, 0, 0, 1], bool),
    )


def combined(way, vectors, weights, own):
    return combine(vectors, settings(way), weights if way == "weighted" else None, tf.constant(own))


@pytest.mark.parametrize("way", ["sum", "concat", "weighted"])
def test_vectors_are_those_of_the_definition(way, drawn):
    vectors, weights, own = drawn
    got = combined(way, tf.constant(vectors, tf.float32), tf.constant(weights, tf.float32), own)
    np.testing.assert_allclose(got, reference(way, vectors, weights, own), rtol=1e-5, atol=1e-6)
    assert got.dtype == tf.float32


@pytest.mark.parametrize("way", ["sum", "concat", "weighted"])
def test_gradients_are_those_of_finite_differences_of_the_definition(way, drawn):
    vectors, weights, own = drawn
    ahead = np.random.default_rng(4).normal(size=reference(way, vectors, weights, own).shape)
    given = [tf.constant(vectors), tf.constant(weights)]
    with tf.GradientTape() as tape:
        tape.watch(given)
        loss = tf.reduce_sum(combined(way, *given, own) * ahead)
    gradients = tape.gradient(loss, given, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def scalar(v, w):
        return float(np.sum(reference(way, v, w, own) * ahead))

    for gradient, place in zip(gradients, (0, 1), strict=True):
        np.testing.assert_allclose(
            gradient, slopes(scalar, [vectors, weights], place), rtol=1e-6, atol=1e-8
        )


def slopes(function, arguments, place):
    """Central differences by every entry of one argument."""
    found = np.zeros_like(arguments[place])
    for entry in np.ndindex(found.shape):
        step = np.zeros_like(found)
        step[entry] = EPSILON
        higher, lower = (
            [a + sign * step if i == place else a for i, a in enumerate(arguments)]
            for sign in (1, -1)
        )
        found[entry] = (function(*higher) - function(*lower)) / (2 * EPSILON)
    return found


def test_an_id_with_a_row_of_its_own_gives_no_gradient_to_its_weights(drawn):
    vectors, weights, own = (tf.constant(part) for part in drawn)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        loss = tf.reduce_sum(combine(vectors, settings("weighted"), weights, own))
    assert not tape.gradient(loss, weights).numpy()[drawn[2]].any()


@pytest.mark.parametrize("way", ["sum", "concat", "weighted"])
def test_leading_axes_are_kept_in_a_graph_of_unknown_size(way, drawn):
    vectors, weights, _ = drawn
    signature = [
        tf.TensorSpec([None, None, HASHES, WIDTH], tf.float64),
        tf.TensorSpec([None, None, HASHES], tf.float64),
    ]
    graph = tf.function(
        lambda v, w: combine(v, settings(way), w if way == "weighted" else None),
        input_signature=signature,
        autograph=False,
    )
    got = graph(vectors[None], weights[None])
    np.testing.assert_allclose(
        got[0], reference(way, vectors, weights, np.zeros(IDS, bool)), rtol=1e-12
    )


def test_a_wrong_number_of_rows_is_refused():
    with pytest.raises(InputError, match=r"made of 3 rows, got vectors of shape \(5, 2, 4\)"):
        combine(tf.zeros([5, 2, 4]), settings("sum"))


@pytest.mark.parametrize(
    ("way", "given", "says"),
    [("weighted", False, "need the weights"), ("sum", True, "take no weights")],
)
def test_weights_are_for_weighted_sums_alone(way, given, says):
    with pytest.raises(InputError, match=says):
        combine(tf.zeros([5, 3, 4]), settings(way), tf.zeros([5, 3]) if given else None)
