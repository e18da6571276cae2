"""The step against plain arithmetic, and going on from disk as if never stopped."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from training_data import MODEL, SCHEMA, TRAINING

from elastic_embeddings import ElasticTable, GroupAdam, SlabSpec
from elastic_embeddings.core.ragged import Ragged
from features.errors import InputError
from training.data.inputs import Inputs
from training.data.layout import FieldLayout, split_slab
from training.fit.checkpoints import Description, write_description
from training.fit.inference import pool_ragged, unpool_ragged
from training.fit.learner import Learner, ahead, log_losses
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.models.ctr import DEEP, WIDE, build_model, logistic_regression
from training.settings import AdmissionSettings, GroupSettings

RECIPE = LearnerConfig(SCHEMA, MODEL, TRAINING, ())
GROUPS = (
    GroupSettings(name="ids", fields=("item_id", "tags"), dim=6),
    GroupSettings(name="context", fields=("hour", "age"), dim=2, pooling="mean"),
)


def some_inputs(rows=50, seed=0):
    """Inputs of `SCHEMA`: five single-valued id fields, one list, one number."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(0, 4, rows)
    return Inputs(
        keys=draw.integers(-20, 20, (rows, 5)),
        lists=(
            Ragged(
                draw.integers(100, 110, lengths.sum()), np.concatenate([[0], np.cumsum(lengths)])
            ),
        ),
        dense=draw.normal(size=(rows, 2)).astype(np.float32),
        cross=np.zeros((rows, 0), np.float32),
        label=draw.integers(0, 2, rows).astype(np.float32),
    )


def numpy_probabilities(learner, inputs):
    """The forward pass row by row, in float64, straight from the table."""
    weights = {name: w.astype(np.float64) for name, w in learner.model.weights().items()}
    probabilities = []
    for i in range(len(inputs)):
        keys = [*inputs.keys[i][:, None], inputs.lists[0].take(np.array([i])).values]
        fields = {
            slab: [learner.table.lookup(k, slab).astype(np.float64) for k in keys]
            for slab in (WIDE, DEEP)
        }
        pooled = {
            slab: [v.mean(axis=0) if len(v) else np.zeros(v.shape[1]) for v in vectors]
            for slab, vectors in fields.items()
        }
        hidden = np.concatenate([*pooled[DEEP], inputs.dense[i]])
        for layer in range(2):
            hidden = np.maximum(
                hidden @ weights[f"deep/{layer}/kernel"] + weights[f"deep/{layer}/bias"], 0
            )
        logit = (
            weights["bias"]
            + np.sum(pooled[WIDE])
            + inputs.dense[i] @ weights["wide/dense"]
            + hidden @ weights["deep/out"]
        )
        probabilities.append(1 / (1 + np.exp(-logit)))
    return np.array(probabilities)


def learn(learners, *seeds):
    return [learners.train_step(learners.prepare(some_inputs(seed=seed))) for seed in seeds]


@pytest.fixture(scope="module")
def learners():
    fresh = ModelAndBaseline.new(RECIPE)
    learn(fresh, 1, 2, 3)
    return fresh


def test_probabilities_equal_a_numpy_reference(learners):
    inputs = some_inputs(rows=30, seed=9)
    np.testing.assert_allclose(
        learners.model.predict(inputs), numpy_probabilities(learners.model, inputs), rtol=1e-5
    )


def test_predicting_makes_no_row(learners):
    before = (len(learners.model.table), learners.model.table.keys_seen)
    unknown = some_inputs(seed=4)
    learners.model.predict(
        Inputs(unknown.keys + 10_000, unknown.lists, unknown.dense, unknown.cross, unknown.label)
    )
    assert (len(learners.model.table), learners.model.table.keys_seen) == before


def test_predicting_nothing_gives_nothing(learners):
    assert learners.model.predict(some_inputs(rows=0)).shape == (0,)


@pytest.mark.covers("audit-L8")
@pytest.mark.parametrize("rows", [1, 7, 100, 300])
def test_an_impression_has_the_same_bits_in_a_batch_of_any_size(learners, rows):
    """Fault L8: matrix products of other shapes sum in another order."""
    inputs = some_inputs(rows=300, seed=9)
    together = learners.model.predict(inputs)
    first = np.arange(rows)
    np.testing.assert_array_equal(learners.model.predict(inputs.take(first)), together[:rows])
    np.testing.assert_array_equal(
        learners.model.predict(inputs.take(first[::-1])), together[:rows][::-1]
    )


