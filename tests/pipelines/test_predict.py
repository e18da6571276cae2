"""Raw rows become the strings that the served model reads, as ingest saw them."""

from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_days import DAYS, DOCUMENT, make_context, promote_candidate

from features.errors import InputError
from pipelines.cli.predict import escape_formulas, predict_file
from pipelines.follow.raw_rows import (
    join_side_tables,
    normalize,
    raw_strings,
    read_rows,
    read_side_table,
)
from spark_jobs.settings import SideTable, Source


def test_single_values_are_written_as_the_log_has_them_and_nulls_are_empty():
    column = pd.Series(["007", None, float("nan"), pd.NA, 3, 2.5, True, ""], dtype=object)
    assert raw_strings(column, None).tolist() == ["007", "", "", "", "3", "2.5", "True", ""]


def test_lists_are_padded_to_the_longest():
    column = pd.Series(["a|b|c", "", "a", None, "|a||b|"], dtype=object)
    assert raw_strings(column, "|").tolist() == [
        ["a", "b", "c"],
        ["", "", ""],
        ["a", "", ""],
        ["", "", ""],
        ["a", "b", ""],
    ]


def test_lists_of_parquet_need_no_separator():
    column = pd.Series([np.array(["x,y", "z"], dtype=object), [], ["w"], (1, 2)], dtype=object)
    assert raw_strings(column, ",").tolist() == [["x,y", "z"], ["", ""], ["w", ""], ["1", "2"]]


def test_a_null_in_a_list_is_no_value():
    column = pd.Series([["a", None, "b"], [None]], dtype=object)
    assert raw_strings(column, ",").tolist() == [["a", "b"], ["", ""]]


@pytest.mark.parametrize(
    ("number", "text"),
    [(1e16, "10000000000000000"), (2.0**62, str(2**62)), (-0.0, "0"), (0.5, "0.5")],
)
def test_floats_are_spelled_as_in_ingest(number, text):
    assert raw_strings(pd.Series([number, None]), None).tolist() == [text, ""]
    assert raw_strings(pd.Series([[number], []], dtype=object), ",").tolist() == [[text], [""]]


@pytest.mark.parametrize(("column", "shape"), [([], (0,)), (["", None], (2, 1))])
def test_even_without_a_value_there_is_a_column(column, shape):
    assert raw_strings(pd.Series(column, dtype=object), "|").shape == shape


@pytest.mark.slow
@given(st.lists(st.lists(st.text("ab", min_size=1), max_size=4), min_size=1, max_size=6))
def test_padding_loses_no_value(lists):
    padded = raw_strings(pd.Series(["|".join(values) for values in lists], dtype=object), "|")
    assert padded.shape == (len(lists), max(1, *map(len, lists), 1))
    assert [[v for v in row if v] for row in padded.tolist()] == lists


@pytest.mark.parametrize(
    ("kind", "expected"), [("csv", ["", "", "n-"]), ("parquet", ["-", "NULL", "n-"])]
)
def test_what_ingest_reads_as_null_is_null(kind, expected):
    source = Source(path="logs", format=kind, null_values=("-", "NULL"), rename={"advert": "ad"})
    rows = pd.DataFrame({"advert": ["-", "NULL", "n-"]})
    assert raw_strings(normalize(rows, source)["ad"], None).tolist() == expected
    assert list(rows.columns) == ["advert"]


def test_numbers_beside_null_values_stay_numbers():
    source = Source(path="logs", format="csv", null_values=("-",))
    rows = pd.DataFrame(
        {
            "ad": pd.array([7, None], dtype="Int64"),
            "price": pd.array([0.5, None], dtype="Float64"),
            "tag": ["-", "a"],
        }
    )
    read = normalize(rows, source)
    assert [raw_strings(read[name], None).tolist() for name in rows] == [
        ["7", ""],
        ["0.5", ""],
        ["", "a"],
    ]


@pytest.fixture
def side(tmp_path):
    def write(text="id,age,city\n7,30,Bonn\n3,40,\n12,50,Köln\n", **changes):
        path = tmp_path / "users.csv"
        path.write_text(text, encoding="utf-8")
        return SideTable(**{"path": str(path), "key": "user", "table_key": "id", **changes})

    return write


def joined_with(rows, *tables):
    return join_side_tables(rows, [(table, read_side_table(table)) for table in tables])


def joined(ids, table, **columns):
    return joined_with(pd.DataFrame({"user": ids, **columns}), table)


def test_a_join_keeps_rows_and_their_order_and_leaves_unknown_ids_null(side):
    table = joined(["3", "nobody", "7", "3"], side(), n=[0, 1, 2, 3])
    assert table["n"].tolist() == [0, 1, 2, 3]
    assert table["user"].tolist() == ["3", "nobody", "7", "3"]
    assert raw_strings(table["age"], None).tolist() == ["40", "", "30", "40"]
    assert raw_strings(table["city"], None).tolist() == ["", "", "Bonn", ""]
    assert list(table.columns) == ["user", "n", "age", "city"]


@pytest.mark.parametrize(
    "ids", [[7, 12], [7.0, 12.0], ["7", "12.0"], pd.array([7, 12], dtype="Int64")]
)
def test_ids_meet_in_canonical_spelling_as_in_ingest(side, ids):
    assert joined(ids, side())["age"].tolist() == ["30", "50"]


def test_ids_with_leading_zeros_are_other_ids(side):
    assert joined(["007"], side())["age"].isna().all()


def test_a_null_id_meets_nothing(side):
    table = joined([None, "3"], side("id,age\n,99\n,98\n3,40\n"))
    assert raw_strings(table["age"], None).tolist() == ["", "40"]


