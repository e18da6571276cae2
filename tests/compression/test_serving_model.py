"""The served model piece by piece, and whole for schemas that leave one kind of field out."""

import numpy as np
import numpy_reference
import pytest
import tensorflow as tf
from awkward_day import MODEL, RELATIONS, SCHEMA, draw_columns, write_partition
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.export.requests import StackedRequest, input_specs, single_names, stacked_specs
from compression.export.rows import RowIndex
from compression.export.served_model import NodeEncoder, RelationEncoder, ServingModel
from compression.model import CompactModel
from features.errors import InputError
from features.schema import Schema
from training.data.examples import read_examples
from training.data.scalers import Scaler
from training.fit.checkpoints import Description, TrainedModel
from training.models.ctr import CtrModel
from training.models.encoding_inputs import Encoding, sorted_nodes
from training.settings import TrainingSettings

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(INT64, unique=True, max_size=40), st.lists(INT64, max_size=20))
@settings(deadline=None)
def test_any_int64_is_a_key_and_an_unknown_one_has_row_zero(keys, others):
    index = RowIndex(np.array(keys, np.int64))
    rows = {key: row for row, key in enumerate(keys, start=1)}
    asked = [*keys, *others, 0, -1, -(2**63)]
    assert index(tf.constant(asked, tf.int64)).numpy().tolist() == [
        rows.get(key, 0) for key in asked
    ]


def test_a_known_node_gives_its_vector_and_bias_an_unknown_one_zeros():
    nodes = sorted_nodes(
        np.array([9, -4]), np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([0.5, 0.25])
    )
    encoded = NodeEncoder(nodes)(tf.constant([9, 7, -4], tf.int64)).numpy()
    assert encoded.tolist() == [[1.0, 2.0, 0.5], [0.0, 0.0, 0.0], [3.0, 4.0, 0.25]]


def test_a_relation_is_mean_plus_biases_plus_dot_product():
    left = sorted_nodes(np.array([1]), np.array([[2.0, 3.0]]), np.array([0.5]))
    right = sorted_nodes(np.array([1]), np.array([[5.0, -1.0]]), np.array([0.25]))
    relation = RelationEncoder(Encoding(left, right, -1.0))
    p_uv = relation(tf.constant([1, 1, 8], tf.int64), tf.constant([1, 8, 8], tf.int64)).numpy()
    assert p_uv.tolist() == [-1.0 + 0.5 + 0.25 + 7.0, -1.0 + 0.5, -1.0]


def test_an_encoding_without_nodes_gives_the_mean():
    nothing = sorted_nodes(np.empty(0, np.int64), np.empty((0, 3)), np.empty(0))
    assert RelationEncoder(Encoding(nothing, nothing, 0.75))(
        tf.constant([3], tf.int64), tf.constant([4], tf.int64)
    ).numpy() == [0.75]


def test_inputs_are_the_fields_that_read_a_column():
    specs = input_specs(SCHEMA)
    assert list(specs) == [f.name for f in SCHEMA.column_fields()]
    assert "user_x_hour" not in specs
    assert {
        name: spec.shape.rank for name, spec in specs.items() if name in ("tags", "brands", "price")
    } == {"tags": 2, "brands": 2, "price": 1}
    assert all(spec.name == name for name, spec in specs.items())


def test_the_tensor_of_all_single_values_has_a_name_of_its_own():
    values, lists = stacked_specs(SCHEMA)
    singles = [f.name for f in SCHEMA.column_fields() if f.name not in ("tags", "brands")]
    assert (values.name, values.shape.as_list(), set(lists)) == (
        "values",
        [None, len(singles)],
        {"tags", "brands"},
    )
    assert single_names(SCHEMA) == tuple(singles)
    fields = [
        {"kind": "categorical", "name": "u"},
        {"kind": "multi_valued", "name": "values", "column": "tags"},
    ]
    clashing = Schema.model_validate(
        SCHEMA.model_dump() | {"user": "u", "item": "u", "fields": fields}
    )
    assert stacked_specs(clashing)[0].name == "values_"


KINDS = {
    "only one categorical": ["user_id"],
    "only a list": ["tags"],
    "only lists": ["tags", "brands"],
    "lists first, in another order": ["brands", "tags", "user_id"],
    "a shared vocabulary": ["first_tag", "tags"],
    "no list": ["user_id", "price", "age", "hour"],
    "no dense number": ["user_id", "tags", "rank"],
    "only times": ["hour", "week_hour"],
    "a bucketed number alone": ["rank"],
    "a cross of its parts": ["user_id", "hour", "user_x_hour"],
}