@pytest.mark.covers("audit-L10")
def test_the_events_that_admission_counts_are_a_field_s_keys():
    """Fault L10: the horizon was said to be in impressions."""
    fresh, inputs = ModelAndBaseline.new(RECIPE), some_inputs()
    inputs = replace(inputs, keys=inputs.keys + 1000 * np.arange(5))  # no key is of two fields
    fresh.train_step(fresh.prepare(inputs))
    fields = fresh.model.table.statistics().fields
    assert fields["user_id"].events == len(inputs) == 50
    assert fields["tags"].events == len(inputs.lists[0].values) != 50
    assert "the field's own keys" in " ".join(AdmissionSettings.__doc__.split())


def test_one_step_of_logistic_regression_by_hand():
    """Two impressions of one key, Adam's first step: weights move by the learning rate."""
    table = ElasticTable(
        {WIDE: SlabSpec(1, GroupAdam(learning_rate=0.1), 0.0)}, fields=FieldLayout.of(SCHEMA).keyed
    )
    learner = Learner(logistic_regression(SCHEMA), table, GroupAdam(learning_rate=0.2))
    inputs = Inputs(
        keys=np.full((2, 5), 7, np.int64),
        lists=(Ragged(np.array([8, 9], np.int64), np.array([0, 2, 2])),),
        dense=np.array([[2.0, 1.0], [-1.0, 1.0]], np.float32),
        cross=np.zeros((2, 0), np.float32),
        label=np.array([1, 1], np.float32),
    )
    loss = learner.train_step(learner.prepare(inputs))
    assert loss == pytest.approx(np.log(2))
    np.testing.assert_allclose(table.lookup(np.array([7, 8, 9]))[:, 0], [0.1, 0.1, 0.1], rtol=1e-5)
    np.testing.assert_allclose(learner.model.weights()["bias"], 0.2, rtol=1e-5)
    np.testing.assert_allclose(learner.model.weights()["wide/dense"], [0.2, 0.2], rtol=1e-5)


def some_repeated(rows, times, **changes):
    """The first impressions of `some_inputs`, each so many times."""
    return replace(some_inputs(rows).take(np.repeat(np.arange(rows), times)), **changes)


def learned_weights(inputs):
    """Dense weights of both learners after a step on these inputs and one on others."""
    learners = ModelAndBaseline.new(RECIPE)
    for part in (inputs, some_inputs(seed=8)):
        learners.train_step(learners.prepare(part))
    return {
        f"{n}/{k}": w
        for n in ("model", "baseline")
        for k, w in getattr(learners, n).model.weights().items()
    }


@pytest.mark.slow
def test_a_weight_counts_like_repeating_the_impression():
    """Weights 1, 2 and 3 in any unit, against one, two and three copies; only counts differ."""
    weighted = learned_weights(some_repeated(3, 1, weight=np.array([0.25, 0.5, 0.75])))
    repeated = learned_weights(some_repeated(3, [1, 2, 3]))
    for name, expected in repeated.items():
        np.testing.assert_allclose(weighted[name], expected, rtol=2e-4, atol=1e-6, err_msg=name)


def test_the_loss_is_taken_of_the_shifted_logit_and_weighted():
    """Nothing is learned yet, so a baseline's logit is 0: loss by hand."""
    shift, importance = np.log(5.0), np.array([0.5, 2.0], np.float32)
    inputs = replace(
        some_inputs(2),
        label=np.array([1, 0], np.float32),
        importance=importance,
        log_odds_shift=shift,
    )
    learner = ModelAndBaseline.new(RECIPE).baseline
    losses = [np.log1p(np.exp(-shift)), np.log1p(np.exp(shift))]
    assert learner.train_step(learner.prepare(inputs)) == pytest.approx(
        (0.5 * losses[0] + 2 * losses[1]) / 2, rel=1e-6
    )


def test_scoring_knows_no_weights_and_no_shift(learners):
    inputs = some_inputs(6)
    drawn = replace(
        inputs, weight=np.ones(6), importance=np.full(6, 9, np.float32), log_odds_shift=3.0
    )
    np.testing.assert_array_equal(learners.model.predict(drawn), learners.model.predict(inputs))


