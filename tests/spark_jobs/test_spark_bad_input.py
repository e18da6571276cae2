"""Bad input costs the record or is named: encodings, long cells, numbers, files, links."""

import json
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from features.canonical import canonical
from features.errors import InputError
from features.schema import Categorical, MultiValued, Numeric, Schema, Timestamp
from pipelines.follow.raw_rows import raw_string, read_rows
from pipelines.follow.records import RecordValidator
from spark_jobs.ingest import ingest
from spark_jobs.settings import Source
from spark_jobs.values import single_value

pytestmark = pytest.mark.spark

DAY = date(2022, 5, 1)
NOON = int(datetime(2022, 5, 1, 12, tzinfo=UTC).timestamp() * 1000)
SCHEMA = Schema(
    label="click",
    user="user",
    item="item",
    timestamp=Timestamp(column="ts"),
    fields=(Categorical(name="site"), Numeric(name="price")),
)
HEADER = "click,user,item,ts,site,price,new\n"


def csv(folder: Path, text: bytes) -> str:
    (folder / "2022-05-01.csv").write_bytes(HEADER.encode() + text)
    return str(folder / "{date}.csv")


def quarantined(out: Path) -> dict[str, dict]:
    rows = pd.read_parquet(out / "quarantine").itertuples(index=False)
    return {reason: json.loads(record) for reason, record in rows}


# Faults F7 (encoding, cell size, one number) and F9 (added columns).
@pytest.mark.covers("F7")
def test_a_bad_value_costs_its_record_and_the_counts_add_up(spark, tmp_path):
    rows = [
        f"1,u1,i,{NOON},good,1e4,".encode(),
        f"1,u2,i,{NOON},{'x' * 70_000},2,".encode(),
        f"1,u3,i,{NOON},M\xfcnchen,2,".encode("latin-1"),
        f"1,u4,i,{NOON},good,1e400,".encode(),
        f"1,u5,i,{NOON},{'x' * 70_000}".encode(),
        f"1,u1,i,{NOON},good,1e4,".encode(),
    ]
    path = csv(tmp_path, b"\n".join(rows))
    source = Source(path=path, format="csv", partition="path")
    report = ingest(spark, source, SCHEMA, DAY, tmp_path / "out")
    found = {reason: count for reason, count in report.reasons.items() if count}
    once = ("malformed", "encoding", "cell_size", "number", "duplicate")
    assert found == dict.fromkeys(once, 1)
    assert (report.rows_in, report.rows_kept, report.rows_quarantined) == (6, 1, 5)
    assert report.columns_not_used == ("new",)
    records = quarantined(tmp_path / "out")
    assert records["number"]["price"] == "1e400"
    for reason in ("encoding", "cell_size"):
        assert records[reason]["__file"].endswith("2022-05-01.csv")
    assert records["cell_size"]["user"] == "u2"
    assert records["cell_size"]["site"] == "x" * 200 + "… (70000 bytes)"
    assert len(records["malformed"]["__corrupt"]) < 300


# Fault F7.
@pytest.mark.covers("F7")
def test_a_declared_encoding_is_read_right(spark, tmp_path):
    path = csv(tmp_path, f"1,u1,i,{NOON},5 € in Zürich,1,".encode("cp1252"))
    source = Source(path=path, format="csv", partition="path", encoding="cp1252")
    ingest(spark, source, SCHEMA, DAY, tmp_path / "out")
    sites = pq.read_table(tmp_path / "out" / "impressions")["site"].to_pylist()
    assert sites == ["5 € in Zürich"]
    with pytest.raises(ValueError, match="not a superset of ASCII"):
        Source(path=path, encoding="utf-16")


# Fault F9: a day that is quarantined as a whole says why; F7.
@pytest.mark.covers("F9")
def test_a_day_without_a_good_record_gives_the_reason_and_an_example(spark, tmp_path):
    path = csv(tmp_path, f"1,u1,i,{NOON},Zürich,1,\n0,u2,i,{NOON},Köln,1,".encode("latin-1"))
    with pytest.raises(
        InputError,
        match=r"2022-05-01\.csv: all 2 records .* 'encoding'.*source\.encoding.*Example: .*u[12]",
    ):
        ingest(
            spark, Source(path=path, format="csv", partition="path"), SCHEMA, DAY, tmp_path / "out"
        )


