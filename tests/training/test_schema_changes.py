"""A warm start under another schema: fields of both keep their weights, weight by weight."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from training_data import MODEL, SCHEMA, TRAINING, planted_day, write_impressions

from features.schema import Categorical, MultiValued, Numeric, Relation, Schema
from training.data.examples import read_examples
from training.evaluation.scoring import Scorer
from training.fit.checkpoints import Description, read_description, write_description
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.fit.trainer import TrainRequest, train_day
from training.models.ctr import CtrModel
from training.settings import OptimizerSettings

DIM = MODEL.dim


def with_fields(*fields):
    return Schema.model_validate(SCHEMA.model_dump() | {"fields": [f.model_dump() for f in fields]})


def kept_but(*names):
    return [f for f in SCHEMA.fields if f.name not in names]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A checkpoint whose every dense weight and slot is a random number, and what is in it."""
    folder = tmp_path_factory.mktemp("learned")
    learners = ModelAndBaseline.new(LearnerConfig(SCHEMA, MODEL, TRAINING, ()))
    draw = np.random.default_rng(0)
    for learner in (learners.model, learners.baseline):
        for name, variable in learner.model.variables_by_name().items():
            for state in (variable, *learner.slots[name].values()):
                # Second moments have no sign.
                state.assign(np.abs(draw.normal(size=variable.shape)).astype(np.float32))
    learners.save(folder)
    description = Description(SCHEMA, MODEL, TRAINING, {}, (), 0)
    write_description(folder, description)
    return folder, learners, description


def restored(learned, schema, model=MODEL, relations=()):
    folder, _, description = learned
    return ModelAndBaseline.from_checkpoint(
        LearnerConfig(schema, model, TRAINING, relations), folder, description
    )


def block(learner, name, state=None):
    """Rows of the first layer (or of one of its slots) that belong to an input."""
    start, rows = next(
        (s, r) for n, s, r in learner.model.blocks()["deep/0/kernel"].ranges if n == name
    )
    weights = (
        learner.slots["deep/0/kernel"][state].numpy()
        if state
        else learner.model.weights()["deep/0/kernel"]
    )
    return weights[start : start + rows]


@pytest.mark.covers("data-6")
@pytest.mark.parametrize("state", [None, "z", "m", "v"])
def test_weights_and_slots_of_the_fields_that_stay_are_kept(learned, state):
    after = restored(
        learned, with_fields(Categorical(name="new"), *reversed(kept_but("item_id", "tags")))
    )
    for name in ("field:user_id", "field:age", "field:hour", "field:user_age", "dense:price"):
        np.testing.assert_array_equal(
            block(after.model, name, state), block(learned[1].model, name, state)
        )


def test_slots_of_a_new_field_start_at_zero(learned):
    after = restored(
        learned, with_fields(Categorical(name="new"), Numeric(name="depth"), *SCHEMA.fields)
    )
    for state in ("z", "m", "v"):
        np.testing.assert_array_equal(block(after.model, "field:new", state), np.zeros((DIM, 16)))
        np.testing.assert_array_equal(block(after.model, "dense:depth", state), np.zeros((2, 16)))


def test_weights_of_a_new_field_are_those_of_a_new_model(learned):
    schema = with_fields(Categorical(name="new"), *SCHEMA.fields)
    fresh = CtrModel(schema, MODEL, seed=TRAINING.seed).weights()["deep/0/kernel"][:DIM]
    np.testing.assert_array_equal(block(restored(learned, schema).model, "field:new"), fresh)


def test_a_new_relation_starts_at_zero_and_leaves_the_rest(learned):
    after = restored(learned, SCHEMA, relations=(Relation(left="user_id", right="item_id"),))
    np.testing.assert_array_equal(block(after.model, "cross:user_id__item_id"), np.zeros((1, 16)))
    np.testing.assert_array_equal(
        block(after.model, "field:tags"), block(learned[1].model, "field:tags")
    )


def test_a_field_that_became_a_list_keeps_its_block(learned):
    fields = [MultiValued(name="item_id") if f.name == "item_id" else f for f in SCHEMA.fields]
    after = restored(learned, with_fields(*fields))
    np.testing.assert_array_equal(
        block(after.model, "field:item_id"), block(learned[1].model, "field:item_id")
    )