@pytest.mark.parametrize(
    ("weight", "importance", "expected"),
    [
        (None, None, [1, 1, 1]),
        ([2, 4, 6], None, [0.5, 1, 1.5]),
        (None, [0.5, 3, 2], [0.5, 3, 2]),
        ([2, 4, 6], [2, 1, 4], [1, 1, 6]),
        ([0, 0, 0], None, [0, 0, 0]),
        ([0, 0, 9], None, [0, 0, 3]),
        ([1e308, 1e308, 1e308], None, [1, 1, 1]),
        ([5e-324, 5e-324, 5e-324], None, [1, 1, 1]),
    ],
)
def test_loss_weights_by_hand(weight, importance, expected):
    inputs = replace(
        some_inputs(3),
        weight=None if weight is None else np.array(weight, np.float64),
        importance=None if importance is None else np.array(importance, np.float32),
    )
    np.testing.assert_allclose(inputs.loss_weights(), expected)
    assert inputs.loss_weights().dtype == np.float32


def test_no_impressions_have_no_loss_weights():
    assert replace(some_inputs(0), weight=np.zeros(0)).loss_weights().shape == (0,)


def test_learning_goes_on_from_disk_as_if_it_had_never_stopped(tmp_path):
    straight = ModelAndBaseline.new(RECIPE)
    learn(straight, 1, 2)
    straight.save(tmp_path)
    saved = Description(SCHEMA, MODEL, TRAINING, {}, (), 2)
    write_description(tmp_path, saved)
    resumed = ModelAndBaseline.from_checkpoint(RECIPE, tmp_path, saved)
    assert learn(resumed, 3, 4) == learn(straight, 3, 4)
    straight.save(tmp_path / "straight")
    resumed.save(tmp_path / "resumed")
    files = sorted(
        p.relative_to(tmp_path / "straight")
        for p in (tmp_path / "straight").rglob("*")
        if p.is_file()
    )
    assert len(files) > 10
    assert all(
        (tmp_path / "straight" / f).read_bytes() == (tmp_path / "resumed" / f).read_bytes()
        for f in files
    )


def test_a_checkpoint_without_its_baseline_is_refused(tmp_path):
    learners = ModelAndBaseline.new(RECIPE)
    learners.save(tmp_path)
    (tmp_path / "baseline" / "dense.npz").unlink()
    with pytest.raises(InputError, match="baseline"):
        ModelAndBaseline.from_checkpoint(
            RECIPE, tmp_path, Description(SCHEMA, MODEL, TRAINING, {}, (), 0)
        )


