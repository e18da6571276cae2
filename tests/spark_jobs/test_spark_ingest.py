"""Ingest of a day: what is kept, what is quarantined and why, the files and their aggregates."""

import json
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from features.errors import InputError, NoDataError
from features.schema import Categorical, MultiValued, Numeric, Schema, Time, Timestamp
from spark_jobs import files
from spark_jobs.ingest import ingest
from spark_jobs.settings import Format, SideTable, Source

pytestmark = pytest.mark.spark

DAY = date(2022, 5, 1)
NOON = int(datetime(2022, 5, 1, 12, tzinfo=UTC).timestamp() * 1000)
SCHEMA = Schema(
    label="click",
    user="user",
    item="item",
    timestamp=Timestamp(column="ts"),
    fields=(
        Categorical(name="site"),
        MultiValued(name="tags", separator="|"),
        Numeric(name="price"),
        Time(name="hour"),
        Categorical(name="age", column="u_age"),
    ),
    extras=("policy",),
)
MESSY = f"""click,user,item,ts,site,tags,price,policy
1,u1,1.0,{NOON + 5},007,a||b,10.50,p
0,u2,2,{NOON},True,,abc,p
0,u2,2,{NOON},True,,abc,p
0,u2,2,{NOON},True,,abc,p
1,u1,3,{NOON + 5},,a,,
2,u1,3,{NOON},x,a,1,p
,u1,3,{NOON},x,a,1,p
1,,3,{NOON},x,a,1,p
1,u1,NaN,{NOON},x,a,1,p
1,u1,3,soon,x,a,1,p
1,u1,3,,x,a,1,p
1,u1,3,{NOON + 86_400_000},x,a,1,p
1,u1,3,{NOON},x,a
1,u1,3,{NOON},x,a,1,p,q
"""


def kept(out: Path) -> pd.DataFrame:
    return pq.read_table(out / "impressions").to_pandas()


def metrics(out: Path) -> dict[tuple[str, str], float]:
    table = pd.read_parquet(out / "aggregates.parquet")
    assert list(table.columns) == ["field", "metric", "value"]
    return {(field, metric): value for field, metric, value in table.itertuples(index=False)}


@pytest.fixture(scope="module")
def messy(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("messy")
    (folder / "log-2022-05-01.csv").write_text(MESSY)
    (folder / "users.csv").write_text("user,age\nu1,30.0\n")
    side = SideTable(path=str(folder / "users.csv"), key="user", prefix="u_")
    source = Source(
        path=str(folder / "log-{date}.csv"),
        format=Format.CSV,
        partition="path",
        side_tables=(side,),
    )
    return ingest(spark, source, SCHEMA, DAY, folder), folder


def test_every_record_is_kept_or_quarantined_for_its_first_reason(messy):
    report, _ = messy
    assert (report.rows_in, report.rows_kept, report.rows_quarantined) == (14, 3, 11)
    expected = {
        "malformed": 2,
        "timestamp": 2,
        "wrong_day": 1,
        "label": 2,
        "user": 1,
        "item": 1,
        "duplicate": 2,
    }
    assert {reason: n for reason, n in report.reasons.items() if n} == expected


def test_kept_records_are_canonical_sorted_and_typed(messy):
    table = pq.read_table(messy[1] / "impressions")
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        **{
            "record_id": "int64",
            "label": "int8",
            "timestamp_ms": "int64",
            "user": "string",
            "item": "string",
            "site": "string",
        },
        **{
            "tags": "list<element: string>",
            "price": "string",
            "hour": "string",
            "age": "string",
            "policy": "string",
        },
    }
    rows = table.to_pylist()
    assert [(row["timestamp_ms"], row["record_id"]) for row in rows] == sorted(
        (r["timestamp_ms"], r["record_id"]) for r in rows
    )
    by_item = {
        row["item"]: {k: v for k, v in row.items() if k not in ("record_id", "item")}
        for row in rows
    }
    common = {
        "label": 1,
        "timestamp_ms": NOON + 5,
        "user": "u1",
        "hour": str(NOON + 5),
        "age": "30",
    }
    assert by_item == {
        "1": {**common, "site": "007", "tags": ["a", "b"], "price": "10.50", "policy": "p"},
        "3": {**common, "site": "", "tags": ["a"], "price": "", "policy": None},
        "2": {
            **{
                "label": 0,
                "timestamp_ms": NOON,
                "user": "u2",
                "hour": str(NOON),
                "age": "",
                "site": "true",
                "tags": [],
            },
            **{"price": "abc", "policy": "p"},
        },
    }


