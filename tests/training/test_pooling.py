"""Pooling, standardised numbers and p_uv, with values worked out by hand."""

from itertools import pairwise

import numpy as np
import pytest
import tensorflow as tf

from compression.export.served_model import cross_value
from features.errors import InputError
from training.models.encoding_inputs import (
    Encoding,
    Nodes,
    read_encodings,
    sorted_nodes,
    write_encodings,
)
from training.models.pooling import LIMIT, concat_chunks, dense_inputs, pool_fields


def test_lists_are_pooled_by_the_mean_of_all_present_values():
    singles = tf.constant([[[1.0, 2.0]], [[3.0, 4.0]]])
    listed = tf.constant(
        [[2.0, 4.0], [0.0, 0.0], [5.0, 6.0]]
    )  # the second value has no row: zero, but it counts
    segments = tf.constant([0, 0, 3])  # impression 0 list 0 (twice), impression 1 list 1
    pooled = pool_fields(singles, listed, segments, lists=2)
    np.testing.assert_array_equal(pooled, [[[1, 2], [1, 2], [0, 0]], [[3, 4], [0, 0], [5, 6]]])


def test_without_lists_the_single_fields_pass_through():
    singles = tf.constant([[[1.0], [2.0]]])
    assert pool_fields(singles, tf.zeros([0, 1]), tf.zeros([0], tf.int32), lists=0) is singles


def test_no_single_field_and_an_empty_batch():
    assert pool_fields(
        tf.zeros([0, 0, 4]), tf.zeros([0, 4]), tf.zeros([0], tf.int32), lists=2
    ).shape == [0, 2, 4]


def test_numbers_are_standardised_and_followed_by_their_flags():
    values = tf.constant([[3.0, 10.0], [0.0, 20.0]], tf.float64)
    present = tf.constant([[True, True], [False, True]])
    got = dense_inputs(
        values, present, tf.constant([1.0, 20.0], tf.float64), tf.constant([4.0, 5.0], tf.float64)
    )
    np.testing.assert_array_equal(got, [[0.5, 1, -2, 1], [0, 0, 0, 1]])
    assert got.dtype == tf.float32


def test_absurd_numbers_are_cut():
    values = tf.constant([[1e300], [-1e300]], tf.float64)
    got = dense_inputs(
        values,
        tf.constant([[True], [True]]),
        tf.zeros([1], tf.float64),
        tf.constant([1e-300], tf.float64),
    )
    np.testing.assert_array_equal(got, [[LIMIT, 1], [-LIMIT, 1]])


def nodes():
    return sorted_nodes(
        np.array([7, -3], np.int64), np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([0.5, 0.25])
    )


def test_nodes_are_sorted_and_unknown_keys_have_the_zero_row():
    positions = nodes().positions(np.array([7, 5, -3, 2**62], np.int64))
    np.testing.assert_array_equal(
        nodes().table()[positions], [[1, 2, 0.5], [0, 0, 0], [3, 4, 0.25], [0, 0, 0]]
    )


def test_without_nodes_every_key_is_unknown():
    empty = Nodes(np.zeros(0, np.int64), np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
    np.testing.assert_array_equal(empty.positions(np.array([[1], [2]], np.int64)), [[0], [0]])
    assert empty.table().shape == (1, 3)


def test_cross_value_by_hand():
    left = tf.constant([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]])
    right = tf.constant([[3.0, 4.0, 0.25], [3.0, 4.0, 0.25]])
    np.testing.assert_array_equal(cross_value(left, right, -1.0), [11 + 0.75 - 1, 0.25 - 1])


@pytest.mark.parametrize("layers", [(), (12, 5, 1)], ids=["dot product", "CrossNet"])
def test_a_column_is_what_the_graph_computes(layers):
    """`Encoding.column` equals the exported graph's operations, unknown nodes included."""
    rng = np.random.default_rng(3)
    sides = [
        sorted_nodes(
            np.arange(5) * 7,
            rng.normal(size=(5, 4)).astype(np.float32),
            rng.normal(size=5).astype(np.float32),
        )
        for _ in range(2)
    ]
    network = tuple(
        (rng.normal(size=shape).astype(np.float32), rng.normal(size=shape[1]).astype(np.float32))
        for shape in pairwise(layers)
    )
    pairs = np.array([[0, 0], [7, 28], [1, 14], [21, 3], [1, 3]])
    left, right = (tf.constant(n.table()[n.positions(pairs[:, i])]) for i, n in enumerate(sides))
    found = Encoding(*sides, -0.25, network).column(pairs)
    np.testing.assert_allclose(found, cross_value(left, right, -0.25, network), rtol=0, atol=2e-6)
    assert len(set(found.tolist())) == 5


def test_encodings_survive_the_disk(tmp_path):
    write_encodings(tmp_path / "encodings.npz", {"a__b": Encoding(nodes(), nodes(), -1.5)})
    read = read_encodings(tmp_path / "encodings.npz")["a__b"]
    assert read.mean == -1.5
    np.testing.assert_array_equal(read.left.table(), nodes().table())
    np.testing.assert_array_equal(read.right.keys, [-3, 7])


def test_empty_encodings_survive_the_disk(tmp_path):
    write_encodings(tmp_path / "encodings.npz", {})
    assert read_encodings(tmp_path / "encodings.npz") == {}


def test_the_same_encodings_give_the_same_bytes(tmp_path):
    for name in ("one.npz", "two.npz"):
        write_encodings(tmp_path / name, {"a__b": Encoding(nodes(), nodes(), -1.5)})
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_missing_and_damaged_files_are_named(tmp_path):
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    for name in ("absent.npz", "broken.npz"):
        with pytest.raises(InputError, match=name):
            read_encodings(tmp_path / name)


def test_incomplete_encodings_are_refused(tmp_path):
    np.savez(
        tmp_path / "encodings.npz",
        **{"a__b/mean": np.float32(0), "a__b/left_keys": np.zeros(2, np.int64)},
    )
    with pytest.raises(InputError, match="incomplete"):
        read_encodings(tmp_path / "encodings.npz")


def test_rows_are_concatenated_by_impression_and_field():
    """Two fields of three rows each, width 1, in two impressions."""
    vectors = tf.constant([[1.0], [2], [3], [4], [5], [6], [10], [20], [30], [40], [50], [60]])
    laid = concat_chunks(vectors, 2, 3, tf.constant(2))
    np.testing.assert_array_equal(laid, [[[1, 2, 3], [10, 20, 30]], [[4, 5, 6], [40, 50, 60]]])


def test_rows_of_a_width_stay_in_one_piece():
    laid = concat_chunks(tf.constant([[1.0, 2], [3, 4], [5, 6], [7, 8]]), 1, 2, tf.constant(2))
    np.testing.assert_array_equal(laid, [[[1, 2, 3, 4]], [[5, 6, 7, 8]]])


def test_of_no_impression_nothing_is_concatenated():
    assert concat_chunks(tf.zeros([0, 3]), 2, 2, tf.constant(0)).shape == (0, 2, 6)
