"""A damaged export is named, and a bad request gets an error or the documented default."""

import shutil

import numpy as np
import pytest
import tensorflow as tf
from awkward_day import SCHEMA, draw_columns

from features.errors import UnsoundError
from validation.model.requests import RawRequests
from validation.serving.measure import serve


@pytest.fixture
def copied(exported, tmp_path):
    return shutil.copytree(exported[0] / "saved_model", tmp_path / "saved_model")


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported[0] / "saved_model"))


def asked(rows=3):
    return RawRequests.of(SCHEMA, draw_columns(rows, seed=2))


def truncated(folder):
    (data,) = (folder / "variables").glob("variables.data*")
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def garbled(folder):
    (folder / "saved_model.pb").write_bytes(b"\x00garbage" * 100)


def without_tables(folder):
    (folder / "variables" / "variables.index").unlink()


def without_graph(folder):
    (folder / "saved_model.pb").unlink()


@pytest.mark.parametrize("damage", [truncated, garbled, without_tables, without_graph])
def test_a_damaged_export_is_unsound_and_named(copied, damage, warm_python):
    damage(copied)
    with pytest.raises(
        UnsoundError, match=r"saved_model: the exported model cannot be served; export it again"
    ):
        serve(copied, asked(), (4,), python=warm_python)


def strings(columns):
    def tensor(values):
        lists = isinstance(values[0], list)
        return (
            tf.ragged.constant(values, dtype=tf.string, ragged_rank=1).to_tensor("")
            if lists
            else tf.constant(values)
        )

    return {name: tensor(values) for name, values in columns.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user_id", tf.constant([1, 2, 3])),
        ("price", tf.constant([1.0, 2.0, 3.0])),
        ("user_id", tf.constant([["a"], ["b"], ["c"]])),
        ("user_id", tf.constant(["a", "b"])),
    ],
    ids=["integers", "floats", "a list where one value goes", "one request fewer"],
)
def test_a_request_of_another_dtype_or_shape_gets_an_error(loaded, name, value):
    good = strings(draw_columns(3, seed=4))
    with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError)):
        loaded.signatures["serving_default"](**(good | {name: value}))


@pytest.mark.parametrize("rows", [1, 2, 4, 6])
def test_a_list_of_more_or_fewer_requests_than_the_others_is_refused(loaded, rows):
    """Else the requests at the end would get an answer as if they had no such values."""
    good, other = strings(draw_columns(3, seed=4)), strings(draw_columns(rows, seed=5))
    with pytest.raises(tf.errors.InvalidArgumentError, match="as many requests"):
        loaded.signatures["serving_default"](**(good | {"tags": other["tags"]}))


def test_one_value_where_a_list_goes_is_a_list_of_one(loaded):
    good = strings(draw_columns(3, seed=4))
    flat, listed = tf.constant(["red", "rot", "0"]), tf.constant([["red"], ["rot"], ["0"]])
    answers = [
        loaded.signatures["serving_default"](**(good | {"tags": tags}))["probability"].numpy()
        for tags in (flat, listed)
    ]
    np.testing.assert_array_equal(*answers)


STRANGE = [
    "",
    "never seen",
    "NaN",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "\x00",
    "🦊",
    "None",
    " ",
    "0x10",
    "9" * 400,
]


def test_strange_values_get_a_probability(loaded):
    columns = draw_columns(len(STRANGE), seed=4)
    columns = {
        name: [[s, s] for s in STRANGE] if isinstance(v[0], list) else STRANGE
        for name, v in columns.items()
    }
    answers = loaded.signatures["serving_default"](**strings(columns))["probability"].numpy()
    assert np.all((answers > 0) & (answers < 1))


def test_unseen_ids_and_unreadable_numbers_read_as_absent(loaded):
    columns = draw_columns(2, seed=4) | {
        "price": ["NaN", "not a number"],
        "user_id": ["unseen", "unseen too"],
    }
    other = columns | {"price": ["", ""], "user_id": ["nobody", "no one"]}
    given = [
        loaded.signatures["serving_default"](**strings(c))["probability"].numpy()
        for c in (columns, other)
    ]
    np.testing.assert_array_equal(given[0], given[1])
