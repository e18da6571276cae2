"""UTC offsets of a time zone as two arrays, for lookups in NumPy and in a TensorFlow graph."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from features.errors import InputError

_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
_FIXED = re.compile(r"([-+])(\d{2}):?(\d{2})")


def parse_timezone(name: str) -> tzinfo:
    """Return the zone of an IANA name or an offset (`+08:00`, `UTC`, `Z`); raises InputError."""
    if name in ("UTC", "Z"):
        return UTC
    if _FIXED.fullmatch(name):
        return timezone(timedelta(seconds=offset_seconds(name)))
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise InputError(
            f"timezone {name!r} is unknown: use an IANA name such as Europe/Berlin or an offset "
            "such as +08:00"
        ) from error


def offset_seconds(text: str) -> int:
    """Return the seconds of an offset written as `+08:00`, `-0530` or `Z`, or raise InputError."""
    if text == "Z":
        return 0
    match = _FIXED.fullmatch(text)
    if match is None:
        raise InputError(f"offset {text!r} is not of the form +HH:MM")
    sign, hours, minutes = match.groups()
    return (1 if sign == "+" else -1) * (int(hours) * 3600 + int(minutes) * 60)


@lru_cache(maxsize=32)
def utc_offsets(name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the UTC offsets of a zone from 1970 to 2100, and when each begins.

    Returns:
        `(starts_s, offsets_s)`: from epoch second `starts_s[i]`, local time is UTC +
        `offsets_s[i]`. The first start is the smallest int64, so every epoch has an entry.
    """
    zone = parse_timezone(name)

    def offset(moment: datetime) -> int:
        delta = moment.astimezone(zone).utcoffset()
        return 0 if delta is None else int(delta.total_seconds())

    starts, offsets = [-(2**63)], [offset(_FIRST)]
    day = _FIRST
    while day < _LAST:
        next_day = day + timedelta(days=1)
        if offset(next_day) != offsets[-1]:
            # Zone data has no list of changes, so the second of the change is found by bisection.
            low, high = int(day.timestamp()), int(next_day.timestamp())
            while high - low > 1:
                middle = (low + high) // 2
                same = offset(datetime.fromtimestamp(middle, UTC)) == offsets[-1]
                low, high = (middle, high) if same else (low, middle)
            starts.append(high)
            offsets.append(offset(next_day))
        day = next_day
    return tuple(starts), tuple(offsets)
