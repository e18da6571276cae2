"""The one place where a run's day or hour is decided.

An explicit `date`, with or without an `hour`, wins; else it is the day, or the hour, in which the run's data interval starts,
in the schedule's time zone (the run of 03:00 on the 2nd learns the 1st; by the hour, that of 03:00 learns the hour from 02:00).
Airflow 3 gives some runs no interval at all: those must name a date.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from zoneinfo import ZoneInfo

from features.errors import InputError
from features.partition import Hour, Partition


@dataclass(frozen=True)
class Calendar:
    """Where the days of the schedule begin, and whether its runs are of an hour each."""

    zone: ZoneInfo
    by_hour: bool = False


def resolve_partition(
    day: str | None, hour: int | None, interval_start: datetime | None, calendar: Calendar
) -> Partition:
    """Return the day or hour that a run is for.

    Args:
        day: the `date` parameter, `YYYY-MM-DD`, or nothing.
        hour: the `hour` parameter, 0 … 23, or nothing: the whole day.
        interval_start: start of the run's data interval (aware), or None where Airflow gave none.
        calendar: what an interval stands for.

    Raises:
        InputError: neither date nor interval is given, `day` is not a date, or an hour stands without one.
    """
    if day:
        return _parse(day) if hour is None else Hour(_parse(day), hour)
    if hour is not None:
        raise InputError(
            f"`hour` is {hour} and `date` is empty: set `date` too, or leave both empty"
        )
    if interval_start is None:
        raise InputError(
            "this run has neither a `date` nor a data interval: trigger it again with `date` set to YYYY-MM-DD"
        )
    start = interval_start.astimezone(calendar.zone)
    return Hour(start.date(), start.hour) if calendar.by_hour else start.date()


def _parse(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"`date` is {text!r}: write it as YYYY-MM-DD") from error
    if day.isoformat() != text:
        raise InputError(f"`date` is {text!r}: write it as {day.isoformat()}")
    return day
