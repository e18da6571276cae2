"""Gates against float64 NumPy: relaxation, inputs, penalty, independence of the scale."""

import re

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from training_data import MODEL, SCHEMA

from features.errors import InputError
from features.schema import Categorical, Relation, Schema, Timestamp
from training.data.layout import FieldLayout
from training.models import gates
from training.models.ctr import DEEP, WIDE, CtrModel
from training.models.gates import LOGITS, Draw, GatedModel, GateRule, concrete, temperature, uses
from training.models.weight_transfer import carry_over

RELATIONS = (Relation(left="user_id", right="item_id"),)
USES = ("user_id", "item_id", "age", "hour", "user_age", "tags", "price", "user_id__item_id")
COSTS = np.linspace(0.1, 0.8, len(USES))
SEED = tf.constant([5, 1024], tf.int64)
SALT = np.array([0x6A7E, 0])
ROWS = 40


def gated(rule, relations=RELATIONS, costs=COSTS, seed=3):
    """Gates before a Wide & Deep model whose every weight matters."""
    inner = CtrModel(SCHEMA, MODEL, relations, seed)
    draw = np.random.default_rng(seed)
    inner.load(
        {
            name: w + draw.normal(0, 0.3, w.shape).astype(np.float32)
            for name, w in inner.weights().items()
        }
    )
    return GatedModel(inner, rule, costs)


def inputs(rows=ROWS, seed=0):
    draw = np.random.default_rng(seed)
    vectors = {
        name: draw.normal(size=(rows, 6, width)).astype(np.float32)
        for name, width in ((WIDE, 1), (DEEP, MODEL.dim))
    }
    return (
        vectors,
        draw.normal(size=(rows, 2)).astype(np.float32),
        draw.normal(size=(rows, 1)).astype(np.float32),
    )


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def logit(p):
    return np.log(p) - np.log(1 - p)


def reference_factors(keep, rows, heat):
    """z / δ in float64, from the very uniforms that the graph draws."""
    uniform = tf.random.stateless_uniform([rows, len(keep)], SEED + SALT).numpy().astype(np.float64)
    return sigmoid((logit(keep) + logit(np.clip(uniform, 1e-6, 1 - 1e-6))) / heat) / keep


def test_every_use_of_a_field_has_a_gate():
    assert uses(FieldLayout.of(SCHEMA, RELATIONS)) == USES
    assert list(gated(GateRule()).keep()) == list(USES)


def test_fields_of_one_vocabulary_have_a_gate_each():
    fields = [
        Categorical(name="clicked", vocabulary="ad"),
        Categorical(name="shown", vocabulary="ad"),
    ]
    schema = Schema(
        label="l", user="u", item="i", timestamp=Timestamp(column="t"), fields=tuple(fields)
    )
    assert uses(FieldLayout.of(schema)) == ("clicked", "shown")


@pytest.mark.parametrize(("draw", "rows"), [(Draw.BATCH, 1), (Draw.EXAMPLE, ROWS)])
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_gated_inputs_equal_a_numpy_reference(draw, rows, progress):
    model = gated(GateRule(draw=draw, temperatures=(0.8, 0.2), initial_keep=0.6, speed=2.0))
    moved = np.random.default_rng(1).normal(size=len(USES)).astype(np.float32)
    model.load({**model.weights(), LOGITS: moved})
    model.progress.assign(progress)
    keep = 0.05 + 0.94 * sigmoid(logit((0.6 - 0.05) / 0.94) + 2.0 * moved.astype(np.float64))
    factors = reference_factors(keep, rows, 0.8 * 0.25**progress)
    vectors, dense, cross = inputs()
    by_hand = (
        {name: v * factors[:, :6, None] for name, v in vectors.items()},
        dense * factors[:, [6, 6]],
        cross * factors[:, 7:],
    )
    expected = model.inner.forward(
        *tf.nest.map_structure(lambda x: tf.constant(x, tf.float32), by_hand)
    )
    np.testing.assert_allclose(list(model.keep().values()), keep, rtol=1e-5)
    np.testing.assert_allclose(model.forward(*inputs(), SEED), expected, rtol=2e-4, atol=2e-4)