def test_quarantine_holds_the_raw_records(messy):
    table = pd.read_parquet(messy[1] / "quarantine")
    assert list(table.columns) == ["reason", "record"]
    records = [(reason, json.loads(record)) for reason, record in table.itertuples(index=False)]
    assert (
        "timestamp",
        {
            "click": "1",
            "user": "u1",
            "item": "3",
            "ts": "soon",
            "site": "x",
            "tags": "a",
            "price": "1",
            "policy": "p",
            "__file": "log-2022-05-01.csv",
        },
    ) in records
    assert sorted(r["__corrupt"] for reason, r in records if reason == "malformed") == [
        f"1,u1,3,{NOON},x,a",
        f"1,u1,3,{NOON},x,a,1,p,q",
    ]


def test_only_the_named_files_are_left(messy):
    names = sorted(
        str(path.relative_to(messy[1]))
        for path in messy[1].rglob("*")
        if path.is_file() and path.suffix != ".csv"
    )
    assert names == [
        "aggregates.parquet",
        "impressions/part-00000.parquet",
        "quarantine/part-00000.parquet",
        "values.parquet",
    ]


def test_aggregates_by_hand(messy):
    found = metrics(messy[1])
    expected = {
        **{
            ("", "rows_in"): 14,
            ("", "rows_kept"): 3,
            ("", "rows_quarantined"): 11,
            ("", "clicks"): 2,
            ("", "ctr"): 2 / 3,
        },
        **{
            ("", "users"): 2,
            ("", "items"): 3,
            ("", "min_timestamp_ms"): NOON,
            ("", "max_timestamp_ms"): NOON + 5,
        },
        **{("", "undated"): 2, ("", "quarantined:label"): 2, ("", "quarantined:malformed"): 2},
        **{("site", "null_share"): 1 / 3, ("site", "distinct"): 2, ("site", "top_share"): 1 / 3},
        **{("tags", "null_share"): 1 / 3, ("tags", "distinct"): 2, ("tags", "top_share"): 2 / 3},
        **{
            ("price", "mean"): 10.5,
            ("price", "std"): 0,
            ("price", "min"): 10.5,
            ("price", "max"): 10.5,
        },
        **{
            ("price", "unreadable_share"): 1 / 3,
            ("price", "null_share"): 1 / 3,
            ("age", "null_share"): 1 / 3,
        },
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert not any(metric == "mean" for field, metric in found if field != "price")


TYPED = Schema(
    label="rating",
    label_at_least=4,
    user="user",
    item="item",
    timestamp=Timestamp(column="when", unit="iso"),
    timezone="Asia/Shanghai",
    fields=(Categorical(name="flag"), MultiValued(name="tags"), Numeric(name="price")),
)


def typed_log(rows: int, seed: int) -> pd.DataFrame:
    """Three Shanghai days from 2022-04-30 on, some times missing, every tenth record twice."""
    dice = np.random.default_rng(seed)
    when = pd.Timestamp("2022-04-29T16:00:00Z") + pd.to_timedelta(
        dice.integers(0, 3 * 86_400_000, rows), unit="ms"
    )
    frame = pd.DataFrame(
        {
            "rating": dice.integers(1, 6, rows).astype("float64"),
            "user": dice.integers(0, 50, rows),
            "item": dice.integers(0, 20, rows).astype("float32"),
            "when": pd.Series(when).where(dice.random(rows) > 0.02).astype("datetime64[us, UTC]"),
            "flag": dice.random(rows) < 0.5,
            "tags": [
                [float(t) for t in dice.integers(0, 9, dice.integers(0, 4))] for _ in range(rows)
            ],
            "price": np.where(dice.random(rows) < 0.1, np.nan, dice.normal(100, 20, rows).round(3)),
        }
    )
    return pd.concat([frame, frame[::10]], ignore_index=True)


@pytest.fixture(scope="module")
def typed(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("typed")
    log = typed_log(600, seed=1)
    log[:300].to_parquet(folder / "a.parquet")
    log[300:].to_parquet(folder / "b.parquet")
    (folder / "out").mkdir()
    return (
        ingest(spark, Source(path=f"{folder}/{{a,b}}.parquet"), TYPED, DAY, folder / "out"),
        folder,
        log,
    )


def expected_day(log: pd.DataFrame) -> pd.DataFrame:
    """The distinct records of the local day, computed by pandas."""
    local = log["when"].dt.tz_convert("Asia/Shanghai").dt.date
    return log[local == DAY].assign(tags=lambda f: f["tags"].map(tuple)).drop_duplicates()


def test_partition_by_timestamp_keeps_the_local_day_and_counts_undated_records(typed):
    report, folder, log = typed
    day, undated = expected_day(log), int(log["when"].isna().sum())
    dated = int((log["when"].dt.tz_convert("Asia/Shanghai").dt.date == DAY).sum())
    assert (report.rows_kept, report.rows_in) == (len(day), dated + undated)
    assert (report.reasons["timestamp"], report.reasons["duplicate"]) == (undated, dated - len(day))
    assert metrics(folder / "out")[("", "undated")] == undated > 0


def test_typed_columns_become_canonical_strings(typed):
    _, folder, log = typed
    day = expected_day(log)
    found = kept(folder / "out")
    texts = pd.DataFrame(
        {
            "timestamp_ms": day["when"].astype("int64") // 1000,
            "label": (day["rating"] >= 4).astype(int),
            "user": day["user"].astype(str),
            "item": day["item"].astype(int).astype(str),
            "flag": day["flag"].map({True: "true", False: "false"}),
            "tags": day["tags"].map(lambda tags: ",".join(str(int(t)) for t in tags)),
            "price": day["price"].map(
                lambda p: "" if np.isnan(p) else str(int(p)) if p == int(p) else str(p)
            ),
        }
    )
    found["tags"] = found["tags"].map(",".join)
    columns = list(texts.columns)
    assert sorted(found[columns].itertuples(index=False, name=None)) == sorted(
        texts.itertuples(index=False, name=None)
    )
    assert found["record_id"].is_unique


def test_aggregates_agree_with_pandas(typed):
    _, folder, log = typed
    day, found = expected_day(log), metrics(folder / "out")
    tags = day["tags"].map(lambda values: list(set(values))).explode().dropna()
    expected = {
        **{
            ("", "ctr"): (day["rating"] >= 4).mean(),
            ("", "users"): day["user"].nunique(),
            ("", "items"): day["item"].nunique(),
        },
        **{
            ("price", "mean"): day["price"].mean(),
            ("price", "std"): day["price"].std(ddof=0),
            ("price", "max"): day["price"].max(),
        },
        **{("price", "null_share"): day["price"].isna().mean(), ("price", "unreadable_share"): 0},
        **{
            ("price", "distinct"): day["price"].nunique(),
            ("flag", "top_share"): day["flag"].value_counts().max() / len(day),
        },
        **{
            ("tags", "distinct"): tags.nunique(),
            ("tags", "top_share"): tags.value_counts().max() / len(day),
        },
        **{("tags", "null_share"): (day["tags"].map(len) == 0).mean()},
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-11)


def test_the_same_records_give_the_same_bytes_in_any_order_and_partitioning(spark, typed, tmp_path):
    _, folder, log = typed
    log.sample(frac=1, random_state=3).to_parquet(tmp_path / "shuffled.parquet", index=False)
    spark.conf.set("spark.sql.shuffle.partitions", 5)
    try:
        ingest(spark, Source(path=str(tmp_path / "shuffled.parquet")), TYPED, DAY, tmp_path)
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", 2)
    for name in ("impressions/part-00000.parquet", "aggregates.parquet", "values.parquet"):
        assert (tmp_path / name).read_bytes() == (folder / "out" / name).read_bytes(), name
    # Quarantined records say where they lie.
    here, there = quarantine_of(tmp_path), quarantine_of(folder / "out")
    assert here == there
    assert len(here) > 10


def quarantine_of(out: Path) -> list[tuple[str, str]]:
    """Reasons and records without their positions."""
    rows = pd.read_parquet(out / "quarantine").itertuples(index=False)
    records = ((reason, json.loads(record)) for reason, record in rows)
    return sorted(
        (why, json.dumps({k: v for k, v in record.items() if k not in ("__file", "__row")}))
        for why, record in records
    )


def test_without_deduplication_repeats_stay_with_ids_of_their_own(spark, typed, tmp_path):
    first, folder, _ = typed
    report = ingest(
        spark, Source(path=f"{folder}/{{a,b}}.parquet", deduplicate=False), TYPED, DAY, tmp_path
    )
    assert report.rows_kept == first.rows_kept + first.reasons["duplicate"]
    ids = kept(tmp_path)["record_id"]
    assert ids.is_unique
    assert set(kept(folder / "out")["record_id"]) <= set(ids)


def test_a_day_outside_the_log_has_no_data(spark, typed, tmp_path):
    _, folder, _ = typed
    with pytest.raises(
        NoDataError,
        match=r"no record of 2022-06-01 \(Asia/Shanghai\) \(\d+ records have no readable time",
    ):
        ingest(spark, Source(path=f"{folder}/{{a,b}}.parquet"), TYPED, date(2022, 6, 1), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_has_no_data(spark, typed, tmp_path):
    typed[2][:0].to_parquet(tmp_path / "2022-05-01.parquet")
    with pytest.raises(NoDataError, match="holds no record of 2022-05-01"):
        ingest(
            spark,
            Source(path=f"{tmp_path}/{{date}}.parquet", partition="path"),
            TYPED,
            DAY,
            tmp_path,
        )


def test_a_wrong_time_unit_is_an_error_and_not_a_day_without_data(spark, tmp_path):
    (tmp_path / "log.csv").write_text(f"rating,user,item,when,flag,tags,price\n5,1,2,{NOON},,,\n")
    with pytest.raises(
        InputError,
        match=r"no time in column 'when' can be read as 'iso': correct `timestamp\.unit`",
    ) as caught:
        ingest(
            spark, Source(path=str(tmp_path / "log.csv"), format=Format.CSV), TYPED, DAY, tmp_path
        )
    assert not isinstance(caught.value, NoDataError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "clicked"}, r"no column 'clicked' \(for the label\)"),
        (
            {"fields": (Categorical(name="flags"),)},
            r"no column 'flags' \(for field 'flags'\), perhaps 'flag'",
        ),
        ({"extras": ("propensity",)}, r"no column 'propensity' \(for `extras`\)"),
        (
            {"fields": (Categorical(name="tags"),)},
            r"'tags' holds array<double>: declare its field as kind `multi_valued`",
        ),
        (
            {"timestamp": Timestamp(column="when")},
            r"'when' .* holds times \(timestamp\), not epochs: set `timestamp\.unit: iso`",
        ),
    ],
)
def test_a_schema_that_does_not_fit_the_log_is_named(spark, typed, tmp_path, change, message):
    schema = Schema.model_validate({**TYPED.model_dump(), **change})
    with pytest.raises(InputError, match=message):
        ingest(spark, Source(path=f"{typed[1]}/a.parquet"), schema, DAY, tmp_path)


def test_large_days_are_cut_into_files_that_ascend_in_time(spark, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RECORDS_PER_FILE", 100)
    frame = spark.range(350).selectExpr(
        "pmod(id * 7919, 97) as timestamp_ms", "pmod(id * 104729, 1009) as record_id"
    )
    files.write_sorted(frame, tmp_path / "out", ("timestamp_ms", "record_id"), 350)
    paths = sorted((tmp_path / "out").iterdir())
    rows = [tuple(row.values()) for path in paths for row in pq.read_table(path).to_pylist()]
    assert len(paths) == 4
    assert rows == sorted((i * 7919 % 97, i * 104729 % 1009) for i in range(350))
