"""Counts by Arrow in Spark's workers are those of Spark's own aggregation, however a day is cut."""

from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.schema import (
    Categorical,
    Cross,
    MultiValued,
    Numeric,
    Relation,
    Schema,
    Time,
    Timestamp,
)
from spark_jobs import arrow_counts
from spark_jobs.counting import KEY, value_counts
from spark_jobs.cross_counts import cross_counts

pytestmark = pytest.mark.spark

ROWS = 400
SCHEMA = Schema(
    label="y",
    user="user",
    item="item",
    timestamp=Timestamp(column="ts"),
    timezone="Europe/Berlin",
    fields=(
        Categorical(name="site"),
        MultiValued(name="tags"),
        MultiValued(name="topics"),
        Numeric(name="price", transform="log"),
        Numeric(name="age", transform="buckets", boundaries=(18, 40)),
        Time(name="week", column="ts", part="hour_of_week"),
        Time(name="day", part="day_of_week"),
        Time(name="born", part="hour_of_day"),
        Time(name="seen", column="seen", part="hour_of_day"),
        Cross(name="site_age", of=("site", "age")),
        Cross(name="day_site_age", of=("day", "site", "age")),
        Cross(name="site_seen", of=("site", "seen")),
        Categorical(name="code"),
        Cross(name="code_site", of=("code", "site")),
    ),
)
PAIRS = (
    ("site", "tags"),
    ("tags", "topics"),
    ("tags", "tags"),
    ("day_site_age", "week"),
    ("seen", "site"),
    ("code_site", "tags"),
    ("site", "nothing"),
)
RELATIONS = tuple(Relation(left=left, right=right) for left, right in PAIRS)


def with_nothing(schema: Schema) -> Schema:
    """The schema with a field that is null in every record."""
    return schema.model_copy(update={"fields": (*schema.fields, Categorical(name="nothing"))})


def records(sort: bool) -> pa.Table:
    """Records around a change of the clock, with nulls, empty lists, repeats, a value seen once."""
    dice = np.random.default_rng(5)
    stamps = dice.integers(0, 86_400_000 * 2, ROWS) + 1_648_200_000_123
    lists = [[f"t{t}" for t in dice.integers(0, 4, dice.integers(0, 4))] for _ in range(ROWS)]
    frame = pd.DataFrame(
        {
            "label": dice.integers(0, 2, ROWS).astype("int8"),
            "timestamp_ms": np.sort(stamps) if sort else stamps,
            "site": [
                "once",
                "x",
                "x\x1fx",
                *(f"s{i}" if i < 9 else "" for i in dice.zipf(1.4, ROWS - 3)),
            ],
            "price": [str(dice.choice(["", "abc", "10", "2.5", "-3"])) for _ in range(ROWS)],
            "age": [
                str(dice.choice(["", "7", "18", "39.5", "80", "x", "1e999"])) for _ in range(ROWS)
            ],
            "seen": [str(dice.choice(["", "x", "-1", str(stamp)])) for stamp in stamps],
            "nothing": "",
            # With a site "x" or "x\x1fx" two pairs of values are one token.
            "code": dice.choice(["x", "x\x1fx"], ROWS).astype(object),
        }
    )
    for name in ("week", "day", "born"):
        frame[name] = frame["timestamp_ms"].astype(str)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for name, values in (("tags", lists), ("topics", [each[:1] * 2 for each in reversed(lists)])):
        table = table.append_column(name, pa.array(values, pa.list_(pa.string())))
    return table


@pytest.fixture(scope="module", params=["one file", "many row groups", "unsorted"])
def partition(request, tmp_path_factory):
    """An `impressions` artifact: one row group, or files of several ones, the last file empty."""
    root = tmp_path_factory.mktemp("partition")
    (root / "impressions").mkdir()
    table, files = (
        records(sort=request.param != "unsorted"),
        1 if request.param == "one file" else 3,
    )
    for number, rows in enumerate(
        [*np.array_split(np.arange(ROWS), files), np.arange(0)][: files + 1]
    ):
        path = root / "impressions" / f"part-{number:05d}.parquet"
        pq.write_table(table.take(pa.array(rows)), path, row_group_size=ROWS if files == 1 else 45)
    return root


@pytest.fixture
def cut_finely(monkeypatch):
    monkeypatch.setattr(arrow_counts, "_CHUNK_ROWS", 100)


