"""UTC offsets of a time zone as two arrays, so that NumPy and a TensorFlow graph can look a local time up."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from features.errors import InputError

_FIRST = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime(2100, 1, 1, tzinfo=UTC)
_FIXED = re.compile(r"([-+])(\d{2}):?(\d{2})")


def parse_timezone(name: str) -> tzinfo:
    """Return the zone of an IANA name (`Asia/Shanghai`) or a fixed offset (`+08:00`, `UTC`, `Z`).

    Raises:
        InputError: the name is neither.
    """
    if name in ("UTC", "Z"):
        return UTC
    fixed = _FIXED.fullmatch(name)
    if fixed:
        return timezone(timedelta(seconds=offset_seconds(name)))
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise InputError(
            f"timezone {name!r} is unknown: give an IANA name such as Europe/Berlin or an offset such as +08:00"
        ) from error


def offset_seconds(text: str) -> int:
    """Return the seconds of a fixed offset spelled `+08:00`, `-0530` or `Z`."""
    if text == "Z":
        return 0
    match = _FIXED.fullmatch(text)
    if match is None:
        raise InputError(f"offset {text!r} is not of the form +HH:MM")
    sign, hours, minutes = match.groups()
    return (1 if sign == "+" else -1) * (int(hours) * 3600 + int(minutes) * 60)


@lru_cache(maxsize=32)
def utc_offsets(name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return `(starts_s, offsets_s)`: from epoch second `starts_s[i]` on, local time is UTC + `offsets_s[i]`.

    Covers 1970 to 2100; the first start is the smallest int64, so every epoch has an entry.
    """
    zone = parse_timezone(name)
    starts, offsets = [-(2**63)], [_offset(zone, _FIRST)]
    day = _FIRST
    while day < _LAST:
        following = day + timedelta(days=1)
        if _offset(zone, following) != offsets[-1]:
            starts.append(_change(zone, day, following))
            offsets.append(_offset(zone, following))
        day = following
    return tuple(starts), tuple(offsets)


def _offset(zone: tzinfo, moment: datetime) -> int:
    delta = moment.astimezone(zone).utcoffset()
    return 0 if delta is None else int(delta.total_seconds())


def _change(zone: tzinfo, low: datetime, high: datetime) -> int:
    """Return the epoch second in (low, high] at which the offset changes, by bisection."""
    first, last = int(low.timestamp()), int(high.timestamp())
    old = _offset(zone, low)
    while last - first > 1:
        middle = (first + last) // 2
        if _offset(zone, datetime.fromtimestamp(middle, UTC)) == old:
            first = middle
        else:
            last = middle
    return last