def test_chosen_columns_come_under_their_prefix(side):
    table = joined(["7"], side(columns=["city"], prefix="user_"))
    assert list(table.columns) == ["user", "user_city"]
    assert table["user_city"].tolist() == ["Bonn"]


def test_tables_are_joined_one_after_another(side, tmp_path):
    (tmp_path / "cities.csv").write_text("city;country\nBonn;DE\n", encoding="utf-8")
    cities = SideTable(path=str(tmp_path / "cities.csv"), key="city", separator=";")
    table = joined_with(pd.DataFrame({"user": ["12", "7"]}), side(), cities)
    assert raw_strings(table["country"], None).tolist() == ["", "DE"]


def test_a_repeated_id_is_refused(side):
    with pytest.raises(InputError, match=r"users\.csv: id must be unique, but '7' repeats"):
        joined(["7"], side("id,age\n7,1\n7.0,2\n"))


def test_a_table_without_its_column_is_refused(side):
    with pytest.raises(InputError, match=r"users\.csv lacks the columns \['town'\]"):
        joined(["7"], side(columns=["town"]))


def test_an_input_without_the_joins_id_is_refused(side):
    with pytest.raises(InputError, match=r"the input lacks the columns \['user'\].*users\.csv"):
        joined_with(pd.DataFrame({"ad": ["1"]}), side())


def test_csv_is_text_as_it_is(tmp_path):
    path = tmp_path / "rows.csv.gz"
    pd.DataFrame({"ad": ["007", "NA", ""], "n": ["1.0", "nan", "None"]}).to_csv(path, index=False)
    assert read_rows(path).to_dict("list") == {"ad": ["007", "NA", ""], "n": ["1.0", "nan", "None"]}


def test_another_separator(tmp_path):
    (tmp_path / "rows.tsv").write_text("ad\ttags\n1\ta,b\n")
    assert read_rows(tmp_path / "rows.tsv", "\t")["tags"].tolist() == ["a,b"]


def test_integers_of_parquet_keep_every_digit_beside_a_null(tmp_path):
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"ad": pd.array([2**53 + 1, None, 3], dtype="Int64")}).to_parquet(path)
    assert raw_strings(read_rows(path)["ad"], None).tolist() == ["9007199254740993", "", "3"]


def test_parquet_values_are_written_alike(tmp_path):
    path = tmp_path / "rows.parquet"
    frame = {
        "tags": [["a", "b"], None],
        "at": [datetime(2026, 1, 2, 3, 4, 5), None],
        "price": [1.5, None],
        "new": [True, None],
    }
    pd.DataFrame(frame).to_parquet(path)
    rows = read_rows(path)
    assert raw_strings(rows["tags"], ",").tolist() == [["a", "b"], ["", ""]]
    assert [raw_strings(rows[name], None).tolist() for name in ("at", "price", "new")] == [
        ["2026-01-02 03:04:05", ""],
        ["1.5", ""],
        ["True", ""],
    ]


@pytest.mark.parametrize(("name", "kind"), [("rows.parquet", "Parquet"), ("rows.csv", "CSV")])
@pytest.mark.parametrize("content", [None, b"\x00\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, kind, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: cannot be read as {kind}"):
        read_rows(tmp_path / name)


@pytest.mark.parametrize("kept", [10, 200])
def test_a_truncated_archive_is_named(tmp_path, kept):
    whole = tmp_path / "whole.csv.gz"
    pd.DataFrame({"ad": [str(n * 7919 % 1009) for n in range(3000)]}).to_csv(whole, index=False)
    (tmp_path / "rows.csv.gz").write_bytes(whole.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"rows\.csv\.gz: cannot be read as CSV"):
        read_rows(tmp_path / "rows.csv.gz")


@pytest.fixture(autouse=True)
def registry(mlflow_here):
    """An MLflow of its own."""


def serve(context):
    promote_candidate(context, DAYS[0])


def test_without_a_champion_it_says_how_to_get_one(tmp_path):
    context = make_context(tmp_path)
    with pytest.raises(InputError, match="no champion of ctr yet: run the chain"):
        predict_file(context.config, context.store, tmp_path / "rows.csv")


def test_missing_columns_are_named_all_at_once(tmp_path):
    context = make_context(tmp_path)
    serve(context)
    (tmp_path / "rows.csv").write_text("user_id,time\nu,1\n")
    with pytest.raises(
        InputError, match=r"the input lacks the columns \['ad', 'tags'\], which the model reads"
    ):
        predict_file(context.config, context.store, tmp_path / "rows.csv")


def test_columns_are_renamed_before_they_are_looked_for(tmp_path):
    context = make_context(tmp_path, source={**DOCUMENT["source"], "rename": {"advert": "ad"}})
    serve(context)
    (tmp_path / "rows.csv").write_text("advert\n1\n")
    with pytest.raises(InputError, match=r"lacks the columns \['tags'\]"):
        predict_file(context.config, context.store, tmp_path / "rows.csv")


@pytest.mark.covers("data-5")
def test_what_a_spreadsheet_would_run_is_escaped_and_numbers_are_not():
    rows = pd.DataFrame(
        {"q": ["=cmd|x", "+1", "-2.5e3", "@a", "-x", "plain", None], "n": [-1.0] * 7}
    )
    escaped = escape_formulas(rows)
    assert escaped["q"].tolist() == ["'=cmd|x", "+1", "-2.5e3", "'@a", "'-x", "plain", None]
    assert escaped["n"].tolist() == rows["n"].tolist()
    assert rows["q"][0] == "=cmd|x"
