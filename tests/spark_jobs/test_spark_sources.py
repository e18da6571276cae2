"""Reading logs and side tables: patterns, renames, damaged files, joins, and error messages."""

import gzip
from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from features.errors import InputError, NoDataError
from spark_jobs.settings import Format, SideTable, Source
from spark_jobs.sources import CORRUPT, DAMAGE, FILE, ROW, join_side_tables, read_errors, read_log

pytestmark = pytest.mark.spark

DAY = date(2022, 5, 1)


def csv_source(path: Path | str | tuple[str, ...], **settings) -> Source:
    return Source(
        path=path if isinstance(path, tuple) else str(path), format=Format.CSV, **settings
    )


def test_csv_patterns_braces_gzip_renames_and_null_values(spark, tmp_path):
    (tmp_path / "a.csv").write_text('id;Note.1\n007;"x;""y"""\nNA;-\n')
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"id;Note.1\n1.0;\n\n2;a\\\n"))
    (tmp_path / "ignored.csv").write_text("id;Note.1\n9;9\n")
    (tmp_path / "more.csv").write_text("id;Note.1\n")
    source = csv_source(
        (f"{tmp_path}/{{a.csv,b.csv.gz}}", f"{tmp_path}/mor?.csv"),
        separator=";",
        rename={"Note.1": "note"},
        null_values=("NA", "-"),
    )
    frame = read_log(spark, source, DAY)
    assert frame.columns == ["id", "note", CORRUPT, DAMAGE, FILE, ROW]
    rows = {tuple(row)[:3] for row in frame.collect()}
    assert rows == {
        ("007", 'x;"y"', None),
        (None, None, None),
        ("1.0", None, None),
        ("2", "a\\", None),
    }


def test_lines_of_wrong_arity_carry_their_text(spark, tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n1,2,3\n1\n")
    corrupt = [
        row[CORRUPT] for row in read_log(spark, csv_source(tmp_path / "a.csv"), DAY).collect()
    ]
    assert corrupt == [None, "1,2,3", "1"]


def test_a_pattern_without_files_names_itself(spark, tmp_path):
    with pytest.raises(InputError, match=r"matches no file: .*nothing-\*\.csv") as caught:
        read_log(spark, csv_source(tmp_path / "nothing-*.csv"), DAY)
    assert not isinstance(caught.value, NoDataError)


def test_a_day_without_its_file_is_a_day_without_data(spark, tmp_path):
    (tmp_path / "2022-05-02.csv").write_text("a\n1\n")
    with pytest.raises(NoDataError, match=r"2022-05-01.*2022-05-01\.csv"):
        read_log(spark, csv_source(tmp_path / "{date}.csv", partition="path"), DAY)
    assert (
        read_log(
            spark, csv_source(tmp_path / "{date}.csv", partition="path"), date(2022, 5, 2)
        ).count()
        == 1
    )


def test_a_missing_column_is_named_with_its_closest_neighbour(spark, tmp_path):
    (tmp_path / "a.csv").write_text("user_id,clicked\n1,2\n")
    with pytest.raises(
        InputError,
        match=r"a\.csv has no column 'userid' .*perhaps 'user_id'.*there are: user_id, clicked",
    ):
        read_log(spark, csv_source(tmp_path / "a.csv", rename={"userid": "user"}), DAY)


def test_a_rename_must_not_make_two_columns_one(spark, tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"two columns are called \['b'\]"):
        read_log(spark, csv_source(tmp_path / "a.csv", rename={"a": "b"}), DAY)


def damaged_gzip(folder: Path) -> Source:
    whole = gzip.compress(
        ("a,b\n" + "\n".join(f"{i},{i * 7919 % 104729}" for i in range(20_000))).encode()
    )
    (folder / "good.csv.gz").write_bytes(whole)
    (folder / "bad.csv.gz").write_bytes(whole[: len(whole) // 2])
    return csv_source(folder / "*.csv.gz")


def damaged_parquet(folder: Path) -> Source:
    pd.DataFrame({"a": range(1000)}).to_parquet(folder / "good.parquet")
    whole = (folder / "good.parquet").read_bytes()
    (folder / "bad.parquet").write_bytes(whole[: len(whole) // 2])
    return Source(path=str(folder / "*.parquet"))


def other_header(folder: Path) -> Source:
    (folder / "good.csv").write_text("a,b\n1,2\n")
    (folder / "later-bad.csv").write_text("b,a\n1,2\n")
    return csv_source(folder / "*.csv")


def other_type(folder: Path) -> Source:
    pd.DataFrame({"a": [1, 2]}).to_parquet(folder / "good.parquet")
    pd.DataFrame({"a": ["x", "y"]}).to_parquet(folder / "later-bad.parquet")
    return Source(path=str(folder / "*.parquet"))


@pytest.mark.parametrize("damage", [damaged_gzip, damaged_parquet, other_header, other_type])
def test_a_damaged_file_is_named(spark, tmp_path, damage):
    source = damage(tmp_path)
    with pytest.raises(InputError, match=r"file \S*bad\.\S+ cannot be read"), read_errors():
        read_log(spark, source, DAY).collect()


def test_side_tables_join_by_canonical_id_and_leave_nulls(spark, tmp_path):
    (tmp_path / "users.csv").write_text("uid,age\n7.0,old\n8,young\n,nobody\n,nobody\n")
    log = spark.createDataFrame([(1, 7), (2, 8), (3, 9), (4, None)], "n long, user long")
    table = SideTable(path=str(tmp_path / "users.csv"), key="user", table_key="uid", prefix="u_")
    joined = join_side_tables(spark, log, [table], DAY)
    assert joined.columns == ["n", "user", "u_age"]
    assert sorted(map(tuple, joined.collect())) == [
        (1, 7, "old"),
        (2, 8, "young"),
        (3, 9, None),
        (4, None, None),
    ]


def test_a_side_table_that_repeats_an_id_is_refused(spark, tmp_path):
    pd.DataFrame({"user": [7.0, 8.0, 7.0], "age": ["a", "b", "c"]}).to_parquet(
        tmp_path / "users.parquet"
    )
    log = spark.createDataFrame([("8",)], "user string")
    table = SideTable(path=str(tmp_path / "users.parquet"), format=Format.PARQUET, key="user")
    with pytest.raises(
        InputError, match=r"users\.parquet: user must be unique, but repeats: '7' \(2 times\)"
    ):
        join_side_tables(spark, log, [table], DAY)


def test_a_side_table_s_mistakes_are_named(spark, tmp_path):
    (tmp_path / "items.csv").write_text("item,price\n1,2\n")
    log = spark.createDataFrame([("8", "1")], "item string, price string")

    def joining(**table):
        return join_side_tables(
            spark,
            log,
            [SideTable(**{"path": str(tmp_path / "items.csv"), "key": "item", **table})],
            DAY,
        )

    with pytest.raises(
        InputError, match=r"both have columns \['price'\]: list `columns` or set a `prefix`"
    ):
        joining()
    with pytest.raises(
        InputError, match=r"items\.csv has no column 'prices' \(for `columns`\), perhaps 'price'"
    ):
        joining(columns=("prices",))
    with pytest.raises(InputError, match=r"the log has no column 'user'"):
        joining(key="user", table_key="item", prefix="x_")
    with pytest.raises(InputError, match=r"side table .*absent\.csv does not exist"):
        joining(path=str(tmp_path / "absent.csv"))