def trained_model(schema, examples, relations=(), encodings=None):
    """A model of random weights whose table knows two thirds of the day's keys."""
    draw = np.random.default_rng(1)
    dense = {
        n: (w + draw.normal(0, 0.3, w.shape)).astype(np.float32)
        for n, w in CtrModel(schema, MODEL, relations).weights().items()
    }
    keys = np.unique(
        np.concatenate([examples.keys.ravel(), *(values.values for values in examples.lists)])
    )
    keys = keys[np.arange(len(keys)) % 3 > 0]
    vectors = {
        name: draw.normal(0, 0.5, (len(keys), width)).astype(np.float32)
        for name, width in (("wide", 1), ("deep", MODEL.dim))
    }
    scalers = {field.name: Scaler(0.5, 2.0) for field in schema.dense_fields()}
    about = Description(schema, MODEL, TrainingSettings(), scalers, relations, step=1)
    return TrainedModel(about, dense, keys, vectors, encodings or {})


def with_fields(names):
    """The awkward schema, cut down to these fields in this order."""
    by_name = {f.name: f.model_dump() for f in SCHEMA.fields}
    return Schema.model_validate(
        SCHEMA.model_dump() | {"fields": [by_name[name] for name in names]}
    )


def tensors(schema, columns):
    specs = input_specs(schema)
    return {
        name: tf.ragged.constant(columns[name], dtype=tf.string).to_tensor("")
        if specs[name].shape.rank == 2
        else tf.constant(columns[name])
        for name in specs
    }


@pytest.mark.parametrize("names", KINDS.values(), ids=KINDS.keys())
def test_schemas_of_every_make_agree_with_the_reference(names, tmp_path):
    schema, columns = with_fields(names), draw_columns(50, seed=7)
    examples = read_examples(write_partition(tmp_path / "day", columns), schema)
    trained = trained_model(schema, examples)
    model, given = ServingModel(CompactModel.of(trained)), tensors(schema, columns)
    served = model.probability(given).numpy()
    assert served.dtype == np.float32
    if singles := single_names(schema):
        together = StackedRequest(
            tf.stack([given[name] for name in singles], axis=1), singles, given
        )
        np.testing.assert_array_equal(model.probability_of(together).numpy(), served)
    np.testing.assert_allclose(
        served, numpy_reference.probabilities_of(trained, examples), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("names", KINDS.values(), ids=KINDS.keys())
def test_an_empty_batch_of_every_make(names, tmp_path):
    schema = with_fields(names)
    examples = read_examples(write_partition(tmp_path / "day", draw_columns(9, seed=7)), schema)
    empty = {
        name: tf.zeros([0] * spec.shape.rank, tf.string)
        for name, spec in input_specs(schema).items()
    }
    assert ServingModel(CompactModel.of(trained_model(schema, examples))).probability(
        empty
    ).shape == (0,)


def test_a_relation_without_encodings_gives_zeros_and_one_with_them_gives_p_uv(tmp_path):
    columns = draw_columns(40, seed=2)
    examples = read_examples(write_partition(tmp_path / "day", columns), SCHEMA, RELATIONS)
    nodes = [
        sorted_nodes(k := np.unique(side), np.ones((len(k), 2)), np.full(len(k), 0.5))
        for side in examples.pairs[:, 0].T
    ]
    without = trained_model(SCHEMA, examples, RELATIONS)
    using = trained_model(
        SCHEMA, examples, RELATIONS, {RELATIONS[0].name: Encoding(*nodes, mean=-2.0)}
    )
    first, second = (
        ServingModel(CompactModel.of(model)).probability(tensors(SCHEMA, columns)).numpy()
        for model in (without, using)
    )
    np.testing.assert_allclose(
        first, numpy_reference.probabilities_of(without, examples), rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(
        second, numpy_reference.probabilities_of(using, examples), rtol=0, atol=1e-6
    )
    assert np.abs(first - second).max() > 1e-3


def test_weights_of_another_schema_are_refused(tmp_path):
    examples = read_examples(
        write_partition(tmp_path / "day", draw_columns(9, seed=7)), with_fields(["user_id"])
    )
    narrow = trained_model(with_fields(["user_id"]), examples)
    wider = Description(with_fields(["user_id", "tags"]), MODEL, TrainingSettings(), {}, (), step=1)
    with pytest.raises(InputError, match="do not fit"):
        ServingModel(
            CompactModel.of(TrainedModel(wider, narrow.dense, narrow.keys, narrow.vectors, {}))
        )
