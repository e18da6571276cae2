"""Hidden and cross layers that multiply in bfloat16: what is rounded, and training with it."""

import json

import numpy as np
import pytest
import tensorflow as tf
from test_learner import learn
from test_model_kinds import RELATIONS, SCHEMA, forward, settings, some_inputs
from training_data import MODEL
from training_data import SCHEMA as LEARNED

from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.models.ctr import CtrModel
from training.models.parts.part import PooledBatch
from training.settings import ModelSettings, TrainingSettings

BFLOAT16 = tf.bfloat16.as_numpy_dtype
HALF_UNIT = 2.0**-8  # the largest relative error of rounding to 8 bits of mantissa
SEED = np.array([1, 2])


def rounded(array):
    return array.astype(BFLOAT16).astype(np.float64)


def pooled(learning=True, matmul="bfloat16"):
    nothing = tf.zeros([1, 0])
    return PooledBatch({}, nothing, nothing, tf.constant(SEED) if learning else None, matmul)


def factors(rows=300, inner=40, columns=7):
    draw = np.random.default_rng(0)
    return draw.normal(size=(rows, inner)).astype(np.float32), draw.normal(
        size=(inner, columns)
    ).astype(np.float32)


def test_both_factors_are_rounded_and_the_sum_once():
    inputs, kernel = factors()
    given = pooled().product(tf.constant(inputs), tf.constant(kernel))
    exact = rounded(inputs) @ rounded(kernel)
    slack = 1e-5 * np.abs(rounded(inputs)) @ np.abs(rounded(kernel))  # float32 sums
    assert given.dtype == tf.float32
    assert (np.abs(given.numpy() - exact) <= HALF_UNIT * np.abs(exact) + slack).all()
    assert np.abs(given.numpy() - inputs.astype(np.float64) @ kernel).max() > 1e-3, (
        "or nothing is rounded"
    )


@pytest.mark.parametrize(("learning", "matmul"), [(False, "bfloat16"), (True, "float32")])
def test_otherwise_it_is_the_float32_product_to_the_bit(learning, matmul):
    inputs, kernel = (tf.constant(factor) for factor in factors())
    assert (
        pooled(learning, matmul).product(inputs, kernel).numpy().tobytes()
        == tf.matmul(inputs, kernel).numpy().tobytes()
    )


@pytest.mark.parametrize("kind", ["wide_deep", "deepfm", "dcnv2"])
def test_scores_are_those_of_a_float32_model_to_the_bit_and_learning_is_close(kind):
    plain, rough = (
        CtrModel(SCHEMA, settings(kind, matmul=matmul), RELATIONS)
        for matmul in ("float32", "bfloat16")
    )
    inputs = some_inputs()
    assert forward(rough, inputs).tobytes() == forward(plain, inputs).tobytes()
    learned = forward(plain, inputs, SEED), forward(rough, inputs, SEED)
    assert 0 < np.abs(learned[0] - learned[1]).max() < 0.05 * np.abs(learned[0]).max()


def gradients(matmul):
    model = CtrModel(SCHEMA, settings("dcnv2", matmul=matmul), RELATIONS, seed=3)
    vectors, dense, cross = some_inputs(batch=64)
    tensors = {name: tf.constant(rows, tf.float32) for name, rows in vectors.items()}
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        loss = tf.reduce_mean(
            model.forward(
                tensors,
                tf.constant(dense, tf.float32),
                tf.constant(cross, tf.float32),
                tf.constant(SEED),
            )
            ** 2
        )
    return {
        n: g.numpy()
        for n, g in tape.gradient(loss, {**tensors, **model.variables_by_name()}).items()
        if g is not None
    }


def test_gradients_differ_by_rounding_alone():
    exact, rough = gradients("float32"), gradients("bfloat16")
    assert set(exact) == set(rough)
    for name, gradient in exact.items():
        assert rough[name].dtype == np.float32
        assert np.linalg.norm(rough[name] - gradient) <= 0.03 * np.linalg.norm(gradient) + 1e-7, (
            name
        )


def test_the_same_seed_gives_the_same_bytes():
    recipe = LearnerConfig(
        LEARNED,
        MODEL.model_copy(update={"matmul": "bfloat16"}),
        TrainingSettings(batch_size=50),
        (),
    )
    once, again = (ModelAndBaseline.new(recipe) for _ in range(2))
    learn(once, 1, 2, 3)
    learn(again, 1, 2, 3)
    for name, weight in once.model.model.weights().items():
        assert weight.tobytes() == again.model.model.weights()[name].tobytes(), name


def test_model_json_names_it_only_where_it_is_used():
    assert "matmul" not in json.loads(ModelSettings().model_dump_json())
    assert json.loads(ModelSettings(matmul="bfloat16").model_dump_json())["matmul"] == "bfloat16"
