"""Keys in, vectors out: shapes, lists, padding and fields, against values worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from elastic_embeddings.layers.inputs import InputPlan, field_names, salt, validate_combiner
from features.errors import InputError

LISTS = tf.ragged.constant([[10, 20, 30, 40], [], [10]], dtype=tf.int64)
"""Their keys' vectors are (key, -key), see `_through`."""


def _plan(combiner: str | None = None, padding: int | None = None, **share: str) -> InputPlan:
    return InputPlan(validate_combiner(combiner), padding, share)


def _through(plan: InputPlan, inputs: Any) -> Any:
    """What a layer does, with a table in which key k of the only field has the vector (k, -k)."""
    fields = plan.read(inputs)
    keys, sizes = plan.flat(fields)
    vectors = tf.cast(tf.stack([keys, -keys], axis=1), tf.float32)
    restored = plan.restore(fields, field_names(inputs), vectors, sizes)
    return (
        {name: value.numpy().tolist() for name, value in restored.items()}
        if isinstance(restored, dict)
        else restored.numpy()
    )


@pytest.mark.parametrize("shape", [(4,), (4, 3), (2, 3, 2), (0, 3)])
def test_each_key_of_a_tensor_of_any_shape_has_its_vector(shape: tuple[int, ...]) -> None:
    keys = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(
        _through(_plan(), tf.constant(keys)), np.stack([keys, -keys], axis=-1)
    )


@pytest.mark.parametrize(("combiner", "four"), [("sum", 100), ("mean", 25), ("sqrtn", 50)])
def test_lists_are_pooled_over_every_present_value_and_empty_ones_are_zero(
    combiner: str, four: float
) -> None:
    np.testing.assert_array_equal(
        _through(_plan(combiner), LISTS), [[four, -four], [0, 0], [10, -10]]
    )


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
def test_padded_lists_are_pooled_as_ragged_ones(combiner: str) -> None:
    padded = LISTS.to_tensor(default_value=-7)
    np.testing.assert_array_equal(
        _through(_plan(combiner, padding=-7), padded), _through(_plan(combiner), LISTS)
    )


def test_a_combiner_pools_the_last_axis_of_a_tensor_and_leaves_single_keys_alone() -> None:
    np.testing.assert_array_equal(
        _through(_plan("mean"), tf.constant([[2, 4], [6, 6]])), [[3, -3], [6, -6]]
    )
    np.testing.assert_array_equal(_through(_plan("mean"), tf.constant([2, 4])), [[2, -2], [4, -4]])


def test_padding_without_a_combiner_has_no_key_and_gives_zeros() -> None:
    plan, keys = _plan(padding=0), tf.constant([[5, 0], [0, 6]])
    assert plan.flat(plan.read(keys))[0].numpy().tolist() == [5, 6]
    np.testing.assert_array_equal(_through(plan, keys), [[[5, -5], [0, 0]], [[0, 0], [6, -6]]])


def test_fields_lie_one_after_the_other_by_name_with_keys_of_their_own() -> None:
    plan = _plan("sum")
    inputs = {
        "user": tf.constant([1, 2]),
        "genres": tf.ragged.constant([[1], [2, 3]], dtype=tf.int64),
    }
    keys, sizes = plan.flat(plan.read(inputs))
    assert field_names(inputs) == ("genres", "user")
    assert sizes.numpy().tolist() == [3, 2]
    assert (keys.numpy()[:3] ^ salt("genres")).tolist() == [1, 2, 3]
    assert (keys.numpy()[3:] ^ salt("user")).tolist() == [1, 2]
    assert len(set(keys.numpy().tolist())) == 5


def test_fields_that_share_a_vocabulary_have_equal_keys() -> None:
    plan = _plan(home="city", work="city")
    keys, _ = plan.flat(
        plan.read({"home": tf.constant([3]), "work": tf.constant([3]), "age": tf.constant([3])})
    )
    age, home, work = keys.numpy().tolist()
    assert home == work == 3 ^ salt("city") != age


def test_outputs_come_back_by_field() -> None:
    plan = InputPlan(None, None, dict.fromkeys("ab", ""))  # the vocabulary "" has no salt
    assert _through(plan, {"b": tf.constant([1]), "a": tf.constant([[2, 3]])}) == {
        "a": [[[2.0, -2.0], [3.0, -3.0]]],
        "b": [[1.0, -1.0]],
    }


@pytest.mark.parametrize("key", [-(2**63), 2**63 - 1, -1, 0])
def test_the_extreme_keys_are_keys(key: int) -> None:
    plan = _plan()
    assert plan.flat(plan.read(tf.constant([key], tf.int64)))[0].numpy().tolist() == [key]


def test_narrower_integers_are_widened() -> None:
    plan = _plan()
    assert plan.flat(plan.read(tf.constant([-3], tf.int32)))[0].dtype == tf.int64


@pytest.mark.parametrize(
    ("inputs", "hint"),
    [
        (tf.constant([1.0]), "dtype='int64'"),
        (tf.constant(["a"]), "hash strings to int64"),
        ([tf.constant([1]), tf.constant([2])], "dictionary"),
        ({}, "at least one"),
        (LISTS, "needs a combiner"),
        ({"genres": LISTS}, "'genres' is ragged and needs a combiner"),
    ],
)
def test_other_inputs_are_refused_with_a_hint(inputs: Any, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        _plan().read(inputs)


def test_an_unknown_combiner_is_refused() -> None:
    with pytest.raises(InputError, match="sqrtn"):
        validate_combiner("max")
