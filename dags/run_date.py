"""Decides the day or hour that a run is for.

An explicit `date`, with or without an `hour`, has precedence. Otherwise it is the day, or the hour,
in which the run's data interval starts, in the schedule's time zone: the run at 03:00 on the 2nd
trains on the 1st; by the hour, the run at 03:00 trains on the hour from 02:00. Airflow 3 gives some
runs no interval: those must name a date.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from zoneinfo import ZoneInfo

from features.errors import InputError
from features.partition import Hour, Partition


@dataclass(frozen=True)
class Calendar:
    """The time zone in which the schedule's days begin, and whether each run is of an hour."""

    zone: ZoneInfo
    by_hour: bool = False


def resolve_partition(
    day: str | None, hour: int | None, interval_start: datetime | None, calendar: Calendar
) -> Partition:
    """Return the day or hour that a run is for.

    Args:
        day: the `date` parameter, `YYYY-MM-DD`, or nothing.
        hour: the `hour` parameter, 0 to 23, or nothing: the whole day.
        interval_start: start of the run's data interval (aware), or None if there is none.
        calendar: says which day or hour an interval stands for.

    Raises:
        InputError: there is neither date nor interval, `day` is not a date, or there is an hour
            without a date.
    """
    if day:
        return _parse(day) if hour is None else Hour(_parse(day), hour)
    if hour is not None:
        raise InputError(
            f"`hour` is {hour} and `date` is empty: set `date` too, or leave both empty"
        )
    if interval_start is None:
        raise InputError(
            "this run has neither a `date` nor a data interval: "
            "trigger it again with `date` set to YYYY-MM-DD"
        )
    # Airflow keeps times in UTC; a day begins in the schedule's time zone.
    start = interval_start.astimezone(calendar.zone)
    return Hour(start.date(), start.hour) if calendar.by_hour else start.date()


def _parse(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"`date` is {text!r}: write it as YYYY-MM-DD") from error
    # Python also reads 20220425 and 2022-W17-1. One notation avoids two runs of the same day.
    if day.isoformat() != text:
        raise InputError(f"`date` is {text!r}: write it as {day.isoformat()}")
    return day
