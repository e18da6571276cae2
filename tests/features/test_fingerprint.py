"""FarmHash64 without TensorFlow gives TensorFlow's keys."""

import numpy as np
import pyarrow as pa
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from features import fingerprint
from features import keys as feature_keys


def by_tensorflow(values: list[bytes]) -> np.ndarray:
    return tf.bitcast(tf.fingerprint(tf.constant(values), method="farmhash64"), tf.int64).numpy()


def test_every_length_has_tensorflows_fingerprint():
    """0, 1-3, 4-7, 8-16, 17-32, 33-64 and more than 64 bytes have different formulas."""
    rng = np.random.default_rng(7)
    values = [rng.bytes(length) for length in range(300) for _ in range(3)]
    found = fingerprint.fingerprint64(pa.array(values, pa.binary()))
    np.testing.assert_array_equal(found, by_tensorflow(values))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=20), st.text())
def test_keys_are_those_of_the_feature_contract(tokens, vocabulary):
    try:
        column = pa.array(tokens, pa.string())
        vocabulary.encode()
    except UnicodeEncodeError:
        return  # a lone surrogate is no text
    expected = feature_keys.keys(vocabulary, tf.constant([token.encode() for token in tokens]))
    np.testing.assert_array_equal(fingerprint.keys(vocabulary, column), expected)


def test_a_slice_of_an_array_and_no_values():
    values = ["a", "bb", "", "dddd", "e" * 70]
    whole = fingerprint.keys("field", pa.array(values))
    np.testing.assert_array_equal(
        fingerprint.keys("field", pa.array(values).slice(1, 3)), whole[1:4]
    )
    assert fingerprint.keys("field", pa.array([], pa.string())).tolist() == []