def log(**columns) -> pd.DataFrame:
    good = {"click": [1], "user": ["u"], "item": ["i"], "ts": [NOON], "site": ["s"], "price": [1.0]}
    longest = max(map(len, columns.values()), default=1)
    repeated = {name: values * longest for name, values in good.items()}
    return pd.DataFrame({**repeated, **columns})


def lacking_first(folder: Path) -> None:
    log().drop(columns="site").to_parquet(folder / "a.parquet")
    log().to_parquet(folder / "b.parquet")


def lacking_second(folder: Path) -> None:
    log().to_parquet(folder / "0.parquet")
    log().drop(columns="site").to_parquet(folder / "a.parquet")


def empty(folder: Path) -> None:
    log().to_parquet(folder / "b.parquet")
    (folder / "a.parquet").touch()


def linked(folder: Path) -> None:
    log().to_parquet(folder.parents[1] / "elsewhere.parquet")
    (folder / "a.parquet").symlink_to(folder.parents[1] / "elsewhere.parquet")


def nanoseconds(folder: Path) -> None:
    times = pd.Series(pd.to_datetime([NOON], unit="ms")).astype("datetime64[ns]")
    log(ts=times).to_parquet(folder / "a.parquet")


def microseconds(folder: Path) -> None:
    times = pd.Series(pd.to_datetime([NOON], unit="ms")).astype("datetime64[us]")
    log(ts=times).to_parquet(folder / "a.parquet")


def absent(folder: Path) -> None:
    log().drop(columns="click").to_parquet(folder / "a.parquet")