def test_segments_and_flat_keys_by_hand():
    inputs = Inputs(
        keys=np.array([[1, 2], [3, 4]], np.int64),
        lists=(
            Ragged(np.array([5, 6], np.int64), np.array([0, 0, 2])),
            Ragged(np.array([7], np.int64), np.array([0, 1, 1])),
        ),
        dense=np.zeros((2, 0), np.float32),
        cross=np.zeros((2, 0), np.float32),
        label=np.zeros(2, np.float32),
    )
    np.testing.assert_array_equal(inputs.flat_keys(), [1, 2, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(
        inputs.segments(), [2, 2, 1]
    )  # impression 1 of list 0 twice, impression 0 of list 1


def test_ahead_keeps_the_order_and_works_in_one_other_thread():
    threads = set()

    def square(number):
        threads.add(threading.get_ident())
        return number * number

    assert list(ahead(square, range(20))) == [n * n for n in range(20)]
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_ahead_hands_errors_on():
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda n: 1 // n, [2, 1, 0, 1]))


def test_ahead_of_nothing():
    assert list(ahead(str, [])) == []


@pytest.mark.parametrize("groups", [(), GROUPS])
def test_one_step_of_both_equals_a_step_of_each(groups):
    """One graph for model and baseline, against one each: the same bytes everywhere."""
    recipe = replace(RECIPE, model=MODEL.model_copy(update={"groups": groups}))
    together, apart = ModelAndBaseline.new(recipe), ModelAndBaseline.new(recipe)
    for seed in (1, 2, 3):
        inputs = some_inputs(seed=seed)
        loss = together.train_step(together.prepare(inputs))
        apart.baseline.train_step(apart.baseline.prepare(inputs))
        assert loss == apart.model.train_step(apart.model.prepare(inputs))
    for name in ("model", "baseline"):
        one, other = getattr(together, name), getattr(apart, name)
        for weight, values in one.model.weights().items():
            np.testing.assert_array_equal(values, other.model.weights()[weight], err_msg=weight)
        inputs = some_inputs(seed=3)
        rows, others = (
            learner.table.lookup_all(inputs.flat_keys(), inputs.flat_fields())
            for learner in (one, other)
        )
        for slab, vectors in rows.items():
            assert vectors.any()
            np.testing.assert_array_equal(vectors, others[slab], err_msg=slab)


def test_all_dense_weights_as_one_vector_learn_as_each_by_itself():
    """Three steps in the graph, against the optimizer's own update of every single weight."""
    model, optimizer = build_model(SCHEMA, MODEL), GroupAdam(learning_rate=0.05, l2=0.01, decay=0.1)
    learner = Learner(
        model,
        ElasticTable({WIDE: SlabSpec(1), DEEP: SlabSpec(4)}, fields=model.layout.keyed),
        optimizer,
    )
    variables, draw = model.variables_by_name(), np.random.default_rng(5)
    expected = {
        name: (tf.constant(v), {s: tf.zeros_like(v) for s in optimizer.slot_names})
        for name, v in variables.items()
    }
    apply = tf.function(learner.apply_dense, autograph=False)
    for step in (1, 2, 3):
        at = tf.constant(step, tf.int64)
        gradients = {
            name: tf.constant(draw.normal(size=v.shape), tf.float32)
            for name, v in variables.items()
        }
        apply(gradients, at)
        expected = {
            name: optimizer.update(*expected[name], gradients[name], at) for name in variables
        }
    for name, (weights, slots) in expected.items():
        np.testing.assert_allclose(variables[name], weights, rtol=1e-5, atol=1e-7, err_msg=name)
        for slot, state in slots.items():
            np.testing.assert_allclose(
                learner.slots[name][slot], state, rtol=1e-5, atol=1e-7, err_msg=f"{name} {slot}"
            )


@pytest.mark.parametrize("model", [MODEL, MODEL.model_copy(update={"groups": GROUPS})])
def test_the_gradient_of_pooling_is_the_tape_s(model):
    """Singles and lists, in one group and in several."""
    built, inputs = build_model(SCHEMA, model), some_inputs(rows=20)
    draw, layouts = np.random.default_rng(2), {group.name: group.layout for group in built.groups}
    counts = {
        n: 20 * len(g.singles) + len(inputs.lists[0].values) * len(g.lists)
        for n, g in layouts.items()
    }
    flat = {
        s: tf.constant(draw.normal(size=(counts[split_slab(s)[0]], w)), tf.float32)
        for s, w in built.slabs.items()
    }
    segments, batch = tf.constant(inputs.segments()), tf.constant(20)
    with tf.GradientTape() as tape:
        tape.watch(flat)
        pooled = pool_ragged(built, flat, segments, batch)
    upstream = {
        slab: tf.constant(draw.normal(size=vectors.shape), tf.float32)
        for slab, vectors in pooled.items()
    }
    expected = tape.gradient(pooled, flat, output_gradients=upstream)
    found = unpool_ragged(built, upstream, segments, batch)
    assert found.keys() == expected.keys()
    for slab, gradient in found.items():
        np.testing.assert_array_equal(gradient, tf.convert_to_tensor(expected[slab]), err_msg=slab)


def test_the_loss_and_its_gradient_are_those_of_the_log_loss():
    """Against float64, also of logits where the plain formula overflows."""
    logits, label = np.array([0.3, -2.0, 90.0, -90.0, 0.0]), np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    variable = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        losses = log_losses(tf.constant(label, tf.float32), variable)
    expected = np.logaddexp(0, logits) - label * logits
    np.testing.assert_allclose(losses[:, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(
        tape.gradient(losses, variable), 1 / (1 + np.exp(-logits)) - label, rtol=1e-6, atol=1e-30
    )


def test_members_of_a_fusion_have_a_loss_each():
    losses = log_losses(tf.constant([1.0, 0.0]), tf.constant([[0.0, 2.0], [0.0, 2.0]]))
    np.testing.assert_allclose(
        losses, [[np.log(2), np.log1p(np.exp(-2))], [np.log(2), np.log1p(np.exp(2))]], rtol=1e-6
    )