def test_without_a_seed_the_model_is_the_inner_one_to_the_bit():
    model = gated(GateRule())
    np.testing.assert_array_equal(model.forward(*inputs()), model.inner.forward(*inputs()))


def test_a_schema_without_numbers_and_relations_has_gates_too():
    fields = (Categorical(name="ad"), Categorical(name="place"))
    inner = CtrModel(
        Schema(label="l", user="u", item="i", timestamp=Timestamp(column="t"), fields=fields), MODEL
    )
    model = GatedModel(inner, GateRule(), np.zeros(2))
    vectors = {name: np.ones((4, 2, width), np.float32) for name, width in inner.slabs.items()}
    assert model.forward(
        vectors, np.zeros((4, 0), np.float32), np.zeros((4, 0), np.float32), SEED
    ).shape == (4,)


@pytest.mark.parametrize(("draw", "alike"), [(Draw.BATCH, True), (Draw.EXAMPLE, False)])
def test_a_draw_is_shared_by_the_batch_or_each_impression_has_its_own(draw, alike):
    vectors, dense, cross = (
        tf.nest.map_structure(lambda x: np.repeat(x[:1], ROWS, axis=0), part) for part in inputs()
    )
    logits = gated(GateRule(draw=draw)).forward(vectors, dense, cross, SEED).numpy()
    assert (np.ptp(logits) < 1e-4) == alike


def test_the_seed_alone_decides_the_draw():
    first, again, other = (
        gated(GateRule()).forward(*inputs(), SEED + tf.constant([0, n], tf.int64))
        for n in (0, 0, 1024)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


@settings(deadline=None)
@given(st.floats(0.01, 0.99), st.floats(1e-4, 0.9999), st.floats(0.05, 5))
def test_a_draw_is_above_a_half_exactly_when_the_uniform_says_keep(keep, uniform, heat):
    z = float(
        concrete(
            tf.constant([keep], tf.float64),
            tf.constant([uniform], tf.float64),
            tf.constant(heat, tf.float64),
        )[0]
    )
    if abs(uniform - (1 - keep)) > 1e-9:
        assert (z > 0.5) == (uniform > 1 - keep)


GRID = tf.constant((np.arange(100_000) + 0.5)[:, None] / 100_000, tf.float64)


@pytest.mark.parametrize("keep", [0.05, 0.3, 0.5, 0.99])
def test_the_relaxation_becomes_a_coin_as_it_cools_and_a_half_as_it_melts(keep):
    chances = tf.constant([keep], tf.float64)
    cold, hot = (concrete(chances, GRID, tf.constant(t, tf.float64)).numpy() for t in (1e-4, 1e6))
    assert np.mean((cold > 0.001) & (cold < 0.999)) < 0.002
    np.testing.assert_allclose(cold.mean(), keep, atol=1e-4)
    np.testing.assert_allclose(hot, 0.5, atol=1e-4)


def test_draws_at_the_ends_of_the_uniform_are_finite():
    z = concrete(tf.constant([0.05, 0.99]), tf.constant([[0.0], [1.0]]), 0.1)
    assert np.isfinite(z).all()


def test_the_temperature_is_geometric():
    rule = GateRule(temperatures=(0.5, 0.1))
    np.testing.assert_allclose(
        [temperature(rule, p) for p in (0.0, 0.5, 1.0)], [0.5, np.sqrt(0.05), 0.1], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("ramp", "progress", "share"), [(0.0, 0.0, 1), (0.5, 0.0, 0), (0.5, 0.25, 0.5), (0.5, 0.75, 1)]
)
def test_the_penalty_is_the_price_of_what_is_kept(ramp, progress, share):
    model = gated(GateRule(initial_keep=0.7, ramp=ramp))
    model.progress.assign(progress)
    np.testing.assert_allclose(model.penalty(), share * 0.7 * COSTS.sum(), rtol=1e-5, atol=1e-7)


def test_the_gradient_of_the_penalty_is_the_price_times_the_slope_of_delta():
    model = gated(GateRule(initial_keep=0.7, speed=3.0))
    with tf.GradientTape() as tape:
        variable = model.variables_by_name()[LOGITS]
        tape.watch(variable)
        penalty = model.penalty()
    share = (0.7 - 0.05) / 0.94
    np.testing.assert_allclose(
        tape.gradient(penalty, variable), COSTS * 0.94 * share * (1 - share) * 3.0, rtol=1e-5
    )


def gate_gradient(model, vectors, dense, cross, label):
    variable = model.variables_by_name()[LOGITS]
    with tf.GradientTape() as tape:
        tape.watch(variable)
        logits = model.forward(vectors, dense, cross, SEED)
        loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(label, logits))
    return tape.gradient(loss, variable).numpy()