# Faults F8 (empty files), F9 (columns and types of Parquet), F36 (links).
@pytest.mark.covers("F8")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lacking_first, r"a\.parquet lacks the columns \['site'\]"),
        (lacking_second, r"a\.parquet lacks the columns \['site'\]"),
        (empty, r"a\.parquet is empty \(0 bytes\)"),
        (linked, r"a\.parquet is a link to .*elsewhere\.parquet.*follow_links"),
        (nanoseconds, r"'ts' is timestamp\[ns\].*microseconds.*timestamp\.unit: iso"),
        (microseconds, r"'ts' of .* holds times \(timestamp_ntz\).*unit: iso.*assume_offset"),
        (
            absent,
            r"2022-05-01/\*\.parquet has no column 'click'.*are: user, item, ts, site, price\.",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named(spark, tmp_path, make, message):
    folder = tmp_path / "log" / "2022-05-01"
    folder.mkdir(parents=True)
    make(folder)
    source = Source(path=str(tmp_path / "log/{date}/*.parquet"), partition="path")
    # `linked` leads out of the folder of the log.
    with pytest.raises(InputError, match=message):
        ingest(spark, source, SCHEMA, DAY, tmp_path / "out")


# Audit M9: floats, and bytes, as ids.
def test_spark_and_python_spell_floats_alike(spark, tmp_path):
    dice = np.random.default_rng(7)
    random = dice.standard_normal(6000) * 10.0 ** dice.integers(-12, 20, 6000)
    bits = dice.integers(2**52, 2**63 - 2**52, 2000).view(np.float64)
    named = [1.5e-5, 12345678.9, 0.00012, 1e22, 1e23, 2.0**63, -0.0, 5e-324, 1e16, 1e-4, 0.1]
    values = np.concatenate([random, bits, named, [np.inf, -np.inf, np.nan]])
    tiny = np.finfo(np.float64).tiny
    values = values[(np.abs(values) >= tiny) | (values == 0) | ~np.isfinite(values)]
    frame = pd.DataFrame({"x": values, "b": [b"ab"] * len(values)})
    frame.to_parquet(tmp_path / "x.parquet")
    read = spark.read.parquet(str(tmp_path / "x.parquet"))
    kinds = {field.name: field.dataType for field in read.schema}
    spelled = read.select(*(single_value(name, kinds[name]).alias(name) for name in ("x", "b")))
    found = spelled.toPandas()
    rows = read_rows(tmp_path / "x.parquet")
    wrong = [
        (value, spark_text, text)
        for name in ("x", "b")
        for value, spark_text in zip(rows[name], found[name], strict=True)
        if spark_text != (text := canonical(raw_string(value)))
    ]
    assert wrong == []


# Fault F36.
@pytest.mark.covers("F36")
def test_links_are_followed_where_that_is_allowed(spark, tmp_path):
    (tmp_path / "log" / "in").mkdir(parents=True)
    linked(tmp_path / "log" / "in")
    source = Source(path=str(tmp_path / "log/in/*.parquet"), follow_links=True)
    assert ingest(spark, source, SCHEMA, DAY, tmp_path / "out").rows_kept == 1


@pytest.mark.covers("F7")
def test_a_quarantined_row_can_be_found(spark, tmp_path):
    # Names with a blank, a plus and a percent sign; two equal rows, in the second file first.
    folder = tmp_path / "log" / "2022-05-01"
    folder.mkdir(parents=True)
    log(click=[1, 7], user=["u", "w"]).iloc[[1, 0]].to_parquet(folder / "b +%20.parquet")
    bad = log(click=[0, 1, 8], user=["v", "u", "w"])
    bad.to_parquet(folder / "a.parquet")
    source = Source(path=str(tmp_path / "log/{date}/*.parquet"), partition="path")
    ingest(spark, source, SCHEMA, DAY, tmp_path / "out")
    rows = pd.read_parquet(tmp_path / "out" / "quarantine").itertuples(index=False)
    found = {(r, *map(json.loads(text).get, ("__file", "__row", "click"))) for r, text in rows}
    assert found == {
        ("duplicate", "2022-05-01/b +%20.parquet", 1, 1),
        ("label", "2022-05-01/b +%20.parquet", 0, 7),
        ("label", "2022-05-01/a.parquet", 2, 8),
    }


@pytest.mark.covers("F7", "H10")
@pytest.mark.parametrize("kind", ["texts", "numbers", "text"])
def test_a_giant_list_costs_its_record_in_ingest_and_follow_mode(spark, tmp_path, kind):
    giants = {
        "texts": ["t" * 10] * 100_000,
        "numbers": np.arange(100_000),
        "text": "|".join(map(str, range(200_000))),
    }
    small = {"texts": ["a"], "numbers": [1], "text": "1|2"}
    schema = SCHEMA.model_copy(
        update={"fields": (*SCHEMA.fields, MultiValued(name="tags", separator="|"))}
    )
    rows = log(click=[1, 0], user=["u", "v"]).assign(tags=[giants[kind], small[kind]])
    rows.to_parquet(tmp_path / "2022-05-01.parquet")
    source = Source(path=str(tmp_path / "{date}.parquet"), partition="path")
    report = ingest(spark, source, schema, DAY, tmp_path / "out")
    assert (report.rows_kept, report.reasons["cell_size"]) == (1, 1)
    (record,) = pd.read_parquet(tmp_path / "out" / "quarantine")["record"]
    assert json.loads(record)["user"] == "u"
    assert len(record) < 1000
    followed = RecordValidator(source, schema).validate(tmp_path / "2022-05-01.parquet")
    assert [reason for reason, _ in followed.quarantined] == ["cell_size"]
    assert followed.kept["user"].to_pylist() == ["v"]


def test_long_lists_that_differ_in_their_middle_are_two_records_in_follow_mode(tmp_path):
    lists = [np.arange(2000), np.where(np.arange(2000) == 1000, 7, np.arange(2000))]
    rows = pd.concat([log(), log()], ignore_index=True).assign(tags=lists)
    rows.to_parquet(tmp_path / "a.parquet")
    source = Source(path=str(tmp_path / "a.parquet"))
    assert RecordValidator(source, SCHEMA).validate(tmp_path / "a.parquet").kept.num_rows == 2
