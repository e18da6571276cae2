"""Tokens, keys and numbers from raw strings."""

import numpy as np
import pytest
import tensorflow as tf

from features.keys import cross_tokens, keys, numbers, tokens
from features.schema import Categorical, Numeric, Schema, Time


def schema(**changes):
    base = {
        "label": "y",
        "user": "u",
        "item": "i",
        "timestamp": {"column": "t", "unit": "ms"},
        "fields": [{"name": "u", "kind": "categorical"}],
    }
    return Schema.model_validate({**base, **changes})


def key(vocabulary, *values):
    return keys(vocabulary, tf.constant(list(values))).numpy().tolist()


def test_key_is_farmhash64_of_vocabulary_separator_value():
    expected = (
        tf.bitcast(tf.fingerprint(tf.constant([b"user\x1f42"]), "farmhash64"), tf.int64)
        .numpy()
        .tolist()
    )
    assert key("user", "42") == expected


def test_key_of_a_known_string_never_changes():
    # Written down once: a change here would orphan every trained row of every user.
    assert key("user_id", "712", "") == [2538880953160300159, 2222693055057269302]


def test_null_has_a_key_of_its_own_that_no_value_can_spell():
    null, *others = key("v", "", "\x1e", "null", "\x1f", "0")
    assert null not in others


def test_vocabularies_salt_and_shared_ones_do_not():
    assert key("a", "1") != key("b", "1")
    assert key("shared", "1") == key("shared", "1")


def test_a_vocabulary_cannot_be_confused_with_a_value():
    assert key("a", "b\x1fc") != key("ab", "c")


def test_keys_keep_the_shape_and_accept_an_empty_batch():
    assert keys("v", tf.constant([["a", ""], ["b", "c"]])).shape == (2, 2)
    assert keys("v", tf.constant([], tf.string)).shape == (0,)


def test_canonical_spellings_share_a_token():
    field = Categorical(name="c")
    assert tokens(schema(), field, tf.constant(["1.0", "1", "01"])).numpy().tolist() == [
        b"1",
        b"1",
        b"01",
    ]


def test_buckets_are_right_open_and_unreadable_numbers_are_null():
    field = Numeric(name="n", transform="buckets", boundaries=(1.0, 10.0))
    raw = tf.constant(["-5", "1", "9.99", "10", "1e3", "", "abc", "inf"])
    assert tokens(schema(), field, raw).numpy().tolist() == [
        b"0",
        b"1",
        b"1",
        b"2",
        b"2",
        b"",
        b"",
        b"",
    ]


def test_numbers_and_missing():
    values, present = numbers(
        Numeric(name="n"), tf.constant(["2.5", "-1e2", ".5", "5.", "", "x", "NaN", "1e999"])
    )
    np.testing.assert_array_equal(values.numpy(), [2.5, -100, 0.5, 5, 0, 0, 0, 0])
    np.testing.assert_array_equal(
        present.numpy(), [True, True, True, True, False, False, False, False]
    )


def test_zero_has_no_sign():
    values, present = numbers(Numeric(name="n"), tf.constant(["-0", "-0.00", "+0", "-0e5", "-.0"]))
    assert not np.signbit(values.numpy()).any()
    assert present.numpy().all()


def test_log_keeps_the_sign():
    values, _ = numbers(Numeric(name="n", transform="log"), tf.constant(["0", "9", "-9"]))
    np.testing.assert_allclose(values.numpy(), [0, np.log(10), -np.log(10)], rtol=1e-15)


def test_cross_tokens_keep_null_parts_apart():
    left, right = tf.constant(["a", "", "a"]), tf.constant(["b", "ab", ""])
    assert len(set(cross_tokens([left, right]).numpy().tolist())) == 3


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("hour_of_day", [b"3", b"1"]),
        ("day_of_week", [b"0", b"6"]),
        ("hour_of_week", [b"3", b"145"]),
    ],
)
def test_time_parts_follow_daylight_saving(part, expected):
    # Berlin: 2022-03-28 01:00 UTC is Monday 03:00 (summer),
    # 2022-03-27 00:59 UTC is Sunday 01:59 (winter).
    raw = tf.constant(["1648429200000", "1648342799999"])
    assert (
        tokens(schema(timezone="Europe/Berlin"), Time(name="h", part=part), raw).numpy().tolist()
        == expected
    )


def test_unreadable_times_are_null():
    raw = tf.constant(["", "yesterday", "12.5"])
    assert tokens(schema(), Time(name="h"), raw).numpy().tolist() == [b"", b"", b""]
