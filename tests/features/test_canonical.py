"""One spelling per value, the same in Python and in TensorFlow."""

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from features.canonical import NOT_CANONICAL, RULES, canonical
from features.keys import canonical as canonical_tf

AWKWARD = {
    "007": "007",
    "1.0": "1",
    "1.000": "1",
    "1.50": "1.50",
    "-3.0": "-3",
    "-0.0": "0",
    "+0": "0",
    "": "",
    "nan": "",
    "NaN": "",
    "Nancy": "Nancy",
    "True": "true",
    "FALSE": "false",
    "truely": "truely",
    " 7": " 7",
    "1.0\n": "1.0\n",
    "1.0.0": "1.0.0",
    "1e5": "1e5",
    "é": "é",
    "e\u0301": "e\u0301",
    "日本": "日本",
    "a\x1fb": "a\x1fb",
    "1650812741436": "1650812741436",
}


@pytest.mark.parametrize(("raw", "expected"), AWKWARD.items())
def test_python_spells_awkward_values(raw, expected):
    assert canonical(raw) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [(None, ""), (1, "1"), (1.0, "1"), (1.5, "1.5"), (True, "true"), (float("nan"), "")],
)
def test_python_spells_typed_values(raw, expected):
    assert canonical(raw) == expected


def test_tensorflow_spells_awkward_values_alike():
    spelled = [v.decode() for v in canonical_tf(tf.constant(list(AWKWARD))).numpy()]
    assert spelled == list(AWKWARD.values())


@pytest.mark.covers("data-7")
@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=12), st.from_regex(r"[-+]?[0-9]{1,4}(\.0*)?\n?", fullmatch=True)
        ),
        min_size=1,
        max_size=20,
    )
)
def test_both_engines_agree_and_are_idempotent(values):
    values = [v.encode("utf-8", "ignore").decode() for v in values]
    python = [canonical(v) for v in values]
    tensorflow = [v.decode() for v in canonical_tf(tf.constant(values)).numpy()]
    assert tensorflow == python
    assert [canonical(v) for v in python] == python


RULED = st.sampled_from(
    [
        b"nan",
        b"NaN",
        b"1.0",
        b"-0",
        b"+00",
        b"-0.0",
        b"True",
        b"TRUE",
        b"False",
        b"FALSE",
        b"12.000",
    ]
)
PIECES = st.one_of(
    RULED, st.binary(max_size=4), st.sampled_from([b"\x1f", b"\x1e", b"\n", b"\x00", b"\xff", b"7"])
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(PIECES, st.lists(PIECES, max_size=3).map(b"".join)), max_size=12))
def test_rewriting_only_what_needs_it_gives_what_every_rule_on_every_value_does(values):
    """Of any bytes: not UTF-8, and with the separators in them that values are searched with."""
    raw = tf.constant(values, tf.string)
    one_by_one = raw
    for rule in RULES:
        one_by_one = tf.strings.regex_replace(
            one_by_one, rule.pattern, rule.replacement.replace("{1}", r"\1")
        )
    assert canonical_tf(raw).numpy().tolist() == one_by_one.numpy().tolist()
    changed = tf.strings.regex_full_match(raw, NOT_CANONICAL).numpy().tolist()
    assert changed == [
        before != after for before, after in zip(values, one_by_one.numpy().tolist(), strict=True)
    ]


@pytest.mark.parametrize("lonely", [b"1.0", b"nan", b"-0", b"TRUE", b"False"])
@pytest.mark.parametrize("place", [0, 3, 5])
def test_one_value_among_canonical_ones_is_found_wherever_it_stands(lonely, place):
    values = [b"7", b"\xff\xfe", b"a\nb", b"", b"\x1f", b"x"]
    values[place] = lonely
    spelled = canonical_tf(tf.reshape(tf.constant(values), [2, 3])).numpy().ravel().tolist()
    assert spelled == [*values[:place], canonical(lonely.decode()).encode(), *values[place + 1 :]]


def test_no_values_have_no_spelling():
    assert canonical_tf(tf.zeros([0], tf.string)).shape == (0,)
    assert canonical_tf(tf.zeros([0, 3], tf.string)).shape == (0, 3)
