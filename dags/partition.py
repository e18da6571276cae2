"""The one place where a run's day is decided.

An explicit `date` wins; else the day is the one on which the run's data interval starts, in the schedule's time zone
(the run of 03:00 on the 2nd learns the 1st). Airflow 3 gives some runs no interval at all: those must name a date.
"""

from __future__ import annotations

from datetime import date, datetime
from zoneinfo import ZoneInfo

from features.errors import InputError


def resolve_day(explicit: str | None, interval_start: datetime | None, zone: ZoneInfo) -> date:
    """Return the day that a run is for.

    Args:
        explicit: the `date` parameter, `YYYY-MM-DD`, or nothing.
        interval_start: start of the run's data interval (aware), or None where Airflow gave none.
        zone: where the days of the schedule begin.

    Raises:
        InputError: neither is given, or `explicit` is not a date.
    """
    if explicit:
        return _parse(explicit)
    if interval_start is None:
        raise InputError("this run has neither a `date` nor a data interval: trigger it again with `date` set to YYYY-MM-DD")
    return interval_start.astimezone(zone).date()


def _parse(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"`date` is {text!r}: write it as YYYY-MM-DD") from error
    if day.isoformat() != text:
        raise InputError(f"`date` is {text!r}: write it as {day.isoformat()}")
    return day
