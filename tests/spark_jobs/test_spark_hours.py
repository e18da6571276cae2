"""Ingest by the hour: the hours of a day give what the day gives, also when the clock changes."""

import random
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from features.errors import NoDataError
from features.partition import Hour
from features.schema import Categorical, Schema, Timestamp
from spark_jobs.ingest import ingest
from spark_jobs.settings import Negatives, Source
from spark_jobs.times import bounds_ms, last_hour

pytestmark = pytest.mark.spark

BERLIN = ZoneInfo("Europe/Berlin")
LONG_DAY, SHORT_DAY = date(2022, 10, 30), date(2022, 3, 27)
"""The clock goes back from 03:00 to 02:00, and forward from 02:00 to 03:00."""

SCHEMA = Schema(
    label="click",
    user="user",
    item="item",
    timestamp=Timestamp(column="ts"),
    timezone="Europe/Berlin",
    fields=(Categorical(name="x"),),
)
HOURS = [Hour(LONG_DAY, hour) for hour in range(24)]
BUSY = (0, 2, 3, 13, 23)
"""Hours that the log has records of."""


def moment_ms(hour, minute, fold=0):
    local = datetime(
        LONG_DAY.year, LONG_DAY.month, LONG_DAY.day, hour, minute, tzinfo=BERLIN, fold=fold
    )
    return int(local.timestamp() * 1000)


def write_log(path):
    """Records of five hours, one of them repeated, with duplicates and every kind of bad record."""
    dice = random.Random(3)
    times = [
        moment_ms(hour, dice.randrange(60), dice.randrange(2)) for hour in BUSY for _ in range(20)
    ]
    rows = [
        f"{dice.randrange(2)},u{dice.randrange(9)},i{dice.randrange(9)},{ms},v{n}"
        for n, ms in enumerate(times)
    ]
    rows += [*rows[:7], f"2,u,i,{moment_ms(13, 5)},bad", f"1,,i,{moment_ms(2, 5)},nobody"]
    rows += [
        "1,u,i,soon,a",
        "1,u,i,soon,a",
        "1,u,i,,b",
        f"1,u,i,{moment_ms(13, 7)}",
        f"1,u,i,{moment_ms(0, 0) - 1},yesterday",
    ]
    rows += [f"0,u,i,{moment_ms(23, 59) + 60_000},tomorrow"]
    dice.shuffle(rows)
    path.write_text("click,user,item,ts,x\n" + "\n".join(rows) + "\n")


def ingested(spark, source, schema, partition, folder):
    """Return the report and the two tables of a partition, or None where it has no data."""
    out = folder / str(partition)
    out.mkdir()
    try:
        report = ingest(spark, source, schema, partition, out)
    except NoDataError:
        return None
    return report, *(
        pq.read_table(out / name).to_pandas() for name in ("impressions", "quarantine")
    )


def compare(whole, parts):
    """Check that hours together have the day's impressions, in its order, quarantine and counts."""
    report, kept, bad = whole
    pd.testing.assert_frame_equal(pd.concat([part[1] for part in parts], ignore_index=True), kept)
    quarantined = pd.concat([part[2] for part in parts])
    order = ["reason", "record"]
    pd.testing.assert_frame_equal(
        quarantined.sort_values(order, ignore_index=True), bad.sort_values(order, ignore_index=True)
    )
    for name in ("rows_in", "rows_kept", "rows_quarantined"):
        assert sum(getattr(part[0], name) for part in parts) == getattr(report, name), name
    assert {
        reason: sum(part[0].reasons[reason] for part in parts) for reason in report.reasons
    } == report.reasons


