"""Feature statistics against independent computations in pandas."""

from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spark_days import DAYS, SCHEMA, long_form, write_day, write_records

from features.errors import InputError
from spark_jobs.feature_statistics import feature_statistics
from spark_jobs.settings import StatisticsSettings

pytestmark = pytest.mark.spark

SETTINGS = StatisticsSettings(window_days=2, smoothing=5)


def counted(long: pd.DataFrame) -> pd.DataFrame:
    """Impressions, clicks, first and last moment by field and value."""
    groups = long.groupby(["field", "value"])
    clicks, stamps = groups["label"], groups["timestamp_ms"]
    figures = {
        "impressions": clicks.size(),
        "clicks": clicks.sum(),
        "first_ms": stamps.min(),
        "last_ms": stamps.max(),
    }
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
        summaries[day] = feature_statistics(
            spark, SCHEMA, {day: partitions[day]}, done, day, SETTINGS, out
        )
        done[day] = out
    return records, partitions, done, summaries


def window_of(records: dict[date, pd.DataFrame]) -> pd.DataFrame:
    """The last two days in long form, with a column `day`."""
    return pd.concat([long_form(records[day]).assign(day=day) for day in DAYS[1:]])


def test_a_day_s_partial_counts_that_day_alone(world):
    records, _, done, _ = world
    found = pd.read_parquet(done[DAYS[1]] / "day.parquet")
    everything = found[(found.field == "") & (found.value == "")]
    assert everything[["impressions", "clicks"]].to_numpy().tolist() == [
        [200, records[DAYS[1]].label.sum()]
    ]
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
    pd.testing.assert_frame_equal(
        found.sort_index(), expected[found.columns].sort_index(), check_dtype=False
    )


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
            **{
                "tail_share": counts[counts < 10].sum() / counts.sum(),
                "entropy": -(share * np.log(share)).sum(),
            },
            "new_value_rate": (~today.isin(set(group[group.day == DAYS[1]].value))).mean(),
        }
        assert found.loc[name, list(expected)].to_dict() == pytest.approx(expected, abs=1e-9), name


def test_moments_are_of_the_transformed_number_over_present_values(world):
    records, _, done, _ = world
    found = pd.read_parquet(done[DAYS[2]] / "fields.parquet").set_index("field")
    prices = pd.to_numeric(
        window_of(records).query("field == 'price'").value, errors="coerce"
    ).dropna()
    transformed = np.sign(prices) * np.log1p(prices.abs())
    assert found.loc["price", ["mean", "std"]].tolist() == pytest.approx(
        [transformed.mean(), transformed.std(ddof=0)]
    )
    assert found.drop("price")[["mean", "std"]].isna().all(axis=None)


def test_the_histogram_counts_values_by_powers_of_two(world):
    records, _, done, _ = world
    found = pd.read_parquet(done[DAYS[2]] / "histogram.parquet")
    long = window_of(records)
    counts = (
        long[long.value != ""]
        .groupby(["field", "value"])
        .size()
        .rename("impressions")
        .reset_index()
    )
    counts["at_least"] = 2 ** np.floor(np.log2(counts.impressions)).astype(int)
    expected = counts.groupby(["field", "at_least"]).agg(
        values=("value", "size"), impressions=("impressions", "sum")
    )
    pd.testing.assert_frame_equal(
        found.set_index(["field", "at_least"]), expected, check_dtype=False
    )


def test_the_summary_and_the_first_day(world):
    _, _, done, summaries = world
    assert [summaries[day]["days"] for day in DAYS] == [1, 2, 2]
    assert summaries[DAYS[2]]["impressions"] == 400
    assert (
        summaries[DAYS[2]]["values"]
        == pd.read_parquet(done[DAYS[2]] / "fields.parquet").cardinality.sum()
    )
    assert summaries[DAYS[0]]["new_value_rate"] == 1


def test_statistics_refuse_a_day_without_impressions_and_days_of_the_future(spark, world, tmp_path):
    _, partitions, done, _ = world
    with pytest.raises(InputError, match=r"2022-05-09 need that day's impressions"):
        feature_statistics(spark, SCHEMA, partitions, {}, date(2022, 5, 9), SETTINGS, tmp_path)
    with pytest.raises(
        InputError, match=r"only build on days before it, not on \['2022-05-02', '2022-05-03'\]"
    ):
        feature_statistics(spark, SCHEMA, partitions, done, DAYS[1], SETTINGS, tmp_path)


