"""Reading a partition: keys, crosses, lists, numbers, batches, the held-out slice."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from training_data import SCHEMA, write_impressions

from features import keys as feature_keys
from features.errors import InputError, NoDataError
from features.schema import Relation, vocabulary_of
from training.data.columns import AbsentFields
from training.data.examples import batches, heldout_start, read_examples

COLUMNS = {
    "record_id": [5, 6, 7, 8],
    "label": [1, 0, 1, 0],
    "timestamp_ms": [3_600_000, 3_600_001, 7_200_000, 7_200_000],
    "user": ["ann", "bob", "ann", "eve"],
    "user_id": ["ann", "", "ann", "été"],
    "item_id": ["007", "7", "007", "007"],
    "tags": [["x", "y"], [], ["y", "", "y"], None],
    "price": ["1.5", "", "inf", "-3"],
    "age": ["19", "20", "none", "99"],
    "hour": ["3600000", "3600001", "7200000", "oops"],
}


def key(field, token):
    return int(feature_keys.keys(vocabulary_of(SCHEMA.field(field)), tf.constant([token]))[0])


@pytest.fixture
def examples(tmp_path):
    return read_examples(
        write_impressions(tmp_path, COLUMNS), SCHEMA, (Relation(left="user_id", right="item_id"),)
    )


def test_keys_of_single_fields_are_those_of_their_tokens(examples):
    ages = ["0", "1", "", "2"]
    expected = [
        [
            key("user_id", u),
            key("item_id", i),
            key("age", a),
            key("hour", h),
            key("user_age", f"{u}\x1f{a}"),
        ]
        for u, i, a, h in zip(
            COLUMNS["user_id"], COLUMNS["item_id"], ages, ["1", "1", "2", ""], strict=True
        )
    ]
    np.testing.assert_array_equal(examples.keys, expected)


def test_lists_keep_present_values_only(examples):
    (tags,) = examples.lists
    np.testing.assert_array_equal(tags.values, [key("tags", t) for t in ("x", "y", "y", "y")])
    np.testing.assert_array_equal(tags.offsets, [0, 2, 2, 4, 4])


def test_numbers_are_transformed_and_what_is_no_finite_number_is_absent(examples):
    np.testing.assert_allclose(
        examples.numbers, [[np.log1p(1.5)], [0], [0], [-np.log1p(3)]], rtol=1e-12
    )
    np.testing.assert_array_equal(examples.present, [[True], [False], [False], [True]])


def test_pairs_are_salted_by_the_field(examples):
    np.testing.assert_array_equal(
        examples.pairs[:, 0, 0], [key("user_id", u) for u in COLUMNS["user_id"]]
    )
    np.testing.assert_array_equal(
        examples.pairs[:, 0, 1], [key("item_id", i) for i in COLUMNS["item_id"]]
    )


def test_labels_users_and_records(examples):
    np.testing.assert_array_equal(examples.label, [1, 0, 1, 0])
    assert list(examples.users[examples.user]) == COLUMNS["user"]
    assert list(examples.record_id) == [5, 6, 7, 8]


def test_several_files_read_like_one(tmp_path, examples):
    split = read_examples(write_impressions(tmp_path / "split", COLUMNS, files=3), SCHEMA)
    np.testing.assert_array_equal(split.keys, examples.keys)
    np.testing.assert_array_equal(split.lists[0].offsets, examples.lists[0].offsets)
    np.testing.assert_array_equal(split.user, examples.user)


def test_a_slice_is_what_reading_those_rows_gives(tmp_path, examples):
    part = examples.slice(1, 3)
    alone = read_examples(
        write_impressions(tmp_path / "part", {n: v[1:3] for n, v in COLUMNS.items()}), SCHEMA
    )
    np.testing.assert_array_equal(part.keys, alone.keys)
    np.testing.assert_array_equal(part.lists[0].values, alone.lists[0].values)
    np.testing.assert_array_equal(part.lists[0].offsets, alone.lists[0].offsets)
    assert len(part) == 2
    assert len(examples.slice(4, 4)) == 0


def test_a_weight_is_read_as_a_number_and_sliced_with_its_impressions(tmp_path):
    folder = write_impressions(tmp_path, COLUMNS | {"trust": ["1", "0", "2.5", "1e3"]}, files=2)
    weighed = read_examples(folder, SCHEMA, weight="trust")
    np.testing.assert_array_equal(weighed.weight, [1, 0, 2.5, 1000])
    np.testing.assert_array_equal(weighed.slice(1, 3).weight, [0, 2.5])
    assert read_examples(folder, SCHEMA).weight is None


def test_a_weight_column_of_numbers_is_taken_as_it_is(tmp_path):
    folder = write_impressions(tmp_path, COLUMNS)
    path = folder / "impressions" / "part-00000.parquet"
    pq.write_table(
        pq.read_table(path).append_column("trust", pa.array([0.1, 3.0, None, 1.0])), path
    )
    with pytest.raises(InputError, match="trust of row 2 is None, no finite weight"):
        read_examples(folder, SCHEMA, weight="trust")


def test_an_absent_weight_is_refused_or_the_same_for_all(tmp_path):
    folder = write_impressions(tmp_path, COLUMNS)
    with pytest.raises(InputError, match=r"no column \['trust'\]"):
        read_examples(folder, SCHEMA, weight="trust")
    assert read_examples(folder, SCHEMA, absent=AbsentFields.NULL, weight="trust").weight is None


def test_a_null_label_is_refused(tmp_path):
    with pytest.raises(InputError, match="row 2 is nan"):
        read_examples(write_impressions(tmp_path, COLUMNS | {"label": [0, 1, None, 1]}), SCHEMA)


def test_a_label_other_than_0_and_1_is_refused(tmp_path):
    with pytest.raises(InputError, match="row 0 is 2"):
        read_examples(write_impressions(tmp_path, COLUMNS | {"label": [2, 1, 0, 1]}), SCHEMA)


def test_rows_out_of_time_order_are_refused(tmp_path):
    with pytest.raises(InputError, match="row 2 is earlier"):
        read_examples(write_impressions(tmp_path, COLUMNS | {"timestamp_ms": [1, 5, 4, 9]}), SCHEMA)


def test_an_empty_partition_has_no_data(tmp_path):
    with pytest.raises(NoDataError, match="no impressions"):
        read_examples(write_impressions(tmp_path, {name: [] for name in COLUMNS}), SCHEMA)


def test_a_folder_without_files_is_named(tmp_path):
    with pytest.raises(InputError, match="run `ingest`"):
        read_examples(tmp_path, SCHEMA)


def test_a_damaged_file_is_named(tmp_path):
    write_impressions(tmp_path, COLUMNS)
    path = tmp_path / "impressions" / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="part-00000"):
        read_examples(tmp_path, SCHEMA)


def test_a_missing_column_is_refused_or_null(tmp_path):
    folder = write_impressions(
        tmp_path, {n: v for n, v in COLUMNS.items() if n not in ("item_id", "tags", "price")}
    )
    with pytest.raises(InputError, match=r"\['item_id', 'tags', 'price'\]"):
        read_examples(folder, SCHEMA)
    nulls = read_examples(folder, SCHEMA, absent=AbsentFields.NULL)
    assert set(nulls.keys[:, 1]) == {key("item_id", "")}
    assert not nulls.present.any()
    assert len(nulls.lists[0].values) == 0


def test_a_missing_record_column_is_always_refused(tmp_path):
    folder = write_impressions(tmp_path, COLUMNS)
    table_path = folder / "impressions" / "part-00000.parquet"
    pq.write_table(pq.read_table(table_path).drop_columns("label"), table_path)
    with pytest.raises(InputError, match="label"):
        read_examples(folder, SCHEMA, absent=AbsentFields.NULL)


@pytest.mark.parametrize(
    ("rows", "fraction", "start"),
    [(10, 0.2, 8), (10, 0.01, 9), (1, 0.2, 0), (3, 0.99, 0), (1000, 0.25, 750)],
)
def test_the_heldout_slice_is_the_last_one_and_never_empty(rows, fraction, start):
    assert heldout_start(rows, fraction) == start


@given(
    rows=st.integers(0, 300),
    size=st.integers(1, 70),
    block=st.integers(1, 100),
    seed=st.integers(0, 9),
)
def test_batches_hold_every_row_once_and_stay_near_their_time(rows, size, block, seed):
    parts = list(batches(rows, size, block, (seed,)))
    order = np.concatenate([np.zeros(0, np.int64), *parts])
    assert sorted(order) == list(range(rows))
    assert (np.arange(rows) // block == order // block).all()
    assert all(len(p) == size for p in parts[:-1])


def test_batches_are_shuffled_by_the_seed():
    first, same, other = (
        np.concatenate(list(batches(100, 10, 100, (seed,)))) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, np.arange(100))
