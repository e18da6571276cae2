"""Times as Column expressions: epochs, ISO strings and local time parts, equal to `features.times`.

All numbers are int64: an epoch in microseconds has more digits than a float keeps.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
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
        timestamp: unit, and for ISO the offset assumed for times without one.
    """
    if timestamp.unit is TimeUnit.ISO:
        return _iso_ms(raw, offset_seconds(timestamp.assume_offset))
    return whole_ms(F.when(raw.rlike(EPOCH), raw).otherwise(None).cast("long"), timestamp.unit)


def whole_ms(count: Column, unit: TimeUnit) -> Column:
    """Return the milliseconds (long) of epochs (long) in a unit, null where they overflow."""
    if unit is TimeUnit.SECONDS:
        return F.try_multiply(count, F.lit(1000).cast("long"))
    return count if unit is TimeUnit.MILLISECONDS else floor_div(count, 1000)


def time_part(ms: Column, part: TimePart, timezone: str) -> Column:
    """Return a part of the local time (long): hour, weekday from Monday, or hour of the week."""
    utc_s = floor_div(ms, 1000)
    seconds = utc_s + _offset_s(utc_s, timezone)
    hour = floor_div(F.pmod(seconds, F.lit(_DAY_S)), 3600)
    # 1970-01-01 was a Thursday, which is weekday 3.
    weekday = F.pmod(floor_div(seconds, _DAY_S) + 3, F.lit(7))
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
    """Return the intervals `[first, end)` of UTC milliseconds whose local time is in the partition.

    There are several if the zone's offset changes meanwhile (an hour that the clock repeats has
    two), and none for what the clock skips.
    """
    starts, offsets = utc_offsets(timezone)
    begin = (day_of(partition) - _EPOCH_DAY).days * _DAY_S
    if isinstance(partition, Hour):
        begin += partition.hour * _HOUR_S
    finish = begin + length_h(partition) * _HOUR_S
    intervals = []
    for start, end, offset in zip(starts, (*starts[1:], 2**53), offsets, strict=True):
        first, last = max(start, begin - offset), min(end, finish - offset)
        if first < last:
            intervals.append((first * 1000, last * 1000))
    return tuple(intervals)


def last_hour(day: date, timezone: str) -> Hour | None:
    """Return the last hour that the clock shows on a day; None if it skips the whole day."""
    hours = (Hour(day, hour) for hour in reversed(range(HOURS_PER_DAY)))
    return next((hour for hour in hours if bounds_ms(hour, timezone)), None)


def floor_div(value: Column, by: int) -> Column:
    """Return the integer quotient (long), rounded towards minus infinity."""
    # Spark's `div` rounds towards 0. Without the remainder there is nothing to round.
    return F.call_function("div", value - F.pmod(value, F.lit(by)), F.lit(by))


def _iso_ms(raw: Column, assumed_s: int) -> Column:
    """Return the milliseconds of ISO times; `assumed_s` is the offset of those without one."""
    # 1. The groups of the pattern, as longs; an absent one is 0. In ANSI mode a cast of other text
    # would raise, also in rows that a later `when` leaves out: those get a valid time.
    well_formed = raw.rlike(ISO)
    safe = F.when(well_formed, raw).otherwise("1970-01-01T00:00:00Z")
    year, month, day, hour, minute, second = (
        F.concat(F.lit("0"), F.regexp_extract(safe, ISO, group)).cast("long")
        for group in range(1, 7)
    )
    # 2. Which of them are a date and a time.
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    february = F.when(leap, 29).otherwise(28)
    length = F.when(month == 2, february).when(month.isin(4, 6, 9, 11), 30).otherwise(31)
    is_date = (month >= 1) & (month <= 12) & (day >= 1) & (day <= length)
    valid = well_formed & is_date & (hour < 24) & (minute < 60) & (second < 60)
    # 3. Days since 1970-01-01 in the proleptic Gregorian calendar; 0 if the date is not valid.
    parts = (
        F.when(valid, part).otherwise(default).cast("int")
        for part, default in ((year, 1970), (month, 1), (day, 1))
    )
    days = F.unix_date(F.make_date(*parts)).cast("long")
    # 4. Seconds, and the fraction cut to milliseconds.
    local_s = days * _DAY_S + hour * 3600 + minute * 60 + second
    seconds = local_s - _written_offset(safe, assumed_s)
    digits = F.concat(F.regexp_extract(safe, ISO, 7), F.lit("000"))
    fraction = F.substring(digits, 1, 3).cast("long")
    return F.when(valid, seconds * 1000 + fraction)


def _written_offset(text: Column, assumed_s: int) -> Column:
    offset = F.regexp_replace(F.regexp_extract(text, ISO, 8), ":", "")
    signed = offset.rlike(r"\A[-+][0-9]{4}\z")
    number = F.when(signed, offset).otherwise("0").cast("long")
    size = F.abs(number)
    seconds = F.signum(number).cast("long") * (floor_div(size, 100) * 3600 + size % 100 * 60)
    return F.when(offset == "", F.lit(assumed_s).cast("long")).otherwise(seconds)


def _offset_s(utc_s: Column, timezone: str) -> Column:
    """Return the zone's offset at epoch seconds, at a cost that does not grow with its changes."""
    starts, offsets = utc_offsets(timezone)
    if len(offsets) == 1:
        return F.lit(offsets[0]).cast("long")
    # 1. Slots that are so short that each has one change at most.
    between = [later - earlier for earlier, later in pairwise(starts[1:])]
    slot_s = min(_LARGEST_SLOT_S, *between) if between else _LARGEST_SLOT_S
    first, slots = starts[1], (starts[-1] - starts[1]) // slot_s + 1
    before = [bisect_right(starts, first + slot * slot_s) - 1 for slot in range(slots)]
    # 2. The slot gives the changes before it, and one comparison decides about its own change.
    slot = F.least(F.greatest(floor_div(utc_s - first, slot_s), F.lit(0)), F.lit(slots - 1))
    index = F.element_at(_longs(before), (slot + 1).cast("int"))
    following = F.element_at(_longs([*starts[1:], 2**62]), (index + 1).cast("int"))
    index = F.when(utc_s < first, 0).otherwise(index + F.when(utc_s >= following, 1).otherwise(0))
    return F.element_at(_longs(offsets), (index + 1).cast("int"))


def _longs(values: Sequence[int]) -> Column:
    # One expression for Spark's parser: thousands of literal columns would take longer to plan.
    return F.expr("array(" + ",".join(f"{value}L" for value in values) + ")")