def test_new_values_are_reported_by_day(world):
    records, _, done, _ = world
    found = pd.read_parquet(done[DAYS[2]] / "new_values.parquet").set_index(["field", "day"])
    assert sorted({day for _, day in found.index}) == [str(day) for day in DAYS[1:]]
    for before, day in pairwise(DAYS):
        old, today = (long_form(records[when]).query("value != ''") for when in (before, day))
        for field, group in today.groupby("field"):
            seen = group.value.isin(set(old[old.field == field].value))
            row = found.loc[field, str(day)]
            counts = [
                group.value.nunique(),
                group[~seen].value.nunique(),
                len(group),
                (~seen).sum(),
            ]
            assert (
                row[["values", "new_values", "impressions", "new_impressions"]].tolist() == counts
            ), (field, day)
            assert row["new_value_rate"] == pytest.approx((~seen).mean(), abs=1e-9)


WORDS = st.sampled_from(["", "a", "b", "ä", "\U0001f600", "a b", "07"])
RECORDS = st.lists(
    st.fixed_dictionaries({
        "label": st.integers(0, 1), "site": WORDS, "tags": st.lists(WORDS.filter(bool), max_size=3),
        "age": st.sampled_from(["", "7", "x", "80"]),
        "price": st.sampled_from(["", "abc", "10", "-3"]),
        "second": st.integers(0, 86_399),
    }), min_size=1, max_size=12,
)  # fmt: skip


def as_day(records: list[dict], day: date) -> pd.DataFrame:
    """Drawn records as those of a day."""
    frame = pd.DataFrame(records).astype({"label": "int8"})
    frame["timestamp_ms"] = frame.pop("second") * 1000 + int(pd.Timestamp(day).timestamp() * 1000)
    return frame.assign(hour=frame["timestamp_ms"].astype(str))


@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(RECORDS, min_size=2, max_size=2))
def test_merged_days_are_the_statistics_of_their_union(spark, tmp_path_factory, days):
    root = tmp_path_factory.mktemp("union")
    frames = {day: as_day(drawn, day) for day, drawn in zip(DAYS, days, strict=False)}
    union = pd.concat(frames.values(), ignore_index=True)
    done: dict[date, Path] = {}
    for day, frame in frames.items():
        write_records(root / f"in-{day}", frame)
        done[day] = root / f"out-{day}"
        done[day].mkdir()
        earlier = {when: path for when, path in done.items() if when < day}
        feature_statistics(
            spark, SCHEMA, {day: root / f"in-{day}"}, earlier, day, SETTINGS, done[day]
        )
    write_records(root / "in", union)
    (root / "out").mkdir()
    feature_statistics(spark, SCHEMA, {DAYS[1]: root / "in"}, {}, DAYS[1], SETTINGS, root / "out")
    for name in ("values", "histogram", "fields"):
        found, expected = (
            pd.read_parquet(folder / f"{name}.parquet") for folder in (done[DAYS[1]], root / "out")
        )
        exact = [
            column
            for column in expected
            if column not in ("ctr", "mean", "std", "entropy", "tail_share", "new_value_rate")
        ]
        pd.testing.assert_frame_equal(found[exact], expected[exact])
        floats = [c for c in expected if c not in (*exact, "new_value_rate")]
        pd.testing.assert_frame_equal(found[floats], expected[floats], rtol=1e-9, atol=1e-12)


def test_the_partitioning_does_not_matter_to_a_byte(spark, world, tmp_path):
    records, _, done, _ = world
    write_records(tmp_path / "in", records[DAYS[0]], files=5)
    (tmp_path / "out").mkdir()
    before = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", "7")
    feature_statistics(
        spark, SCHEMA, {DAYS[0]: tmp_path / "in"}, {}, DAYS[0], SETTINGS, tmp_path / "out"
    )
    spark.conf.set("spark.sql.shuffle.partitions", before)
    for path in sorted(done[DAYS[0]].glob("*.parquet")):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name