def test_values_are_counted_as_spark_counts_them(spark, partition, cut_finely):
    source = partition / "impressions"
    large, small = (
        value_counts(spark, source, SCHEMA, small=small).toPandas() for small in (False, True)
    )
    ordered = [frame.sort_values(list(KEY), ignore_index=True) for frame in (large, small)]
    assert set(large.field) == {"", *SCHEMA.names()}
    pd.testing.assert_frame_equal(*ordered)


def test_edges_are_counted_as_spark_counts_them(
    spark, partition, cut_finely, monkeypatch, tmp_path
):
    found = []
    for name, limit in (("large", -1), ("small", 2**30)):
        monkeypatch.setattr("spark_jobs.files.SMALL_BYTES", limit)
        (tmp_path / name).mkdir()
        figures = cross_counts(spark, with_nothing(SCHEMA), partition, RELATIONS, tmp_path / name)
        files = sorted((tmp_path / name / "edges").rglob("*"))
        tables = {
            path.relative_to(tmp_path / name): pq.ParquetFile(path).read()
            for path in files
            if path.is_file()
        }
        found.append((figures, {path: table.to_pydict() for path, table in tables.items()}))
    assert len(found[0][1]) == len(RELATIONS)
    assert found[0][0]["edges:site__nothing"] == 0
    assert found[0][0]["edges:tags__tags"] == 16
    assert found[0] == found[1]


def test_chunks_are_whole_row_groups_and_lose_none(partition, cut_finely):
    chunks = arrow_counts._chunks(partition / "impressions")
    groups = [group for chunk in chunks for group in chunk]
    assert len(set(groups)) == len(groups)
    sizes = [
        sum(pq.read_metadata(path).row_group(group).num_rows for path, group in chunk)
        for chunk in chunks
    ]
    assert sum(sizes) == ROWS
    assert all(size <= 100 or len(chunk) == 1 for size, chunk in zip(sizes, chunks, strict=True))


def test_a_worker_hands_on_what_it_cannot_hold(partition, cut_finely, monkeypatch):
    chunks = arrow_counts._chunks(partition / "impressions")
    count = partial(arrow_counts._values, SCHEMA, ("site", "week"))

    def counted(most: int) -> pa.Table:
        monkeypatch.setattr(arrow_counts, "_MOST_HELD", most)
        tasks = [partial(count, chunk, False) for chunk in chunks]
        numbers = pa.record_batch({"id": range(len(chunks))})
        return pa.Table.from_batches(arrow_counts._count(tasks, iter([numbers])))

    held, handed_on = counted(10**6), counted(60)
    assert held.group_by(["number", "value"]).aggregate([]).num_rows == len(held)
    if len(chunks) > 1:
        assert len(handed_on) > len(held)
    order = [("number", "ascending"), ("value", "ascending")]
    assert arrow_counts._merged([handed_on, handed_on.slice(0, 0)]).sort_by(order) == held.sort_by(
        order
    )


def test_fields_that_only_spark_can_read_are_left_to_it():
    countable = {
        name: arrow_counts.is_countable(SCHEMA, SCHEMA.field(name)) for name in SCHEMA.names()
    }
    assert [name for name, is_it in countable.items() if not is_it] == ["seen", "site_seen"]


def test_a_pair_too_rare_for_an_array_of_all_pairs_is_counted_alike(
    monkeypatch, partition, cut_finely
):
    chunk = arrow_counts._chunks(partition / "impressions")[0]
    counts = []
    for cells in (10**6, 0):
        monkeypatch.setattr(arrow_counts, "_DENSE", cells)
        counts.append(arrow_counts._edges(SCHEMA, RELATIONS[:4], chunk, ordered=False))
        counts.append(
            arrow_counts._values(SCHEMA, ("site_age", "day_site_age"), chunk, ordered=False)
        )
    assert counts[0] == counts[2]
    assert counts[1] == counts[3]


def test_a_chunk_can_be_counted_in_order(partition, cut_finely):
    chunk = arrow_counts._chunks(partition / "impressions")[0]
    counted = (
        (partial(arrow_counts._edges, SCHEMA, RELATIONS[:4]), ("number", "left", "right")),
        (
            partial(arrow_counts._values, SCHEMA, ("age", "day_site_age", "site", "tags")),
            ("number", "value"),
        ),
    )
    for count, keys in counted:
        unordered, ordered = (count(chunk, ordered) for ordered in (False, True))
        order = [(name, "ascending") for name in keys]
        assert ordered == unordered.sort_by(order)
        assert ordered != unordered