@pytest.mark.parametrize("partition", ["path", "timestamp"])
def test_the_hours_of_a_day_are_the_day(spark, tmp_path, partition):
    write_log(tmp_path / f"{LONG_DAY}.csv")
    source = Source(path=str(tmp_path / "{date}.csv"), format="csv", partition=partition)
    whole = ingested(spark, source, SCHEMA, LONG_DAY, tmp_path)
    found = {
        hour.hour: ingested(spark, source, SCHEMA, hour, tmp_path)
        for hour in HOURS
        if hour.hour in {*BUSY, 1, 12}
    }
    parts = [part for part in found.values() if part]
    assert [hour for hour, part in found.items() if part] == list(BUSY)
    compare(whole, parts)
    assert whole[0].reasons["timestamp"] == found[23][0].reasons["timestamp"] == 3
    assert (
        whole[0].reasons["wrong_day"]
        == found[23][0].reasons["wrong_day"]
        == (2 if partition == "path" else 0)
    )
    for hour, (_, kept, _) in ((hour, part) for hour, part in found.items() if part):
        local = [
            datetime.fromtimestamp(ms / 1000, UTC).astimezone(BERLIN) for ms in kept.timestamp_ms
        ]
        assert {(moment.date(), moment.hour) for moment in local} == {(LONG_DAY, hour)}
    turns = {
        datetime.fromtimestamp(ms / 1000, UTC).astimezone(BERLIN).fold
        for ms in found[2][1].timestamp_ms
    }
    assert turns == {0, 1}


def test_files_by_the_hour_tell_the_hour_and_a_record_of_another_is_quarantined(spark, tmp_path):
    header = "click,user,item,ts,x\n"
    (tmp_path / f"{LONG_DAY}-02.csv").write_text(
        f"{header}1,u,i,{moment_ms(2, 1)},a\n0,u,i,{moment_ms(2, 1, 1)},b\n0,u,i,soon,c\n"
    )
    (tmp_path / f"{LONG_DAY}-03.csv").write_text(
        f"{header}1,u,i,{moment_ms(3, 1)},a\n0,u,i,{moment_ms(2, 5)},late\n"
    )
    source = Source(path=str(tmp_path / "{date}-{hour}.csv"), format="csv", partition="path")
    two, three = (ingested(spark, source, SCHEMA, HOURS[hour], tmp_path) for hour in (2, 3))
    assert (two[0].rows_in, two[0].rows_kept, two[0].reasons["timestamp"]) == (3, 2, 1)
    assert (three[0].rows_in, three[0].rows_kept, three[0].reasons["wrong_day"]) == (2, 1, 1)
    day = ingested(spark, source, SCHEMA, LONG_DAY, tmp_path)
    assert (day[0].rows_in, day[0].rows_kept) == (5, 4)
    (tmp_path / "none").mkdir()
    with pytest.raises(
        NoDataError,
        match=r"no file for 2022-10-30T04 at .*2022-10-30-04\.csv: the hour has no data",
    ):
        ingest(spark, source, SCHEMA, HOURS[4], tmp_path / "none")


def test_the_hour_that_the_clock_skips_has_no_data_and_the_one_it_repeats_two_hours(
    spark, tmp_path
):
    (tmp_path / "log.csv").write_text(
        "click,user,item,ts,x\n1,u,i,1648342800000,a\n"
    )  # 03:00 in Berlin
    source = Source(path=str(tmp_path / "log.csv"), format="csv")
    with pytest.raises(NoDataError, match="the clock of Europe/Berlin skips 2022-03-27T02"):
        ingest(spark, source, SCHEMA, Hour(SHORT_DAY, 2), tmp_path)
    assert ingest(spark, source, SCHEMA, Hour(SHORT_DAY, 3), tmp_path).rows_kept == 1


def test_an_hour_with_unreadable_times_only_is_no_hour_and_says_so(spark, tmp_path):
    (tmp_path / f"{LONG_DAY}.csv").write_text(
        f"click,user,item,ts,x\n1,u,i,{moment_ms(2, 1)},a\n1,u,i,soon,b\n1,u,i,0,c\n"
    )
    source = Source(path=str(tmp_path / "{date}.csv"), format="csv", partition="path")
    with pytest.raises(
        NoDataError,
        match=r"T23 .*\(1 records have no readable time in 'ts'\) \(1 records are of other days\)",
    ):
        ingest(spark, source, SCHEMA, HOURS[23], tmp_path)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu"])
