"""One spelling per value, the same in Python and in TensorFlow."""

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from features.canonical import canonical
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
    ("raw", "expected"), [(None, ""), (1, "1"), (1.0, "1"), (1.5, "1.5"), (True, "true"), (float("nan"), "")]
)
def test_python_spells_typed_values(raw, expected):
    assert canonical(raw) == expected


def test_tensorflow_spells_awkward_values_alike():
    spelled = [v.decode() for v in canonical_tf(tf.constant(list(AWKWARD))).numpy()]
    assert spelled == list(AWKWARD.values())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(st.text(max_size=12), st.from_regex(r"[-+]?[0-9]{1,4}(\.0*)?\n?", fullmatch=True)), min_size=1, max_size=20
    )
)
def test_both_engines_agree_and_are_idempotent(values):
    values = [v.encode("utf-8", "ignore").decode() for v in values]
    python = [canonical(v) for v in values]
    tensorflow = [v.decode() for v in canonical_tf(tf.constant(values)).numpy()]
    assert tensorflow == python
    assert [canonical(v) for v in python] == python
