"""Which day or hour a run is for."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dags.run_date import Calendar, resolve_partition
from features.errors import InputError
from features.partition import Hour

SHANGHAI = ZoneInfo("Asia/Shanghai")
NEW_YORK = ZoneInfo("America/New_York")
BERLIN = ZoneInfo("Europe/Berlin")
INTERVAL = datetime(2022, 4, 25, tzinfo=UTC)


def resolve_day(day, interval_start, zone):
    return resolve_partition(day, None, interval_start, Calendar(zone))


def resolve_hour(interval_start, zone):
    return resolve_partition(None, None, interval_start, Calendar(zone, by_hour=True))


def test_an_explicit_date_wins_over_the_interval():
    assert resolve_day("2020-02-29", INTERVAL, ZoneInfo("UTC")) == date(2020, 2, 29)


def test_without_a_date_the_day_is_where_the_interval_starts():
    assert resolve_day(None, INTERVAL, ZoneInfo("UTC")) == date(2022, 4, 25)
    assert resolve_day("", INTERVAL, ZoneInfo("UTC")) == date(2022, 4, 25)


def test_the_day_is_the_schedules_not_utcs():
    assert resolve_day(None, datetime(2022, 4, 24, 16, tzinfo=UTC), SHANGHAI) == date(2022, 4, 25)
    assert resolve_day(None, datetime(2022, 4, 25, 4, tzinfo=UTC), NEW_YORK) == date(2022, 4, 25)


def test_an_early_morning_schedule_means_the_day_of_its_start():
    assert resolve_day(None, INTERVAL + timedelta(hours=3), ZoneInfo("UTC")) == date(2022, 4, 25)


@given(st.dates(date(1990, 1, 1), date(2100, 1, 1)))
def test_midnight_of_any_day_in_any_zone_is_that_day(day):
    for zone in (SHANGHAI, NEW_YORK, ZoneInfo("UTC")):
        start = datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
        assert resolve_day(None, start, zone) == day


def test_a_run_with_neither_is_refused_and_told_what_to_do():
    with pytest.raises(InputError, match="trigger it again with `date`"):
        resolve_day(None, None, ZoneInfo("UTC"))


@pytest.mark.parametrize(
    "text",
    [
        "20220425",
        "2022-W17-1",
        "2022-4-25",
        "yesterday",
        "2022-02-30",
        "{{ ds }}",
        "../../etc",
        "2022-04-25 ",
    ],
)
def test_anything_but_an_iso_date_is_refused(text):
    with pytest.raises(InputError, match="`date` is"):
        resolve_day(text, INTERVAL, ZoneInfo("UTC"))


def test_a_date_with_an_hour_is_that_hour_whatever_the_schedule():
    for by_hour in (False, True):
        calendar = Calendar(SHANGHAI, by_hour)
        assert resolve_partition("2022-05-01", 0, INTERVAL, calendar) == Hour(date(2022, 5, 1), 0)
        assert resolve_partition("2022-05-01", None, INTERVAL, calendar) == date(2022, 5, 1)


def test_by_the_hour_a_run_is_of_the_hour_in_which_its_interval_starts():
    noon = datetime(2022, 4, 25, 12, tzinfo=UTC)
    assert resolve_hour(noon, ZoneInfo("UTC")) == Hour(date(2022, 4, 25), 12)
    assert resolve_hour(noon, SHANGHAI) == Hour(date(2022, 4, 25), 20)
    assert resolve_hour(noon + timedelta(minutes=30), NEW_YORK) == Hour(date(2022, 4, 25), 8)


def test_both_runs_of_an_hour_that_the_clock_repeats_are_of_that_hour():
    turns = [datetime(2022, 10, 30, hour, tzinfo=UTC) for hour in (0, 1)]
    assert [resolve_hour(turn, BERLIN) for turn in turns] == [Hour(date(2022, 10, 30), 2)] * 2


def test_an_hour_without_its_date_is_refused():
    with pytest.raises(InputError, match="`hour` is 0 and `date` is empty"):
        resolve_partition(None, 0, INTERVAL, Calendar(SHANGHAI))