@pytest.mark.parametrize("day", [LONG_DAY, SHORT_DAY, date(2022, 4, 3), date(2022, 10, 2)])
def test_an_hour_is_what_the_clock_shows(zone, day):
    start = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(days=1)
    bounds = {hour: bounds_ms(Hour(day, hour), zone) for hour in range(24)}
    for minutes in range(0, 3 * 1440, 15):
        moment = start + timedelta(minutes=minutes)
        local, ms = moment.astimezone(ZoneInfo(zone)), int(moment.timestamp() * 1000)
        inside = [
            hour for hour, parts in bounds.items() if any(first <= ms < end for first, end in parts)
        ]
        assert inside == ([local.hour] if local.date() == day else []), moment


def test_the_last_hour_of_a_day_is_the_last_that_the_clock_shows():
    assert last_hour(LONG_DAY, "Europe/Berlin") == Hour(LONG_DAY, 23)
    assert last_hour(date(2018, 3, 24), "America/Asuncion") == Hour(date(2018, 3, 24), 23)
    assert last_hour(date(2011, 12, 30), "Pacific/Apia") is None  # the day that Samoa left out


RULE = Negatives(per_click=3, window_minutes=120, session="session", seed=5)
CLICKS = Schema(
    label="click",
    user="user",
    item="item",
    timestamp=Timestamp(column="ts"),
    fields=(Categorical(name="x"),),
)
DAY = date(2017, 10, 2)
CLICKED = (0, 1, 2, 3)


def clicks():
    """Sessions that go on over the hours from 22:00 of the day before until 04:00."""
    dice, start, rows = (
        random.Random(8),
        int(datetime(2017, 10, 2, tzinfo=UTC).timestamp() * 1000),
        [],
    )
    for session in range(120):
        ts = start + dice.randrange(-2 * 3_600_000, 3 * 3_600_000)
        for item in dice.sample(range(1, 30), dice.randrange(1, 5)):
            ts += dice.randrange(1000, 1_500_000)
            if ts < start + 4 * 3_600_000:
                rows.append((session % 40, session, item, ts, dice.randrange(3)))
    return pd.DataFrame(rows, columns=["user", "session", "item", "ts", "x"])


@pytest.mark.parametrize("pattern", ["all.parquet", "{date}.parquet", "{date}/{hour}.parquet"])
def test_drawn_negatives_of_the_hours_are_the_day_s(spark, tmp_path, pattern):
    log = clicks()
    local = pd.to_datetime(log.ts, unit="ms", utc=True)
    names = [pattern.replace("{date}", f"{t:%Y-%m-%d}").replace("{hour}", f"{t:%H}") for t in local]
    for name, part in log.groupby(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        part.to_parquet(tmp_path / name, index=False)
    source = Source(
        path=str(tmp_path / pattern),
        partition="path" if "date" in pattern else "timestamp",
        negatives=RULE,
    )
    out = tmp_path / "out"
    out.mkdir()
    whole = ingested(spark, source, CLICKS, DAY, out)
    parts = [ingested(spark, source, CLICKS, Hour(DAY, hour), out) for hour in CLICKED]
    compare(whole, parts)
    labels = whole[1].label
    assert (
        labels.sum() == (log.ts >= int(datetime(2017, 10, 2, tzinfo=UTC).timestamp() * 1000)).sum()
    )
    assert (labels == 0).sum() > 2.5 * labels.sum()
    first = parts[0][1]
    assert (
        first.label == 0
    ).sum() > 2.5 * first.label.sum()  # the window of the first hour reaches into the day before


@pytest.mark.parametrize(
    "source",
    [
        {"path": "a/{hour}.csv", "partition": "path"},
        {"path": "a/{date}/{hour}.csv"},
        {"path": ["{date}/{hour}.csv", "{date}.csv"], "partition": "path"},
    ],
    ids=["no date", "by timestamp", "one of two"],
)
def test_a_pattern_by_the_hour_names_the_date_too_and_alone_tells_the_hour(source):
    with pytest.raises(ValidationError, match="needs `partition: path`"):
        Source.model_validate(source)
