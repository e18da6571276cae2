"""The KuaiRand profile's layout on the real files: duplicates, days, side tables."""

from datetime import UTC, date, datetime, timedelta
from functools import reduce

import pandas as pd
import pytest
from pyspark.sql import DataFrame

from features.schema import Categorical, MultiValued, Numeric, Schema, Time, Timestamp
from spark_jobs.ingest import ingest
from spark_jobs.records import REASON, validated_records
from spark_jobs.settings import SideTable, Source
from spark_jobs.sources import read_log

pytestmark = [pytest.mark.spark, pytest.mark.data]

SCHEMA = Schema(
    label="is_click",
    user="user_id",
    item="video_id",
    timestamp=Timestamp(column="time_ms"),
    timezone="Asia/Shanghai",
    fields=(
        Categorical(name="tab"),
        MultiValued(name="tag"),
        Time(name="hour"),
        Numeric(name="video_duration", transform="log"),
        Categorical(name="degree", column="user_active_degree"),
        Categorical(name="music", column="video_music_id"),
    ),
)


@pytest.fixture(scope="module")
def source(data_folder):
    folder = data_folder / "kuairand_pure"
    users = SideTable(path=f"{folder}/user_features_pure.csv", key="user_id")
    videos = SideTable(
        path=f"{folder}/video_features_basic_pure.csv",
        key="video_id",
        prefix="video_",
        columns=("music_id",),
    )
    return Source(path=f"{folder}/{{val,test}}.parquet", side_tables=(users, videos))


def test_all_days_keep_all_records_but_exact_duplicates(spark, source):
    # Fourteen days by the log's `date`; by `time_ms` 141 records are of the evening before.
    days = [date(2022, 4, 24) + timedelta(days=i) for i in range(15)]
    log = read_log(spark, source, days[0])
    reasons = reduce(
        DataFrame.unionAll,
        (validated_records(log, source, SCHEMA, day).select(REASON) for day in days),
    )
    assert {row[0]: row[1] for row in reasons.groupBy(REASON).count().collect()} == {
        None: 222_869,
        "duplicate": 5_460,
    }


def test_a_day_agrees_with_pandas(spark, source, data_folder, tmp_path):
    report = ingest(spark, source, SCHEMA, date(2022, 5, 8), tmp_path)
    log = pd.read_parquet(data_folder / "kuairand_pure" / "test.parquet").drop_duplicates()
    midnight = int(datetime(2022, 5, 7, 16, tzinfo=UTC).timestamp() * 1000)
    day = log[log.time_ms.between(midnight, midnight + 86_400_000 - 1)]
    found = pd.read_parquet(tmp_path / "impressions")
    assert (report.rows_kept, found.label.sum()) == (len(day), day.is_click.sum())
    users = (
        pd.read_csv(data_folder / "kuairand_pure" / "user_features_pure.csv")
        .set_index("user_id")
        .user_active_degree
    )
    expected = day.user_id.map(users).fillna("").value_counts()
    pd.testing.assert_series_equal(
        found.degree.value_counts().sort_index(), expected.sort_index(), check_names=False
    )
    assert sorted(found.hour.astype("int64")) == sorted(day.time_ms)
    assert found.music.str.fullmatch(r"\d+|").all()
