"""Every kind of model against a NumPy reference of its formula; norms; changes of fields."""

import numpy as np
import pytest
import tensorflow as tf

from features.schema import Categorical, MultiValued, Numeric, Relation, Schema, Timestamp
from training.models.ctr import DEEP, WIDE, CtrModel, logistic_regression
from training.models.weight_transfer import carry_over
from training.settings import ModelSettings

KINDS = ("logistic_regression", "fm", "wide_deep", "deepfm", "dcnv2")
RELATIONS = (Relation(left="a", right="b"),)


def schema(*fields):
    return Schema(label="y", user="u", item="i", timestamp=Timestamp(column="t"), fields=fields)


SCHEMA = schema(
    Categorical(name="a"), MultiValued(name="tags"), Numeric(name="x"), Categorical(name="b")
)
FIELDS, DIM, BATCH = 3, 4, 7


def settings(kind, **changes):
    return ModelSettings(kind=kind, dim=DIM, hidden=(5, 6), cross_layers=2, **changes)


def some_inputs(seed=0, batch=BATCH):
    draw = np.random.default_rng(seed)
    vectors = {
        WIDE: draw.normal(size=(batch, FIELDS, 1)),
        DEEP: draw.normal(size=(batch, FIELDS, DIM)),
    }
    return vectors, draw.normal(size=(batch, 2)), draw.normal(size=(batch, 1))


def forward(model, inputs, seed=None):
    vectors, dense, cross = inputs
    tensors = {name: tf.constant(rows, tf.float32) for name, rows in vectors.items()}
    drawn = None if seed is None else tf.constant(seed, tf.int64)
    return model.forward(
        tensors, tf.constant(dense, tf.float32), tf.constant(cross, tf.float32), drawn
    ).numpy()


def randomised(model, seed=1):
    draw = np.random.default_rng(seed)
    weights = {
        name: np.abs(draw.normal(size=w.shape)).astype(np.float32)
        for name, w in model.weights().items()
    }
    signed = {
        n: w if n.endswith("variance") else w * draw.choice([-1, 1], w.shape)
        for n, w in weights.items()
    }
    model.load({n: w.astype(np.float32) for n, w in signed.items()})
    return {n: w.astype(np.float64) for n, w in model.weights().items()}


def linear(w, inputs):
    return inputs[0][WIDE].sum(axis=(1, 2)) + inputs[1] @ w["wide/dense"]


def second_order(w, inputs):
    vectors = inputs[0][DEEP]
    return sum(
        np.sum(vectors[:, i] * vectors[:, j], axis=1) for i in range(FIELDS) for j in range(i)
    )


def flat(inputs):
    return np.concatenate(
        [inputs[0][DEEP].reshape(len(inputs[1]), -1), inputs[1], inputs[2]], axis=1
    )


def deep(w, inputs):
    hidden = flat(inputs)
    for layer in (0, 1):
        hidden = np.maximum(hidden @ w[f"deep/{layer}/kernel"] + w[f"deep/{layer}/bias"], 0)
    return hidden @ w["deep/out"]


def crosses(w, inputs):
    first = x = flat(inputs)
    for layer in (0, 1):
        x = first * (x @ w[f"cross/{layer}/kernel"] + w[f"cross/{layer}/bias"]) + x
    return x @ w["cross/out"]


PARTS = {
    "logistic_regression": (linear,),
    "fm": (linear, second_order),
    "wide_deep": (linear, deep),
    "deepfm": (linear, second_order, deep),
    "dcnv2": (crosses, deep),
}


@pytest.mark.covers("infrastructure-2")
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_equals_its_formula_in_numpy(kind):
    model, inputs = CtrModel(SCHEMA, settings(kind), RELATIONS), some_inputs()
    w = randomised(model)
    expected = w["bias"] + sum(part(w, inputs) for part in PARTS[kind])
    np.testing.assert_allclose(forward(model, inputs), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    ("kind", "slabs"),
    [
        ("logistic_regression", {WIDE: 1}),
        ("fm", {WIDE: 1, DEEP: DIM}),
        ("dcnv2", {DEEP: DIM}),
        ("deepfm", {WIDE: 1, DEEP: DIM}),
    ],
)
def test_a_kind_asks_for_the_rows_it_reads_and_no_others(kind, slabs):
    assert CtrModel(SCHEMA, settings(kind), RELATIONS).slabs == slabs


