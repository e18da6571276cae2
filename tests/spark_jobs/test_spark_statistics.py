"""Feature statistics and the cross graph against independent computations in pandas."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import InputError
from features.schema import Categorical, Cross, MultiValued, Numeric, Schema, Time, Timestamp
from spark_jobs.cross_graph import cross_graph
from spark_jobs.feature_statistics import feature_statistics
from spark_jobs.settings import GraphSettings, Relation, StatisticsSettings

pytestmark = pytest.mark.spark

DAYS = [date(2022, 5, 1) + timedelta(days=i) for i in range(3)]
SCHEMA = Schema(
    label="y",
    user="user",
    item="item",
    timestamp=Timestamp(column="ts"),
    fields=(
        Categorical(name="site"),
        MultiValued(name="tags"),
        Numeric(name="price", transform="log"),
        Numeric(name="age", transform="buckets", boundaries=(18, 40)),
        Time(name="hour"),
        Cross(name="site_age", of=("site", "age")),
    ),
)
SETTINGS = StatisticsSettings(window_days=2, smoothing=5)


def write_day(folder: Path, day: date, rows: int = 200) -> pd.DataFrame:
    """A small `impressions` artifact; returns its records."""
    dice = np.random.default_rng(day.day)
    start = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
    stamps = np.sort(dice.integers(0, 86_400_000, rows)) + start
    frame = pd.DataFrame(
        {
            "label": dice.integers(0, 2, rows).astype("int8"),
            "timestamp_ms": stamps,
            "site": [f"s{int(i)}" if i < 60 else "" for i in dice.zipf(1.4, rows)],
            "tags": [[f"t{t + day.day}" for t in dice.integers(0, 5, dice.integers(0, 4))] for _ in range(rows)],
            "price": [dice.choice(["", "abc", "10", "2.5", "-3"]) for _ in range(rows)],
            "age": [dice.choice(["", "7", "18", "39.5", "80", "x"]) for _ in range(rows)],
            "hour": stamps.astype(str),
        }
    )
    (folder / "impressions").mkdir(parents=True)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    lists = pa.array(frame["tags"].tolist(), pa.list_(pa.string()))
    pq.write_table(
        table.set_column(table.schema.get_field_index("tags"), "tags", lists), folder / "impressions" / "part-00000.parquet"
    )
    return frame


def long_form(records: pd.DataFrame) -> pd.DataFrame:
    """One record per impression, field and distinct token, by plain Python."""
    return pd.DataFrame(list(tokens(records)), columns=["field", "value", "label", "timestamp_ms", "record"])


def tokens(records: pd.DataFrame) -> Iterator[tuple]:
    for i, r in enumerate(records.itertuples()):
        bucket = {"": "", "x": "", "7": "0", "18": "1", "39.5": "1", "80": "2"}[r.age]
        hour = str(datetime.fromtimestamp(r.timestamp_ms // 1000, UTC).hour)
        named = {"site": [r.site], "tags": sorted(set(r.tags)) or [""], "price": [r.price], "age": [bucket], "hour": [hour]}
        named["site_age"] = [f"{r.site}\x1f{bucket}"]
        for field, values in named.items():
            yield from ((field, value, r.label, r.timestamp_ms, i) for value in values)


def counted(long: pd.DataFrame) -> pd.DataFrame:
    """Impressions, clicks, first and last moment by field and value."""
    groups = long.groupby(["field", "value"])
    clicks, stamps = groups["label"], groups["timestamp_ms"]
    figures = {"impressions": clicks.size(), "clicks": clicks.sum(), "first_ms": stamps.min(), "last_ms": stamps.max()}
    return pd.DataFrame(figures)


@pytest.fixture(scope="module")
def world(spark, tmp_path_factory):
    """Three days of impressions and of statistics, each built on the days before it."""
    root = tmp_path_factory.mktemp("statistics")
    records = {day: write_day(root / "in" / str(day), day) for day in DAYS}
    partitions = {day: root / "in" / str(day) for day in DAYS}
    done: dict[date, Path] = {}
    summaries = {}
    for day in DAYS:
        out = root / "out" / str(day)
        out.mkdir(parents=True)
        summaries[day] = feature_statistics(spark, SCHEMA, {day: partitions[day]}, done, day, SETTINGS, out)
        done[day] = out
    return records, partitions, done, summaries


def window_of(records: dict[date, pd.DataFrame]) -> pd.DataFrame:
    """The last two days in long form, a column `day` beside."""
    return pd.concat([long_form(records[day]).assign(day=day) for day in DAYS[1:]])


def test_a_day_s_partial_counts_that_day_alone(world):
    records, _, done, _ = world
    found = pd.read_parquet(done[DAYS[1]] / "day.parquet")
    everything = found[(found.field == "") & (found.value == "")]
    assert everything[["impressions", "clicks"]].to_numpy().tolist() == [[200, records[DAYS[1]].label.sum()]]
    expected = counted(long_form(records[DAYS[1]]))
    indexed = found[found.field != ""].set_index(["field", "value"])
    pd.testing.assert_frame_equal(indexed.sort_index(), expected.sort_index(), check_dtype=False)
    assert found.sort_values(["field", "value"]).index.is_monotonic_increasing


def test_values_cover_the_window_and_no_more(world):
    records, _, done, _ = world
    found = pd.read_parquet(done[DAYS[2]] / "values.parquet").set_index(["field", "value"])
    assert list(found.columns) == ["impressions", "clicks", "ctr", "first_ms", "last_ms"]
    expected = counted(window_of(records))
    prior = np.concatenate([records[day].label for day in DAYS[1:]]).mean()
    expected["ctr"] = (expected.clicks + 5 * prior) / (expected.impressions + 5)
    pd.testing.assert_frame_equal(found.sort_index(), expected[found.columns].sort_index(), check_dtype=False)


def test_fields_agree_with_pandas(world):
    records, _, done, _ = world
    found = pd.read_parquet(done[DAYS[2]] / "fields.parquet").set_index("field")
    assert found["kind"].to_dict() == {field.name: field.kind for field in SCHEMA.fields}
    long = window_of(records)
    for name, group in long[long.value != ""].groupby("field"):
        counts = group.value.value_counts()
        share = counts / counts.sum()
        today = group[group.day == DAYS[2]].value
        covered = group.groupby(["day", "record"]).ngroups
        expected = {
            **{
                "cardinality": len(counts),
                "impressions": covered,
                "coverage": covered / 400,
                "seen_once_share": (counts == 1).mean(),
            },
            **{"tail_share": counts[counts < 10].sum() / counts.sum(), "entropy": -(share * np.log(share)).sum()},
            "new_value_rate": (~today.isin(set(group[group.day == DAYS[1]].value))).mean(),
        }
        assert found.loc[name, list(expected)].to_dict() == pytest.approx(expected, abs=1e-9), name


def test_moments_are_of_the_transformed_number_over_present_values(world):
    records, _, done, _ = world
    found = pd.read_parquet(done[DAYS[2]] / "fields.parquet").set_index("field")
    prices = pd.to_numeric(window_of(records).query("field == 'price'").value, errors="coerce").dropna()
    transformed = np.sign(prices) * np.log1p(prices.abs())
    assert found.loc["price", ["mean", "std"]].tolist() == pytest.approx([transformed.mean(), transformed.std(ddof=0)])
    assert found.drop("price")[["mean", "std"]].isna().all(axis=None)


def test_the_histogram_counts_values_by_powers_of_two(world):
    records, _, done, _ = world
    found = pd.read_parquet(done[DAYS[2]] / "histogram.parquet")
    long = window_of(records)
    counts = long[long.value != ""].groupby(["field", "value"]).size().rename("impressions").reset_index()
    counts["at_least"] = 2 ** np.floor(np.log2(counts.impressions)).astype(int)
    expected = counts.groupby(["field", "at_least"]).agg(values=("value", "size"), impressions=("impressions", "sum"))
    pd.testing.assert_frame_equal(found.set_index(["field", "at_least"]), expected, check_dtype=False)


def test_the_summary_and_the_first_day(world):
    _, _, done, summaries = world
    assert [summaries[day]["days"] for day in DAYS] == [1, 2, 2]
    assert summaries[DAYS[2]]["impressions"] == 400
    assert summaries[DAYS[2]]["values"] == pd.read_parquet(done[DAYS[2]] / "fields.parquet").cardinality.sum()
    assert summaries[DAYS[0]]["new_value_rate"] == 1


def test_statistics_refuse_a_day_without_impressions_and_days_of_the_future(spark, world, tmp_path):
    _, partitions, done, _ = world
    with pytest.raises(InputError, match=r"2022-05-09 need that day's impressions"):
        feature_statistics(spark, SCHEMA, partitions, {}, date(2022, 5, 9), SETTINGS, tmp_path)
    with pytest.raises(InputError, match=r"only build on days before it, not on \['2022-05-02', '2022-05-03'\]"):
        feature_statistics(spark, SCHEMA, partitions, done, DAYS[1], SETTINGS, tmp_path)


RELATIONS = (Relation(left="site", right="tags"), Relation(left="site_age", right="hour"))


def test_edges_agree_with_pandas(spark, world, tmp_path):
    records, partitions, _, _ = world
    settings = GraphSettings(relations=RELATIONS, window_days=2, min_impressions=2, smoothing=5)
    figures = cross_graph(spark, SCHEMA, partitions, settings, tmp_path)
    found = pd.read_parquet(tmp_path / "edges.parquet")
    long = window_of(records)
    expected = pd.concat([edges(long, relation, records) for relation in RELATIONS])
    expected = expected[expected.impressions >= 2].set_index(["relation", "left", "right"]).sort_index()
    pd.testing.assert_frame_equal(found.set_index(["relation", "left", "right"]), expected, check_dtype=False)
    assert (figures["days"], figures["impressions"], figures["edges"]) == (2, 400, len(found))
    assert figures["edges:site__tags"] == (found.relation == "site__tags").sum() > 0


def edges(long: pd.DataFrame, relation: Relation, records: dict[date, pd.DataFrame]) -> pd.DataFrame:
    """All edges of a relation with their figures, by pandas."""
    sides = [long[(long.field == name) & (long.value != "")] for name in (relation.left, relation.right)]
    pairs = sides[0].merge(sides[1], on=["day", "record"], suffixes=("_l", "_r"))
    counts = pairs.groupby(["value_l", "value_r"]).agg(impressions=("label_l", "size"), clicks=("label_l", "sum")).reset_index()
    prior = np.concatenate([records[day].label for day in DAYS[1:]]).mean()
    ctr = (counts.clicks + 5 * prior) / (counts.impressions + 5)
    n_left = counts.groupby("value_l").impressions.transform("sum")
    n_right = counts.groupby("value_r").impressions.transform("sum")
    return counts.rename(columns={"value_l": "left", "value_r": "right"}).assign(
        relation=relation.name,
        ctr=ctr,
        logit=np.log(ctr / (1 - ctr)),
        pmi=np.log(counts.impressions * counts.impressions.sum() / (n_left * n_right)),
        log_count=np.log1p(counts.impressions),
    )


@pytest.mark.parametrize(("days", "relations"), [([], RELATIONS), (DAYS, ())])
def test_without_days_or_relations_the_graph_is_empty_but_typed(spark, world, tmp_path, days, relations):
    figures = cross_graph(spark, SCHEMA, {day: world[1][day] for day in days}, GraphSettings(relations=relations), tmp_path)
    table = pq.read_table(tmp_path / "edges.parquet")
    assert table.num_rows == figures["edges"] == 0
    names = ["relation", "left", "right", "impressions", "clicks", "ctr", "logit", "pmi", "log_count"]
    assert (table.column_names, str(table.schema.field("pmi").type)) == (names, "double")


def test_a_relation_of_an_unknown_or_dense_field_is_refused(spark, world, tmp_path):
    settings = GraphSettings(relations=(Relation(left="price", right="nothing"),))
    with pytest.raises(InputError, match=r"\['nothing', 'price'\], which are no id fields of the schema: choose among"):
        cross_graph(spark, SCHEMA, world[1], settings, tmp_path)
