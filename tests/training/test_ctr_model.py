"""Wide & Deep against a NumPy reference, its weights, and their transfer to another schema."""

import numpy as np
import pytest
import tensorflow as tf

from features.errors import InputError
from features.schema import Categorical, Cross, MultiValued, Numeric, Relation, Schema, Timestamp
from training.data.layout import FieldLayout, ModelSpec
from training.models.ctr import DEEP, WIDE, CtrModel
from training.models.weight_transfer import Blocks, carry_over
from training.settings import ModelSettings

SETTINGS = ModelSettings(dim=3, hidden=(5, 4))
RELATIONS = (Relation(left="a", right="b"),)


def schema(*fields):
    return Schema(label="y", user="u", item="i", timestamp=Timestamp(column="t"), fields=fields)


SCHEMA = schema(
    Categorical(name="a"),
    MultiValued(name="tags"),
    Numeric(name="x"),
    Categorical(name="b"),
    Cross(name="ab", of=("a", "b")),
)


def inputs(batch=6, fields=4, dim=3, numbers=1, relations=1, seed=0):
    draw = np.random.default_rng(seed)
    return [
        draw.normal(size=shape).astype(np.float32)
        for shape in [
            (batch, fields),
            (batch, fields, dim),
            (batch, 2 * numbers),
            (batch, relations),
        ]
    ]


def logits(model, wide, deep, dense, cross, seed=None):
    """The model's logits as an array, of inputs as `inputs` makes them."""
    vectors = {WIDE: tf.constant(wide[..., None]), DEEP: tf.constant(deep)}
    drawn = None if seed is None else tf.constant(seed, tf.int64)
    return model.forward(vectors, tf.constant(dense), tf.constant(cross), drawn).numpy()


def numpy_logits(weights, wide, deep, dense, cross):
    hidden = np.concatenate([deep.reshape(len(deep), -1), dense, cross], axis=1)
    for layer in ("0", "1"):
        hidden = np.maximum(
            hidden @ weights[f"deep/{layer}/kernel"] + weights[f"deep/{layer}/bias"], 0
        )
    return (
        weights["bias"]
        + wide.sum(axis=1)
        + dense @ weights["wide/dense"]
        + hidden @ weights["deep/out"]
    )


def random_weights(model, seed=1):
    draw = np.random.default_rng(seed)
    return {
        name: draw.normal(size=w.shape).astype(np.float32) for name, w in model.weights().items()
    }


def test_logits_equal_a_numpy_reference():
    model = CtrModel(SCHEMA, SETTINGS, RELATIONS)
    weights = random_weights(model)
    model.load(weights)
    np.testing.assert_allclose(
        logits(model, *inputs()), numpy_logits(weights, *inputs()), rtol=1e-5, atol=1e-5
    )


def test_an_empty_batch_has_no_logits():
    assert logits(CtrModel(SCHEMA, SETTINGS, RELATIONS), *inputs(batch=0)).shape == (0,)


def test_the_layout_lists_single_fields_then_lists():
    layout = CtrModel(SCHEMA, SETTINGS, RELATIONS).layout
    assert (layout.keyed, layout.dense, layout.relations) == (
        ("a", "b", "ab", "tags"),
        ("x",),
        ("a__b",),
    )


def test_weights_are_a_function_of_the_seed():
    one, same, other = (CtrModel(SCHEMA, SETTINGS, RELATIONS, seed=s).weights() for s in (3, 3, 4))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["deep/0/kernel"], other["deep/0/kernel"])


def test_a_relation_changes_nothing_until_it_is_learned():
    model = CtrModel(SCHEMA, SETTINGS, RELATIONS)
    wide, deep, dense, cross = inputs()
    np.testing.assert_array_equal(
        logits(model, wide, deep, dense, cross), logits(model, wide, deep, dense, 100 * cross)
    )


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_weights_that_do_not_fit_are_refused(change):
    model = CtrModel(SCHEMA, SETTINGS, RELATIONS)
    weights = model.weights()
    if change == "missing":
        del weights["bias"]
    elif change == "unknown":
        weights["surprise"] = np.zeros(1, np.float32)
    else:
        weights["deep/out"] = np.zeros(9, np.float32)
    with pytest.raises(InputError, match="do not fit"):
        model.load(weights)


def test_dropout_acts_only_with_a_seed_and_is_a_function_of_it():
    model = CtrModel(SCHEMA, ModelSettings(dim=3, hidden=(64, 64), dropout=0.5), RELATIONS)
    plain = logits(model, *inputs())
    dropped, again = (logits(model, *inputs(), seed=[1, 2]) for _ in range(2))
    np.testing.assert_array_equal(dropped, again)
    assert not np.allclose(plain, dropped)


def test_a_relation_of_an_unknown_field_is_refused():
    with pytest.raises(InputError, match="nowhere"):
        CtrModel(SCHEMA, SETTINGS, (Relation(left="a", right="nowhere"),))


def test_a_relation_of_a_multi_valued_field_is_refused():
    with pytest.raises(InputError, match="tags"):
        CtrModel(SCHEMA, SETTINGS, (Relation(left="a", right="tags"),))


def test_a_removed_and_an_added_field_leave_the_other_fields_rows_in_place():
    before = CtrModel(SCHEMA, SETTINGS, RELATIONS)
    after = CtrModel(
        schema(
            Categorical(name="new"), Categorical(name="b"), Numeric(name="x"), Numeric(name="z")
        ),
        SETTINGS,
        seed=9,
    )
    learned, fresh = random_weights(before), after.weights()
    carried = carry_over(learned, fresh, before.blocks(), after.blocks())
    kernel, old = carried["deep/0/kernel"], learned["deep/0/kernel"]
    np.testing.assert_array_equal(kernel[0:3], fresh["deep/0/kernel"][0:3])  # new
    np.testing.assert_array_equal(kernel[3:6], old[3:6])  # b: second before, second now
    np.testing.assert_array_equal(kernel[6:8], old[12:14])  # x: after four fields of width 3
    np.testing.assert_array_equal(kernel[8:10], fresh["deep/0/kernel"][8:10])  # z
    np.testing.assert_array_equal(carried["wide/dense"], [*learned["wide/dense"], 0, 0])
    np.testing.assert_array_equal(carried["deep/1/kernel"], learned["deep/1/kernel"])


def test_layers_of_another_width_start_anew():
    before, after = (
        CtrModel(SCHEMA, ModelSettings(dim=3, hidden=hidden), seed=hidden[0])
        for hidden in ((5, 4), (6, 4))
    )
    carried = carry_over(before.weights(), after.weights(), before.blocks(), after.blocks())
    assert {n: w.shape for n, w in carried.items()} == {
        n: w.shape for n, w in after.weights().items()
    }
    np.testing.assert_array_equal(carried["deep/0/kernel"], after.weights()["deep/0/kernel"])
    np.testing.assert_array_equal(carried["deep/out"], before.weights()["deep/out"])


def test_blocks_lie_one_after_the_other():
    blocks = Blocks.of([("a", 3), ("b", 0), ("c", 2)])
    assert blocks.ranges == (("a", 0, 3), ("b", 3, 0), ("c", 3, 2))
    assert blocks.size == 5


def test_the_description_of_a_model_computes_its_layout_once():
    model = CtrModel(SCHEMA, SETTINGS, RELATIONS)
    assert model.spec == ModelSpec(SCHEMA, SETTINGS, tuple(RELATIONS))
    assert model.spec.layout is model.layout
    assert model.layout == FieldLayout.of(SCHEMA, RELATIONS)
    assert tuple(model.groups) == model.spec.groups
