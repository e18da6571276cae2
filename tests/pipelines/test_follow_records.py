"""Validation of files that arrive: rules as in ingest, each row kept or quarantined."""

import gzip
import json
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from landing_days import DOCUMENT, START_MS, rows_of

from features.errors import InputError
from features.ingest_rules import IngestMode, ingest_rules
from features.partition import parse_partition
from features.schema import Schema
from pipelines.follow.raw_rows import complete_files, read_file
from pipelines.follow.records import RecordValidator, in_order_of_time
from spark_jobs.settings import Source

SCHEMA = Schema.model_validate(DOCUMENT["features"])
CSV = Source.model_validate(DOCUMENT["source"])
GOOD = {"time": START_MS, "user_id": "u", "ad": "a", "tags": "x|y", "price": "1.5", "click": "1"}


def csv_file(folder, *rows, name="part.csv"):
    columns = list(GOOD)
    lines = [",".join(columns)] + [
        row if isinstance(row, str) else ",".join(str({**GOOD, **row}[c]) for c in columns)
        for row in rows
    ]
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def reasons(validated):
    return sorted(reason for reason, _ in validated.quarantined)


def test_complete_files_are_there_by_name(tmp_path):
    for name in (
        "b.csv",
        "a.parquet",
        ".c.csv",
        "_d.csv",
        "e.csv.gz",
        "f.csv.tmp",
        "g.txt",
        "dt=1/hm=1300/part.csv",
        ".dt=2/p.csv",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(complete_files(tmp_path)) == [
        "a.parquet",
        "b.csv",
        "dt=1/hm=1300/part.csv",
        "e.csv.gz",
    ]
    assert complete_files(tmp_path)["b.csv"] == tmp_path / "b.csv"
    with pytest.raises(InputError, match="no folder"):
        complete_files(tmp_path / "away")


def test_every_row_is_kept_or_quarantined_with_the_first_reason_that_applies(tmp_path):
    path = csv_file(
        tmp_path,
        {},
        {"user_id": "v", "click": "0"},
        {"time": "yesterday", "click": "maybe"},
        {"click": "maybe", "user_id": ""},
        {"click": ""},
        {"user_id": "\\N"},
        {"ad": ""},
        {},
        "1,2,3",
        "1,2,3,4,5,6,7",
    )
    validated = RecordValidator(CSV, SCHEMA).validate(path)
    assert reasons(validated) == [
        "duplicate",
        "item",
        "label",
        "label",
        "malformed",
        "malformed",
        "timestamp",
        "user",
    ]
    assert validated.rows_in == 10
    assert validated.kept["user"].to_pylist() == ["u", "v"]
    assert validated.kept["label"].to_pylist() == [1, 0]
    assert validated.kept["tags"].to_pylist() == [["x", "y"]] * 2
    timestamp = next(record for reason, record in validated.quarantined if reason == "timestamp")
    assert json.loads(timestamp) == {**GOOD, "time": "yesterday", "click": "maybe"}


def test_repeats_stay_where_the_log_is_not_deduplicated_and_are_records_of_their_own(tmp_path):
    validated = RecordValidator(CSV.model_copy(update={"deduplicate": False}), SCHEMA).validate(
        csv_file(tmp_path, {}, {}, {})
    )
    assert validated.kept.num_rows == len(set(validated.kept["record_id"].to_pylist())) == 3


def test_a_file_that_cannot_be_read_and_one_without_a_column_are_quarantined_whole(tmp_path):
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"time,ad\n1,2\n")[:-9])
    rows_of(0, 7).drop(columns=["price"]).to_csv(tmp_path / "narrow.csv", index=False)
    validator = RecordValidator(CSV, SCHEMA)
    for name in ("cut.parquet", "bytes.csv", "empty.csv", "cut.csv.gz"):
        validated = validator.validate(tmp_path / name)
        assert (reasons(validated), validated.rows_in, validated.kept.num_rows) == (
            ["unreadable"],
            1,
            0,
        )
    assert reasons(validator.validate(tmp_path / "narrow.csv")) == ["columns ['price']"] * 7


def test_a_file_of_no_rows_is_taken_too(tmp_path):
    validated = RecordValidator(CSV, SCHEMA).validate(csv_file(tmp_path))
    assert (validated.rows_in, validated.kept.num_rows) == (0, 0)
    other = RecordValidator(CSV, SCHEMA).validate(csv_file(tmp_path, {}, name="b.csv"))
    assert in_order_of_time([validated.kept, other.kept]).num_rows == 1


