"""Which day a run is for."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dags.partition import resolve_day
from features.errors import InputError

SHANGHAI = ZoneInfo("Asia/Shanghai")
NEW_YORK = ZoneInfo("America/New_York")
INTERVAL = datetime(2022, 4, 25, tzinfo=UTC)


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
    "text", ["20220425", "2022-W17-1", "2022-4-25", "yesterday", "2022-02-30", "{{ ds }}", "../../etc", "2022-04-25 "]
)
def test_anything_but_an_iso_date_is_refused(text):
    with pytest.raises(InputError, match="`date` is"):
        resolve_day(text, INTERVAL, ZoneInfo("UTC"))
