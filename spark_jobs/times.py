"""Times as Column expressions: epochs, ISO strings and local time parts, equal to `features.times`.

Everything is int64: an epoch never passes through a float.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import date
from itertools import pairwise

from pyspark.sql import Column
from pyspark.sql import functions as F

from features.canonical import EPOCH, ISO
from features.partition import HOURS_PER_DAY, Hour, Partition, day_of, length_h
from features.schema import TimePart, Timestamp, TimeUnit
from features.timezones import offset_seconds, utc_offsets

_DAY_S = 86_400
_HOUR_S = 3600
_EPOCH_DAY = date(1970, 1, 1)
_LARGEST_SLOT_S = 2**22


def epoch_ms(raw: Column, timestamp: Timestamp) -> Column:
    """Return the milliseconds (long) of raw times, null where they cannot be read.

    Args:
        raw: canonical strings, epochs in the timestamp's unit or ISO times.
        timestamp: unit, and for ISO the offset assumed where none is written.
    """
    if timestamp.unit is TimeUnit.ISO:
        return _iso_ms(raw, offset_seconds(timestamp.assume_offset))
    return whole_ms(F.when(raw.rlike(EPOCH), raw).otherwise(None).cast("long"), timestamp.unit)


def whole_ms(count: Column, unit: TimeUnit) -> Column:
    """Return the milliseconds (long) of epochs (long) in a unit, null where they are too many."""
    if unit is TimeUnit.SECONDS:
        return F.try_multiply(count, F.lit(1000).cast("long"))
    return count if unit is TimeUnit.MILLISECONDS else floor_div(count, 1000)


def time_part(ms: Column, part: TimePart, timezone: str) -> Column:
    """Return a part of the local time (long): hour 0-23, weekday 0-6 from Monday, or hour of the week 0-167."""
    utc_s = floor_div(ms, 1000)
    seconds = utc_s + _offset_s(utc_s, timezone)
    hour = floor_div(F.pmod(seconds, F.lit(_DAY_S)), 3600)
    weekday = F.pmod(floor_div(seconds, _DAY_S) + 3, F.lit(7))  # 1970-01-01 was a Thursday
    if part is TimePart.HOUR_OF_DAY:
        return hour
    return weekday if part is TimePart.DAY_OF_WEEK else weekday * 24 + hour


def in_partition(ms: Column, partition: Partition, timezone: str) -> Column:
    """Return whether moments (long, milliseconds UTC) fall in this local day or hour."""
    inside = F.lit(False)
    for first, end in bounds_ms(partition, timezone):
        inside = inside | ((ms >= first) & (ms < end))
    return inside


def bounds_ms(partition: Partition, timezone: str) -> tuple[tuple[int, int], ...]:
    """Return the stretches `[first, end)` of UTC milliseconds whose local time is in the day or hour.

    They are several where the zone's offset changes meanwhile (an hour that the clock repeats has both its turns), and none
    for what the clock skips.
    """
    starts, offsets = utc_offsets(timezone)
    begin = (day_of(partition) - _EPOCH_DAY).days * _DAY_S + (
        partition.hour * _HOUR_S if isinstance(partition, Hour) else 0
    )
    stretches = []
    for start, end, offset in zip(starts, (*starts[1:], 2**53), offsets, strict=True):
        first, last = (
            max(start, begin - offset),
            min(end, begin + length_h(partition) * _HOUR_S - offset),
        )
        if first < last:
            stretches.append((first * 1000, last * 1000))
    return tuple(stretches)


def last_hour(day: date, timezone: str) -> Hour | None:
    """Return the last hour that the clock shows on a day; None where it skips the whole day."""
    hours = (Hour(day, hour) for hour in reversed(range(HOURS_PER_DAY)))
    return next((hour for hour in hours if bounds_ms(hour, timezone)), None)


def floor_div(value: Column, by: int) -> Column:
    """Return the integer quotient (long) rounded towards minus infinity; the remainder goes first, so nothing is lost."""
    return F.call_function("div", value - F.pmod(value, F.lit(by)), F.lit(by))


def _iso_ms(raw: Column, assumed_s: int) -> Column:
    well_formed = raw.rlike(ISO)
    safe = F.when(well_formed, raw).otherwise("1970-01-01T00:00:00Z")
    year, month, day, hour, minute, second = (_group(safe, i) for i in range(1, 7))
    valid = well_formed & _is_date(year, month, day) & (hour < 24) & (minute < 60) & (second < 60)
    seconds = (
        _days(valid, year, month, day) * _DAY_S
        + hour * 3600
        + minute * 60
        + second
        - _written_offset(safe, assumed_s)
    )
    fraction = F.substring(F.concat(F.regexp_extract(safe, ISO, 7), F.lit("000")), 1, 3).cast(
        "long"
    )
    return F.when(valid, seconds * 1000 + fraction)


def _group(text: Column, index: int) -> Column:
    """A numbered group of the ISO pattern as a long; an absent one is 0."""
    return F.concat(F.lit("0"), F.regexp_extract(text, ISO, index)).cast("long")


def _is_date(year: Column, month: Column, day: Column) -> Column:
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    length = (
        F.when(month == 2, F.when(leap, 29).otherwise(28))
        .when(month.isin(4, 6, 9, 11), 30)
        .otherwise(31)
    )
    return (month >= 1) & (month <= 12) & (day >= 1) & (day <= length)


def _days(valid: Column, year: Column, month: Column, day: Column) -> Column:
    """Days since 1970-01-01 in the proleptic Gregorian calendar; 0 where the date is not valid."""
    parts = (
        F.when(valid, part).otherwise(safe).cast("int")
        for part, safe in ((year, 1970), (month, 1), (day, 1))
    )
    return F.unix_date(F.make_date(*parts)).cast("long")


def _written_offset(text: Column, assumed_s: int) -> Column:
    offset = F.regexp_replace(F.regexp_extract(text, ISO, 8), ":", "")
    signed = offset.rlike(r"\A[-+][0-9]{4}\z")
    number = F.when(signed, offset).otherwise("0").cast("long")
    size = F.abs(number)
    seconds = F.signum(number).cast("long") * (floor_div(size, 100) * 3600 + size % 100 * 60)
    return F.when(offset == "", F.lit(assumed_s).cast("long")).otherwise(seconds)


def _offset_s(utc_s: Column, timezone: str) -> Column:
    """The zone's offset at epoch seconds.

    Time since the first change is cut into slots so short that each holds one change at most: the slot tells which
    changes lie before it, and one comparison settles the rest. The cost does not grow with the number of changes.
    """
    starts, offsets = utc_offsets(timezone)
    if len(offsets) == 1:
        return F.lit(offsets[0]).cast("long")
    slot_s = (
        min(_LARGEST_SLOT_S, *(later - earlier for earlier, later in pairwise(starts[1:])))
        if len(starts) > 2
        else _LARGEST_SLOT_S
    )
    first, slots = starts[1], (starts[-1] - starts[1]) // slot_s + 1
    before = [bisect_right(starts, first + slot * slot_s) - 1 for slot in range(slots)]
    slot = F.least(F.greatest(floor_div(utc_s - first, slot_s), F.lit(0)), F.lit(slots - 1))
    index = F.element_at(_longs(before), (slot + 1).cast("int"))
    following = F.element_at(_longs([*starts[1:], 2**62]), (index + 1).cast("int"))
    index = F.when(utc_s < first, 0).otherwise(index + F.when(utc_s >= following, 1).otherwise(0))
    return F.element_at(_longs(offsets), (index + 1).cast("int"))


def _longs(values: list[int] | tuple[int, ...]) -> Column:
    """A constant array: one expression for Spark's parser, which is faster than thousands of literals one by one."""
    return F.expr("array(" + ",".join(f"{value}L" for value in values) + ")")
