"""The Keras layer: shapes, fields, widths, dtypes, configuration; a lookup changes nothing."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_cases import batches, click_model, clicks, elastic, vectors

from elastic_embeddings.admission.policies import ByField, CountAdmission, PoissonAdmission
from elastic_embeddings.admission.rate_models import GammaPrior, PlugInRate
from elastic_embeddings.eviction import Eviction, Idle, LeastFrequent
from elastic_embeddings.layers.frozen import FrozenEmbedding
from elastic_embeddings.layers.layer import ElasticEmbedding
from elastic_embeddings.optimizers.rules import GroupAdagrad, GroupAdam
from elastic_embeddings.storage.header import from_plain
from features.errors import InputError

KEYS = np.array([[7, -7], [7, 2**62]])


def _learned(layer: ElasticEmbedding, inputs: Any) -> Any:
    """Give the inputs' keys rows by one training step; return the layer's output for them."""
    with tf.GradientTape() as tape:
        outputs = layer(inputs, training=True)
        loss = tf.add_n([tf.reduce_sum(part) for part in tf.nest.flatten(outputs)])
    tape.gradient(loss, layer.trainable_weights)
    return layer(inputs)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_symbolic_shapes_are_those_of_the_keras_embedding(shape: tuple[int, ...]) -> None:
    inputs = keras.Input(shape, dtype="int64")
    stock, ours = keras.layers.Embedding(10, 4)(inputs), ElasticEmbedding(4)(inputs)
    assert (ours.shape, ours.dtype) == (stock.shape, stock.dtype)


def test_it_gives_the_vectors_of_its_table() -> None:
    layer = ElasticEmbedding(4)
    found = _learned(layer, tf.constant(KEYS))
    np.testing.assert_array_equal(found, layer.table.lookup(KEYS.reshape(-1)).reshape(2, 2, 4))
    assert sorted(layer.table.keys().tolist()) == [-7, 7, 2**62]
    assert np.any(found != 0)


def test_looking_up_inserts_nothing_and_unknown_keys_are_zero() -> None:
    layer = ElasticEmbedding(4)
    assert not np.any(layer(tf.constant(KEYS)))
    assert layer.table.keys_seen == 0
    _learned(layer, tf.constant(KEYS))
    assert not np.any(layer(tf.constant([99])))
    assert (layer.table.keys_seen, layer.table.step) == (3, 1)


def test_a_layer_that_is_not_trainable_only_looks_up() -> None:
    model = click_model(ElasticEmbedding(4))
    elastic(model).trainable = False
    model.compile("adam", "mse")
    model.fit(batches(), verbose=0)
    assert (elastic(model).table.keys_seen, elastic(model).table.step) == (0, 0)


def test_evaluating_and_predicting_change_nothing() -> None:
    model = click_model(ElasticEmbedding(4))
    model.fit(batches(), verbose=0)
    before = vectors(elastic(model).table)
    other = clicks(64, seed=9)
    model.evaluate(*other, verbose=0)
    model.predict(other[0] + 10**6, verbose=0)
    assert vectors(elastic(model).table) == before


def test_unadmitted_keys_are_zero_and_do_not_learn() -> None:
    layer = ElasticEmbedding(2, admission=CountAdmission(2))
    found = _learned(layer, tf.constant([5, 5, 6]))
    assert np.all(found[0] != 0)
    assert not np.any(found[2])
    assert (len(layer.table), layer.table.keys_seen) == (1, 2)


def test_keys_without_a_row_read_the_fallback_and_padding_reads_zeros() -> None:
    layer = ElasticEmbedding(2, fallback=0.5, padding=-1)
    np.testing.assert_array_equal(layer(np.array([[7, -1]])), [[[0.5, 0.5], [0.0, 0.0]]])
    again = ElasticEmbedding.from_config(layer.get_config())
    np.testing.assert_array_equal(again(np.array([[7]])), [[[0.5, 0.5]]])
    np.testing.assert_array_equal(FrozenEmbedding.of(layer)(np.array([[7]])), [[[0.5, 0.5]]])


@pytest.mark.parametrize(("combiner", "divisor"), [("sum", 1), ("mean", 3), ("sqrtn", 3**0.5)])
def test_pooling_counts_every_present_value_admitted_or_not(combiner: str, divisor: float) -> None:
    layer = ElasticEmbedding(2, admission=CountAdmission(2), combiner=combiner)
    found = _learned(layer, tf.constant([[5, 5, 6]]))
    np.testing.assert_allclose(
        found[0], layer.table.lookup(np.array([5]))[0] * 2 / divisor, rtol=1e-6
    )


def test_fields_share_the_table_with_keys_and_policies_of_their_own() -> None:
    policy = ByField({"item": CountAdmission(2)}, otherwise=CountAdmission(1))
    layer = ElasticEmbedding(2, admission=policy, combiner="sum")
    inputs = {
        "user": tf.constant([1, 2]),
        "item": tf.constant([1, 2]),
        "tags": tf.ragged.constant([[1], []], dtype=tf.int64),
    }
    found = _learned(layer, inputs)
    assert sorted(found) == ["item", "tags", "user"]
    assert layer.table.fields == ("item", "tags", "user")
    assert not np.any(found["item"])
    assert np.all(found["user"] != 0)
    assert not np.array_equal(found["user"][0], found["tags"][0])
    assert (len(layer.table), layer.table.keys_seen, layer.table.step) == (3, 5, 1)


def test_fields_of_one_vocabulary_have_the_same_vectors() -> None:
    layer = ElasticEmbedding(2, share={"home": "city", "work": "city"})
    found = _learned(layer, {"home": tf.constant([4]), "work": tf.constant([4])})
    np.testing.assert_array_equal(found["home"], found["work"])
    assert len(layer.table) == 1


def test_several_widths_come_from_one_index_pass() -> None:
    layer = ElasticEmbedding(
        {"deep": 4, "wide": 1},
        optimizer={"deep": GroupAdam(0.1), "wide": GroupAdam(0.2)},
        init_scale=0.1,
    )
    found = _learned(layer, {"a": tf.constant([1, 2]), "b": tf.constant([3, 3])})
    assert {
        name: {field: tuple(part.shape) for field, part in by.items()} for name, by in found.items()
    } == {"deep": {"a": (2, 4), "b": (2, 4)}, "wide": {"a": (2, 1), "b": (2, 1)}}
    assert (len(layer.table), layer.table.step) == (3, 1)


def test_several_widths_and_fields_work_in_a_functional_model() -> None:
    inputs = {name: keras.Input((), dtype="int64", name=name) for name in ("user", "item")}
    parts = ElasticEmbedding({"deep": 4, "wide": 1})(inputs)
    model = keras.Model(
        inputs, keras.layers.Concatenate()([*parts["deep"].values(), *parts["wide"].values()])
    )
    assert model.output_shape == (None, 10)
    assert model({"user": tf.constant([1]), "item": tf.constant([2])}).shape == (1, 10)


def test_ragged_inputs_work_in_a_functional_model() -> None:
    inputs = keras.Input((None,), dtype="int64", ragged=True)
    model = keras.Model(inputs, ElasticEmbedding(3, combiner="mean")(inputs))
    assert model.output_shape == (None, 3)
    assert model(tf.ragged.constant([[1, 2], []], dtype=tf.int64)).shape == (2, 3)


def test_padding_passes_the_keras_mask_on() -> None:
    layer = ElasticEmbedding(3, padding=0)
    model = keras.Sequential(
        [keras.Input((2,), dtype="int64"), layer, keras.layers.GlobalAveragePooling1D()]
    )
    one, two = _learned(layer, tf.constant([[4, 0], [4, 5]]))
    assert layer.table.keys_seen == 2
    np.testing.assert_allclose(
        model(tf.constant([[4, 0], [4, 5]])), [one[0], (two[0] + two[1]) / 2], rtol=1e-6
    )


@pytest.mark.parametrize("combiner", [None, "sum", "mean", "sqrtn"])
def test_mixed_bfloat16_computes_in_bfloat16_over_float32_rows(combiner: str | None) -> None:
    layer = ElasticEmbedding(2, combiner=combiner, dtype="mixed_bfloat16")
    # Sums of float32 sizes and bfloat16 vectors raised a TypeError.
    keys = tf.ragged.constant([[1, 2], [3]]) if combiner else tf.constant([1])
    assert _learned(layer, keys).dtype == tf.bfloat16
    assert layer(keras.Input((), dtype="int64")).dtype == "bfloat16"
    assert layer.table.lookup(np.array([1])).dtype == np.float32


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rows_may_be_stored_in_16_bits(dtype: str) -> None:
    layer = ElasticEmbedding(2, optimizer=GroupAdagrad(0.1), dtype=dtype)
    found = _learned(layer, tf.constant([1, 2]))
    assert found.dtype == tf.float32
    np.testing.assert_array_equal(found, tf.cast(tf.cast(found, dtype), tf.float32))
    assert layer.slabs["vectors"].dtype == dtype


def test_loss_scaling_is_refused() -> None:
    with pytest.raises(InputError, match="scales losses"):
        ElasticEmbedding(2, dtype="mixed_float16")
    layer = ElasticEmbedding(2, dtype="float32")
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with pytest.raises(InputError, match="scales losses"):
            layer(tf.constant([1]), training=True)
    finally:
        keras.config.set_dtype_policy("float32")


def test_other_fields_than_it_was_built_for_are_refused() -> None:
    layer = ElasticEmbedding(2)
    layer({"a": tf.constant([1])})
    with pytest.raises(InputError, match=r"built for the fields \['a'\]"):
        layer({"a": tf.constant([1]), "b": tf.constant([1])})


def test_floats_are_refused_where_the_model_is_made() -> None:
    with pytest.raises(InputError, match="dtype='int64'"):
        ElasticEmbedding(2)(keras.Input((3,)))


@pytest.mark.parametrize(
    ("argument", "hint"),
    [({"optimizer": {"deep": GroupAdam()}}, "wide"), ({"combiner": "max"}, "mean")],
)
def test_arguments_that_do_not_fit_are_refused(argument: dict[str, Any], hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        ElasticEmbedding({"deep": 2, "wide": 1}, **argument)


def test_the_table_is_no_keras_weight() -> None:
    layer = ElasticEmbedding(4)
    _learned(layer, tf.constant(KEYS))
    assert [weight.shape for weight in layer.weights] == [()]


def test_a_configuration_becomes_the_same_layer_again() -> None:
    layer = ElasticEmbedding(
        {"deep": 4, "wide": 1},
        optimizer={"deep": GroupAdam(0.1, l21=0.2), "wide": GroupAdam(0.3)},
        admission=ByField(
            {"user": PoissonAdmission(5, prior=GammaPrior(0.3, 50.0), until=1000)},
            otherwise=CountAdmission(3),
        ),
        eviction=Eviction((Idle(days=3), LeastFrequent(10)), every=7),
        combiner="sqrtn",
        padding=-1,
        share={"a": "b"},
        init_scale=0.2,
        seed=11,
        name="ids",
        dtype="mixed_bfloat16",
    )
    config = json.loads(json.dumps(layer.get_config()))
    again = ElasticEmbedding.from_config(config)
    assert again.arguments == layer.arguments
    assert again.get_config() == layer.get_config()
    assert (again.name, again.dtype_policy.name) == ("ids", "mixed_bfloat16")


def test_a_policy_that_was_renamed_is_read_under_its_old_name() -> None:
    assert from_plain({"kind": "PlugIn"}) == PlugInRate()