def test_a_label_from_a_threshold_and_a_weight(tmp_path):
    schema = SCHEMA.model_copy(
        update={"label": "price", "label_at_least": 2.0, "extras": ("click",)}
    )
    path = csv_file(
        tmp_path,
        {"price": "2.0"},
        {"price": "1.99"},
        {"price": "much"},
        {"price": "3", "click": "-1"},
    )
    schema = schema.model_copy(
        update={"fields": tuple(f for f in schema.fields if f.name != "price")}
    )
    validated = RecordValidator(CSV, schema, "click").validate(path)
    assert validated.kept["label"].to_pylist() == [1, 0]
    assert reasons(validated) == ["label", "weight"]


def test_clicks_without_the_other_impressions_cannot_be_followed():
    source = Source.model_validate({**DOCUMENT["source"], "negatives": {"session": "user_id"}})
    with pytest.raises(InputError, match="negatives"):
        RecordValidator(source, SCHEMA)


def test_side_tables_are_joined_and_read_once(tmp_path):
    side = tmp_path / "ads.csv"
    side.write_text("ad,price\na,9.5\n", encoding="utf-8")
    rows_of(0, 3, ad=["a", "b", "a"]).drop(columns=["price"]).to_csv(
        tmp_path / "part.csv", index=False
    )
    source = CSV.model_copy(
        update={
            "side_tables": Source(
                path="x", side_tables=[{"path": str(side), "key": "ad"}]
            ).side_tables
        }
    )
    validator = RecordValidator(source, SCHEMA)
    side.unlink()
    assert validator.validate(tmp_path / "part.csv").kept["price"].to_pylist() == ["9.5", "", "9.5"]


@pytest.mark.covers("H10", "F7", "audit-M9")
@pytest.mark.spark
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_what_is_kept_is_what_ingest_keeps(kind, spark, tmp_path):
    """Spark's ingest and the validator give the same rows, values and reasons."""
    from spark_jobs.ingest import ingest

    rows = rows_of(0, 60, user_id=(["007", "7.0", "True", "nan", "Müller", " 7"] * 10))
    rows["tags"] = ["a|b", "", "a||b", "1.0|x", "NaN", "|"] * 10
    rows["price"] = [1.5, 2.0, None, 1e20, -0.0, 0.25] * 10
    if kind == "csv":
        rows = rows.astype(object)
        rows.loc[3, "click"], rows.loc[4, "time"], rows.loc[5, "ad"], rows.loc[6] = (
            "2",
            "noon",
            "\\N",
            rows.loc[7],
        )
        rows.to_csv(tmp_path / "part.csv", index=False)
        # Faults H10 and F7: latin-1, a long cell, a quote that is never closed, line separators.
        with (tmp_path / "part.csv").open("ab") as stream:
            for user in (b"M\xfcller", b"x" * 200_000, b'q"q', "a\u2028b\x85c".encode()):
                stream.write(b"%d,%b,a1,t1,2.5,1\n" % (START_MS + 70, user))
            stream.write(b'%d,u,a1,t1,"2.5,1\n%d,v,a1,t1,2.5,1\r\n' % (START_MS, START_MS))
    else:
        # Finding M9 of the audit: text that the file declares as bytes.
        rows["ad"] = [ad.encode() for ad in rows["ad"][:-1]] + ["München".encode()]
        rows.to_parquet(tmp_path / "part.parquet", index=False)
    source = Source.model_validate(
        {**DOCUMENT["source"], "path": str(tmp_path / f"part.{kind}"), "format": kind}
    )
    (tmp_path / "out").mkdir()
    report = ingest(spark, source, SCHEMA, parse_partition("2026-01-01"), tmp_path / "out")
    ours = RecordValidator(source, SCHEMA).validate(tmp_path / f"part.{kind}")
    theirs = pq.read_table(tmp_path / "out" / "impressions")
    assert ours.kept.num_rows == theirs.num_rows == report.rows_kept
    names = [name for name in theirs.column_names if name != "record_id"]
    by_time = [("timestamp_ms", "ascending"), ("user", "ascending"), ("item", "ascending")]
    assert (
        ours.kept.select(names).sort_by(by_time).to_pylist()
        == theirs.select(names).sort_by(by_time).to_pylist()
    )
    assert list(report.reasons) == [rule.reason for rule in ingest_rules(IngestMode.SPARK)]
    counted = {reason: count for reason, count in report.reasons.items() if count}
    assert {reason: reasons(ours).count(reason) for reason in set(reasons(ours))} == counted


