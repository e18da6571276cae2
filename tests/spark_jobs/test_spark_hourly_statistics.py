"""Counts of hours merge to the counts of their day, and their edges to its edges."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from features.errors import InputError
from features.partition import Hour
from features.schema import Categorical, MultiValued, Numeric, Schema, Timestamp
from spark_jobs.cross_counts import cross_counts
from spark_jobs.cross_graph import cross_graph
from spark_jobs.feature_statistics import feature_statistics
from spark_jobs.graph_files import read_graph
from spark_jobs.settings import GraphSettings, Relation, StatisticsSettings

pytestmark = pytest.mark.spark

SCHEMA = Schema(
    label="y",
    user="user",
    item="item",
    timestamp=Timestamp(column="ts"),
    fields=(
        Categorical(name="site"),
        MultiValued(name="tags"),
        Numeric(name="price", transform="log"),
    ),
)
YESTERDAY, DAY = date(2022, 5, 1), date(2022, 5, 2)
HOURS = [Hour(DAY, hour) for hour in (3, 7, 23)]
SETTINGS = StatisticsSettings(window_days=2, smoothing=5)


def write(folder: Path, frame: pd.DataFrame) -> Path:
    """An `impressions` artifact as far as statistics read it."""
    (folder / "impressions").mkdir(parents=True)
    frame.to_parquet(folder / "impressions" / "part-00000.parquet", index=False)
    return folder


def records(day: date, hour: int, count: int) -> pd.DataFrame:
    start = int(datetime(day.year, day.month, day.day, hour, tzinfo=UTC).timestamp() * 1000)
    places = range(count)
    return pd.DataFrame(
        {
            "label": pd.Series([int(i % (hour + 2) == 0) for i in places], dtype="int8"),
            "timestamp_ms": [start + 1000 * i for i in places],
            "site": [f"s{i * i % (hour + 5)}" for i in places],
            "tags": [[f"t{i % 3}", f"h{hour}"][: i % 4] for i in places],
            "price": [str(i % 7) if i % 5 else "" for i in places],
        }
    )


@pytest.fixture(scope="module")
def partitions(tmp_path_factory):
    root = tmp_path_factory.mktemp("impressions")
    frames = {when: records(DAY, when.hour, 40 + when.hour) for when in HOURS}
    frames |= {YESTERDAY: records(YESTERDAY, 5, 60), DAY: pd.concat(frames.values())}
    return {when: write(root / str(when), frame) for when, frame in frames.items()}


@pytest.fixture(scope="module")
def statistics(spark, partitions, tmp_path_factory):
    """Statistics of yesterday, the day, and the hours, each built on the partitions before."""
    root, done = tmp_path_factory.mktemp("statistics"), {}

    def build(when, earlier):
        out = root / str(when)
        out.mkdir()
        feature_statistics(spark, SCHEMA, {when: partitions[when]}, earlier, when, SETTINGS, out)
        done[when] = out

    build(YESTERDAY, {})
    build(DAY, {YESTERDAY: done[YESTERDAY]})
    for place, hour in enumerate(HOURS):
        build(hour, {when: done[when] for when in (YESTERDAY, *HOURS[:place])})
    return done


def test_the_window_that_the_last_hour_ends_is_the_day_s(statistics):
    for name in ("values.parquet", "histogram.parquet"):
        pd.testing.assert_frame_equal(
            *(pd.read_parquet(statistics[when] / name) for when in (DAY, HOURS[-1]))
        )
    fields = [
        pd.read_parquet(statistics[when] / "fields.parquet").drop(columns="new_value_rate")
        for when in (DAY, HOURS[-1])
    ]
    pd.testing.assert_frame_equal(*fields)


def test_what_begins_before_the_window_of_an_hour_is_left_out(
    spark, partitions, statistics, tmp_path
):
    earlier = {YESTERDAY: statistics[YESTERDAY], HOURS[0]: statistics[HOURS[0]]}
    found = feature_statistics(
        spark, SCHEMA, {HOURS[1]: partitions[HOURS[1]]}, earlier, HOURS[1], SETTINGS, tmp_path
    )
    assert (found["days"], found["impressions"]) == (3, 60 + 43 + 47)
    short = SETTINGS.model_copy(update={"window_days": 1})
    found = feature_statistics(
        spark, SCHEMA, {HOURS[1]: partitions[HOURS[1]]}, earlier, HOURS[1], short, tmp_path
    )
    assert (found["days"], found["impressions"]) == (2, 43 + 47)


def test_an_hour_may_not_build_on_its_day(spark, partitions, statistics, tmp_path):
    with pytest.raises(
        InputError, match=r"2022-05-02T23 may only build on days before it, not on \['2022-05-02'\]"
    ):
        feature_statistics(
            spark, SCHEMA, partitions, {DAY: statistics[DAY]}, HOURS[2], SETTINGS, tmp_path
        )


def test_edges_of_the_hours_are_those_of_the_day(spark, partitions, tmp_path):
    settings = GraphSettings(
        relations=(Relation(left="site", right="tags"),), window_days=2, min_impressions=2
    )
    for when, impressions in partitions.items():
        (tmp_path / str(when)).mkdir()
        cross_counts(spark, SCHEMA, impressions, settings.relations, tmp_path / str(when))
    found, manifests = [], []
    for name, wanted in (("day", (YESTERDAY, DAY)), ("hours", (YESTERDAY, *HOURS))):
        (tmp_path / name).mkdir()
        counts = {when: tmp_path / str(when) for when in wanted}
        cross_graph(spark, SCHEMA, counts, DAY + timedelta(days=1), settings, tmp_path / name)
        found.append(
            pd.read_parquet(
                tmp_path / name / "edges" / "relation=site__tags" / "part-00000.parquet"
            )
        )
        manifests.append(read_graph(tmp_path / name))
    assert len(found[0]) > 10
    pd.testing.assert_frame_equal(*found)
    assert [(graph.days, graph.hours, str(graph.last_day)) for graph in manifests] == [
        (2, 48, "2022-05-02"),
        (4, 27, "2022-05-02T23"),
    ]


def test_a_graph_of_an_hour_refuses_its_own_day_and_later_hours(spark, partitions, tmp_path):
    settings = GraphSettings(relations=(Relation(left="site", right="tags"),))
    for late in (DAY, HOURS[1], HOURS[2]):
        with pytest.raises(
            InputError,
            match=rf"cross graph of 2022-05-02T07 .* not of \['{late}'\]: they contain its labels",
        ):
            cross_graph(spark, SCHEMA, {late: tmp_path}, HOURS[1], settings, tmp_path)