def test_the_later_layers_and_the_baseline_are_kept(learned):
    after = restored(learned, with_fields(*kept_but("tags")))
    for name in ("deep/1/kernel", "deep/0/bias", "deep/out", "bias"):
        np.testing.assert_array_equal(
            after.model.model.weights()[name], learned[1].model.model.weights()[name]
        )
    for name, weight in learned[1].baseline.model.weights().items():
        np.testing.assert_array_equal(after.baseline.model.weights()[name], weight)


@pytest.mark.parametrize("factor", [0.5, 1.0, 4.0])
def test_a_changed_learning_rate_restates_the_dual_sums_only(learned, factor):
    rate = MODEL.dense.learning_rate * factor
    after = restored(
        learned, SCHEMA, MODEL.model_copy(update={"dense": OptimizerSettings(learning_rate=rate)})
    )
    before = learned[1].model
    # Without penalties, the dual sum of x is -(√v + ε) x / rate.
    curvature = (np.sqrt(block(before, "field:tags", "v")) + before.optimizer.epsilon) / rate
    expected = -curvature * block(before, "field:tags")
    if factor != 1:
        np.testing.assert_allclose(block(after.model, "field:tags", "z"), expected, rtol=1e-6)
    np.testing.assert_array_equal(
        block(after.model, "field:tags", "m"), block(before, "field:tags", "m")
    )
    np.testing.assert_array_equal(block(after.model, "field:tags"), block(before, "field:tags"))


@pytest.mark.covers("audit-H2")
@pytest.mark.parametrize(("old", "new"), [("adam", "amsgrad"), ("amsgrad", "adam")])
def test_dense_weights_stay_when_the_optimizer_changes(tmp_path, old, new):
    """Fault H2: the state of another rule doubled every dense weight in one step."""
    day = planted_day(tmp_path / "day", 0, rows=400)
    rule = OptimizerSettings(kind=old, beta_1=0.0)
    model = MODEL.model_copy(update={"dense": rule})
    train_day(TrainRequest(SCHEMA, model, TRAINING, (), day), tmp_path / "checkpoint")
    saved = read_description(tmp_path / "checkpoint")
    changed = MODEL.model_copy(update={"dense": rule.model_copy(update={"kind": new})})
    config = LearnerConfig(SCHEMA, changed, TRAINING, ())
    learner = ModelAndBaseline.from_checkpoint(config, tmp_path / "checkpoint", saved).model
    before = learner.model.weights()
    zero = {name: tf.zeros_like(value) for name, value in before.items()}
    learner.apply_dense(zero, tf.constant(saved.step + 1, tf.int64))
    for name, value in learner.model.weights().items():
        np.testing.assert_allclose(value, before[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_rows_of_a_removed_field_come_back_with_it(tmp_path):
    """Rows are kept by key: a field that was away for a day finds what it had learned."""
    days = [planted_day(tmp_path / str(day), day, rows=400) for day in range(3)]
    request = TrainRequest(SCHEMA, MODEL, TRAINING, (), days[0])
    train_day(request, tmp_path / "first")
    without = replace(
        request,
        schema=with_fields(*kept_but("item_id")),
        partition=days[1],
        previous_checkpoint=tmp_path / "first",
    )
    train_day(without, tmp_path / "second")
    keys = read_examples(days[0], SCHEMA).keys[:50, 1]  # of item_id
    first, second = (
        ModelAndBaseline.new(LearnerConfig(SCHEMA, MODEL, TRAINING, ())).model.table.restore(
            tmp_path / n / "table"
        )
        for n in ("first", "second")
    )
    assert np.abs(first.lookup(keys, "wide")).max() > 0
    np.testing.assert_array_equal(second.lookup(keys, "deep"), first.lookup(keys, "deep"))


@pytest.mark.slow
def test_numbers_that_cannot_be_read_do_no_harm(tmp_path):
    """inf, nan, words and absurdly large numbers in a numeric field leave a finite model."""
    awkward = ["inf", "-inf", "nan", "1e308", "-1e308", "1e999", "", "seven", "0x10", "5"]
    rows = 200
    columns = {
        name: [str(i % 7) for i in range(rows)] for name in ("user_id", "item_id", "age", "hour")
    }
    columns |= {
        "tags": [[]] * rows,
        "label": [i % 2 for i in range(rows)],
        "price": [awkward[i % 10] for i in range(rows)],
    }
    day = write_impressions(tmp_path / "day", columns)
    schema = with_fields(*kept_but("price"), Numeric(name="price"))
    train_day(TrainRequest(schema, MODEL, TRAINING, (), day), tmp_path / "out")
    assert np.isfinite(Scorer.load(tmp_path / "out").score(read_examples(day, schema))).all()