@pytest.mark.parametrize("draw", list(Draw))
def test_embeddings_ten_times_as_large_before_a_layer_a_tenth_as_large_move_the_gates_alike(draw):
    model, (vectors, dense, cross) = gated(GateRule(draw=draw)), inputs()
    label = tf.constant(np.arange(ROWS) % 2, tf.float32)
    before = gate_gradient(model, vectors, dense, cross, label)
    weights = model.weights()
    kernel = weights["deep/0/kernel"].copy()
    kernel[: 6 * MODEL.dim] /= 10
    model.load({**weights, "deep/0/kernel": kernel})
    after = gate_gradient(model, {**vectors, DEEP: vectors[DEEP] * 10}, dense, cross, label)
    assert np.abs(before).min() > 1e-6
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-6)


@pytest.mark.covers("audit-L7")
def test_the_mean_factors_at_the_first_temperature_are_those_of_the_docstring():
    """Fault L7: the docstring gave a mean of 1, which only the limit t → 0 has."""
    stated = re.findall(r"(\d\.\d+)\s+at δ = (\d\.\d+)", gates.__doc__)
    assert len(stated) == 3
    first, last = GateRule().temperatures
    for mean, keep in stated:
        delta = tf.constant([float(keep)], tf.float64)
        z = concrete(delta, GRID, tf.constant(first, tf.float64)).numpy()
        assert np.mean(z / float(keep)) == pytest.approx(float(mean), abs=0.005)
        z = concrete(delta, GRID, tf.constant(last, tf.float64)).numpy()
        assert np.mean(z / float(keep)) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("keep", [0.2, 0.8])
def test_the_mean_factor_is_one_so_nothing_can_grow_against_it(keep):
    z = concrete(tf.constant([keep], tf.float64), GRID, tf.constant(0.1, tf.float64)).numpy()
    np.testing.assert_allclose(np.mean(z / keep), 1, atol=0.01)
    np.testing.assert_allclose(np.std(z / keep), np.sqrt((1 - keep) / keep), rtol=0.07)


def test_the_smallest_delta_bounds_the_factor():
    model = gated(GateRule(keep_range=(0.1, 0.9), initial_keep=0.5))
    model.load({**model.weights(), LOGITS: np.array([-1e4, 1e4] * 4, np.float32)})
    np.testing.assert_allclose(list(model.keep().values()), [0.1, 0.9] * 4, rtol=1e-5)


def test_weights_are_those_of_the_model_and_the_gates():
    model = gated(GateRule())
    inner = model.inner.weights()
    assert model.weights().keys() == inner.keys() | {LOGITS}
    changed = {name: w + 1 for name, w in model.weights().items()}
    model.load(changed)
    for name, w in model.weights().items():
        np.testing.assert_array_equal(w, changed[name])
    assert model.variables_by_name().keys() == model.inner.variables_by_name().keys() | {LOGITS}


def test_gates_of_another_number_of_fields_are_refused():
    model = gated(GateRule())
    with pytest.raises(InputError, match="do not fit"):
        model.load({**model.weights(), LOGITS: np.zeros(3, np.float32)})


def test_gates_of_the_fields_that_stay_are_carried_over():
    before, after = gated(GateRule()), gated(GateRule(), relations=(), costs=COSTS[:-1])
    learned = np.arange(len(USES), dtype=np.float32)
    carried = carry_over(
        {LOGITS: learned},
        {LOGITS: np.zeros(len(USES) - 1, np.float32)},
        before.blocks(),
        after.blocks(),
    )
    np.testing.assert_array_equal(carried[LOGITS], learned[:-1])