def test_rows_of_several_files_lie_in_the_order_of_time(tmp_path):
    validator = RecordValidator(CSV, SCHEMA)
    first = validator.validate(csv_file(tmp_path, {"time": START_MS + 5}, {"time": START_MS + 1}))
    second = validator.validate(csv_file(tmp_path, {"time": START_MS + 3}, name="b.csv"))
    stamps = in_order_of_time([first.kept, second.kept])["timestamp_ms"].to_pylist()
    assert stamps == [START_MS + 1, START_MS + 3, START_MS + 5]


def test_null_values_and_renamed_columns_are_those_of_the_source(tmp_path):
    source = Source.model_validate(
        {**DOCUMENT["source"], "format": "parquet", "rename": {"who": "user_id"}}
    )
    table = pa.table({**{k: [v] for k, v in GOOD.items() if k != "user_id"}, "who": [7.0]})
    pq.write_table(table, tmp_path / "part.parquet")
    assert RecordValidator(source, SCHEMA).validate(tmp_path / "part.parquet").kept[
        "user"
    ].to_pylist() == ["7"]
    rows = read_file(csv_file(tmp_path, {"price": "\\N"}), source).rows
    assert isinstance(rows, pd.DataFrame)
    assert rows["price"].tolist() == [""]
    assert np.all(rows["ad"] == "a")


# Fault H10: a field above 131,072 bytes ended the process, and every later one.
@pytest.mark.covers("H10")
@pytest.mark.parametrize("quote", ["", '"'])
def test_a_long_cell_and_an_open_quote_cost_at_most_their_line(tmp_path, quote):
    path = csv_file(
        tmp_path,
        {"user_id": "a"},
        {"user_id": quote + "x" * 200_000 + quote},
        {"user_id": 'c\u2028\x85"d'},
        {"price": '"1.5'},
        {"user_id": "e"},
    )
    validated = RecordValidator(CSV, SCHEMA).validate(path)
    assert validated.kept["user"].to_pylist() == ["a", 'c\u2028\x85"d', "e"]
    assert sorted(reasons(validated)) == ["cell_size", "malformed"]
    assert validated.rows_in == 5


# Fault H10: a latin-1 file was one bad row.
@pytest.mark.covers("H10")
def test_bytes_of_another_encoding_cost_their_row(tmp_path):
    path = csv_file(tmp_path, {"user_id": "Müller"}, {"user_id": "b"})
    path.write_bytes(path.read_bytes().decode().encode("latin-1"))
    validated = RecordValidator(CSV, SCHEMA).validate(path)
    assert validated.kept["user"].to_pylist() == ["b"]
    assert reasons(validated) == ["encoding"]
    declared = CSV.model_copy(update={"encoding": "latin-1"})
    assert RecordValidator(declared, SCHEMA).validate(path).kept["user"].to_pylist() == [
        "Müller",
        "b",
    ]


# Fault H10: a time of the year 9999 ended the count of days.
@pytest.mark.covers("H10")
def test_a_time_of_the_future_is_quarantined(tmp_path):
    path = csv_file(
        tmp_path, {}, {"time": START_MS + 60_001}, {"time": START_MS + 60_000}, {"time": "never"}
    )
    validated = RecordValidator(CSV, SCHEMA).validate(path, latest_ms=START_MS + 60_000)
    assert reasons(validated) == ["future", "timestamp"]
    assert validated.kept.num_rows == 2


# Fault F36: a symbolic link put the lines of any file of the machine into quarantine.
@pytest.mark.covers("F36")
def test_links_and_pipes_are_not_read(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("password\n")
    (tmp_path / "link.csv").symlink_to(secret)
    os.mkfifo(tmp_path / "pipe.csv")
    for name in ("link.csv", "pipe.csv"):
        validated = RecordValidator(CSV, SCHEMA).validate(tmp_path / name)
        assert reasons(validated) == ["unreadable"]
        assert "password" not in validated.quarantined[0][1]


def test_a_column_that_is_there_twice_makes_a_file_unreadable(tmp_path):
    (tmp_path / "twice.csv").write_text("time,time\n1,2\n")
    validated = RecordValidator(CSV, SCHEMA).validate(tmp_path / "twice.csv")
    assert reasons(validated) == ["unreadable"]
    assert "['time'] more than once" in validated.quarantined[0][1]
