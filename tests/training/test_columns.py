"""Dictionary-encoded columns: what is decoded again is what was there."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_data import SCHEMA, write_impressions

from features.errors import InputError
from training.data.columns import (
    RECORD_COLUMNS,
    AbsentFields,
    dictionary_column,
    dictionary_list_column,
    distinct_pairs,
    read_impressions,
)

TEXT = st.text(alphabet="ab7.é\x1f ", max_size=3)


def decoded(column):
    return column.values[column.codes].tolist()


@given(st.lists(st.none() | TEXT, min_size=1, max_size=20))
def test_a_column_decodes_to_itself_with_nulls_empty(values):
    table = pa.table({"x": pa.array(values, pa.string())})
    assert decoded(dictionary_column(table, "x")) == [v or "" for v in values]


@given(st.lists(st.none() | TEXT, min_size=1, max_size=20))
def test_each_distinct_value_is_there_once(values):
    column = dictionary_column(pa.table({"x": pa.array(values, pa.string())}), "x")
    assert len(set(column.values)) == len(column.values) == len({v or "" for v in values})


@given(st.lists(st.none() | st.lists(st.none() | TEXT, max_size=4), min_size=1, max_size=12))
def test_a_list_column_decodes_to_itself_with_nulls_empty(lists):
    column = dictionary_list_column(pa.table({"x": pa.array(lists, pa.list_(pa.string()))}), "x")
    elements = decoded(column.elements)
    got = [elements[a:b] for a, b in zip(column.offsets[:-1], column.offsets[1:], strict=True)]
    assert got == [[e or "" for e in (row or [])] for row in lists]


def test_chunks_and_slices_do_not_matter():
    chunked = pa.chunked_array(
        [pa.array([["a"], ["b", "c"]]), pa.array([None, ["d"]], pa.list_(pa.string()))]
    )
    column = dictionary_list_column(pa.table({"x": chunked}).slice(1, 3), "x")
    assert column.offsets.tolist() == [0, 2, 2, 3]
    assert decoded(column.elements) == ["b", "c", "d"]


def test_a_dictionary_column_is_taken_as_it_is():
    table = pa.table({"x": pa.array(["b", "a", "b"]).dictionary_encode()})
    assert decoded(dictionary_column(table, "x")) == ["b", "a", "b"]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), max_size=30))
def test_pairs_are_numbered_by_first_occurrence(pairs):
    left, right = (np.array([p[i] for p in pairs], np.int64) for i in (0, 1))
    codes, lefts, rights = distinct_pairs(left, right)
    assert list(zip(lefts[codes].tolist(), rights[codes].tolist(), strict=True)) == pairs
    assert list(zip(lefts.tolist(), rights.tolist(), strict=True)) == list(dict.fromkeys(pairs))


def test_files_are_read_in_the_order_of_their_names(tmp_path):
    names = [f.name for f in SCHEMA.column_fields() if f.name != "tags"]
    columns = {name: [str(i) for i in range(10)] for name in names} | {"tags": [[]] * 10}
    table = read_impressions(write_impressions(tmp_path, columns, files=4), SCHEMA)
    assert table["record_id"].to_pylist() == list(range(10))


def test_only_what_training_needs_is_read(tmp_path):
    names = [f.name for f in SCHEMA.column_fields() if f.name != "tags"]
    columns = {name: ["1"] for name in names} | {"tags": [[]], "propensity": ["0.5"]}
    table = read_impressions(write_impressions(tmp_path, columns), SCHEMA)
    assert set(table.column_names) == {*RECORD_COLUMNS, *names, "tags"}


@pytest.mark.parametrize("column", RECORD_COLUMNS)
def test_record_columns_cannot_be_absent(tmp_path, column):
    folder = write_impressions(tmp_path, {"user_id": ["a"]})
    path = folder / "impressions" / "part-00000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(column), path)
    with pytest.raises(InputError, match=column):
        read_impressions(folder, SCHEMA, AbsentFields.NULL)


def test_absent_fields_are_null_where_allowed(tmp_path):
    table = read_impressions(
        write_impressions(tmp_path, {"user_id": ["a", "b"]}), SCHEMA, AbsentFields.NULL
    )
    assert table["item_id"].to_pylist() == [None, None]
    assert table["tags"].type == pa.list_(pa.string())