@pytest.mark.parametrize("kind", KINDS)
def test_p_uv_changes_nothing_until_it_is_learned(kind):
    model, (vectors, dense, cross) = CtrModel(SCHEMA, settings(kind), RELATIONS), some_inputs()
    np.testing.assert_array_equal(
        forward(model, (vectors, dense, cross)), forward(model, (vectors, dense, 0 * cross))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_learned_weight_has_a_gradient(kind):
    model, (vectors, dense, cross) = (
        CtrModel(SCHEMA, settings(kind, norm="batch"), RELATIONS),
        some_inputs(),
    )
    with tf.GradientTape() as tape:
        learned = model.variables_by_name()
        tape.watch(list(learned.values()))
        logit = model.forward(
            {n: tf.constant(v, tf.float32) for n, v in vectors.items()},
            tf.constant(dense, tf.float32),
            tf.constant(cross, tf.float32),
            tf.constant([1, 2], tf.int64),
        )
        loss = tf.reduce_mean(logit**2)
    assert all(gradient is not None for gradient in tape.gradient(loss, list(learned.values())))


def test_the_baseline_is_a_logistic_regression():
    model, inputs = logistic_regression(SCHEMA, RELATIONS), some_inputs()
    w = randomised(model)
    np.testing.assert_allclose(
        forward(model, inputs), w["bias"] + linear(w, inputs), rtol=1e-5, atol=1e-5
    )


def normed(hidden, axis, scale, shift):
    mean, variance = hidden.mean(axis=axis, keepdims=True), hidden.var(axis=axis, keepdims=True)
    return np.maximum((hidden - mean) / np.sqrt(variance + 1e-5) * scale + shift, 0)


@pytest.mark.parametrize(("norm", "axis"), [("batch", 0), ("layer", 1)])
def test_norms_equal_their_formula_while_learning(norm, axis):
    model, inputs = CtrModel(SCHEMA, settings("wide_deep", norm=norm), RELATIONS), some_inputs()
    w, hidden = randomised(model), flat(inputs)
    for layer in (0, 1):
        affine = hidden @ w[f"deep/{layer}/kernel"]
        hidden = normed(affine, axis, w[f"deep/{layer}/scale"], w[f"deep/{layer}/bias"])
    expected = w["bias"] + linear(w, inputs) + hidden @ w["deep/out"]
    np.testing.assert_allclose(forward(model, inputs, seed=[0, 0]), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_batch_norm_scores_with_running_averages_that_only_learning_moves():
    model, inputs = (
        CtrModel(SCHEMA, settings("wide_deep", norm="batch"), RELATIONS),
        some_inputs(batch=500),
    )
    before = model.weights()
    forward(model, inputs)
    np.testing.assert_array_equal(model.weights()["deep/0/mean"], before["deep/0/mean"])
    for _ in range(1500):
        forward(model, inputs, seed=[0, 0])
    learned = flat(inputs) @ before["deep/0/kernel"]
    np.testing.assert_allclose(model.weights()["deep/0/mean"], learned.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(model.weights()["deep/0/variance"], learned.var(axis=0), rtol=1e-4)
    np.testing.assert_allclose(
        forward(model, inputs), forward(model, inputs, seed=[0, 0]), atol=1e-3
    )


def test_the_averages_are_saved_with_the_weights_and_no_optimizer_moves_them():
    model = CtrModel(SCHEMA, settings("wide_deep", norm="batch"), RELATIONS)
    state = {"deep/0/mean", "deep/0/variance", "deep/1/mean", "deep/1/variance"}
    assert set(model.weights()) - set(model.variables_by_name()) == state
    weights = randomised(model)
    np.testing.assert_array_equal(
        model.weights()["deep/1/variance"], weights["deep/1/variance"].astype(np.float32)
    )


def test_a_cross_network_keeps_rows_and_columns_of_the_fields_that_stay():
    before = CtrModel(SCHEMA, settings("dcnv2"), RELATIONS)
    after = CtrModel(
        schema(Categorical(name="new"), Numeric(name="x"), Categorical(name="b")),
        settings("dcnv2"),
        seed=9,
    )
    learned, fresh = (
        {n: np.asarray(w, np.float32) for n, w in randomised(before).items()},
        after.weights(),
    )
    carried = carry_over(learned, fresh, before.blocks(), after.blocks())
    b_then, b_now = slice(DIM, 2 * DIM), slice(DIM, 2 * DIM)  # a, b, tags, x, a__b; then new, b, x
    x_then, x_now = slice(3 * DIM, 3 * DIM + 2), slice(2 * DIM, 2 * DIM + 2)
    kernel, old = carried["cross/0/kernel"], learned["cross/0/kernel"]
    np.testing.assert_array_equal(kernel[b_now, x_now], old[b_then, x_then])
    np.testing.assert_array_equal(kernel[x_now, x_now], old[x_then, x_then])
    np.testing.assert_array_equal(kernel[:DIM], fresh["cross/0/kernel"][:DIM])
    np.testing.assert_array_equal(carried["cross/1/bias"][x_now], learned["cross/1/bias"][x_then])


@pytest.mark.parametrize("kind", ["logistic_regression", "fm"])
def test_a_relation_network_without_hidden_layers_is_refused(kind):
    with pytest.raises(ValueError, match="needs hidden layers"):
        settings(kind, relations={"fields": "all"})


@pytest.mark.covers("audit-M02")
def test_a_step_moves_running_averages_by_a_tenth():
    model = CtrModel(SCHEMA, settings("wide_deep", norm="batch"), RELATIONS)
    inputs = some_inputs(batch=500)
    learned = flat(inputs) @ model.weights()["deep/0/kernel"]
    forward(model, inputs, seed=[0, 0])
    after = model.weights()
    np.testing.assert_allclose(after["deep/0/mean"], 0.1 * learned.mean(axis=0), atol=1e-5)
    variance = 0.9 + 0.1 * learned.var(axis=0)
    np.testing.assert_allclose(after["deep/0/variance"], variance, rtol=1e-4)
