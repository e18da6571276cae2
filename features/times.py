"""Raw time strings to epoch milliseconds and local time parts, in stock TensorFlow ops.

Training and the exported graph share these functions. Everything is int64: an epoch never passes through a float.
"""

from __future__ import annotations

import tensorflow as tf

from features.canonical import EPOCH, ISO
from features.schema import TimePart, Timestamp, TimeUnit
from features.timezones import offset_seconds, utc_offsets

_MS_PER_UNIT = {
    TimeUnit.SECONDS: (1000, 1),
    TimeUnit.MILLISECONDS: (1, 1),
    TimeUnit.MICROSECONDS: (1, 1000),
}
_DAY_S = 86_400


def epoch_ms(raw: tf.Tensor, timestamp: Timestamp) -> tuple[tf.Tensor, tf.Tensor]:
    """Return `(milliseconds, valid)` of raw times; where not valid the milliseconds are 0.

    Args:
        raw: string [n], epochs in the timestamp's unit or ISO times.
        timestamp: unit, and for ISO the offset assumed where none is written.

    Returns:
        int64 [n] and bool [n].
    """
    if timestamp.unit is TimeUnit.ISO:
        return _iso_ms(raw, offset_seconds(timestamp.assume_offset))
    valid = tf.strings.regex_full_match(raw, EPOCH)
    number = tf.strings.to_number(tf.where(valid, raw, "0"), tf.int64)
    times, per = _MS_PER_UNIT[timestamp.unit]
    valid &= (
        tf.abs(number) <= tf.int64.max // times
    )  # what does not fit int64 milliseconds is no time
    number = tf.where(valid, number, tf.zeros_like(number))
    return tf.math.floordiv(number * times, per), valid


def time_part(ms: tf.Tensor, part: TimePart, timezone: str) -> tf.Tensor:
    """Return a part of the local time as int64 [n]: hour 0-23, weekday 0-6 from Monday, or hour of the week 0-167."""
    seconds = local_seconds(tf.math.floordiv(ms, 1000), timezone)
    hour = tf.math.floordiv(tf.math.floormod(seconds, _DAY_S), 3600)
    weekday = tf.math.floormod(
        tf.math.floordiv(seconds, _DAY_S) + 3, 7
    )  # 1970-01-01 was a Thursday
    if part is TimePart.HOUR_OF_DAY:
        return hour
    return weekday if part is TimePart.DAY_OF_WEEK else weekday * 24 + hour


def local_seconds(seconds: tf.Tensor, timezone: str) -> tf.Tensor:
    """Return epoch seconds int64 [n] shifted by the zone's offset at that moment."""
    starts, offsets = utc_offsets(timezone)
    index = tf.searchsorted(tf.constant(starts, tf.int64), seconds, side="right") - 1
    return seconds + tf.gather(tf.constant(offsets, tf.int64), index)


def _iso_ms(raw: tf.Tensor, assumed_s: int) -> tuple[tf.Tensor, tf.Tensor]:
    well_formed = tf.strings.regex_full_match(raw, ISO)
    safe = tf.where(well_formed, raw, "1970-01-01T00:00:00Z")
    year, month, day, hour, minute, second = (_group(safe, i) for i in range(1, 7))
    valid = well_formed & _in_range(year, month, day, hour, minute, second)
    seconds = _days_from_civil(year, month, day) * _DAY_S + hour * 3600 + minute * 60 + second
    seconds -= _written_offset(safe, assumed_s)
    return tf.where(valid, seconds * 1000 + _fraction_ms(safe), tf.zeros_like(seconds)), valid


def _group(text: tf.Tensor, number: int) -> tf.Tensor:
    """A numbered group of the ISO pattern as int64; an absent one is 0."""
    found = tf.strings.regex_replace(text, ISO, rf"0\{number}")
    return tf.strings.to_number(found, tf.int64)


def _in_range(
    year: tf.Tensor,
    month: tf.Tensor,
    day: tf.Tensor,
    hour: tf.Tensor,
    minute: tf.Tensor,
    second: tf.Tensor,
) -> tf.Tensor:
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    lengths = tf.constant([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], tf.int64)
    length = tf.gather(lengths, tf.clip_by_value(month - 1, 0, 11)) + tf.cast(
        leap & (month == 2), tf.int64
    )
    date = (month >= 1) & (month <= 12) & (day >= 1) & (day <= length)
    return date & (hour < 24) & (minute < 60) & (second < 60)


def _fraction_ms(text: tf.Tensor) -> tf.Tensor:
    digits = tf.strings.regex_replace(text, ISO, r"\7")
    return tf.strings.to_number(tf.strings.substr(tf.strings.join([digits, "000"]), 0, 3), tf.int64)


def _written_offset(text: tf.Tensor, assumed_s: int) -> tf.Tensor:
    offset = tf.strings.regex_replace(tf.strings.regex_replace(text, ISO, r"\8"), ":", "")
    signed = tf.strings.regex_full_match(offset, r"[-+][0-9]{4}")
    number = tf.strings.to_number(tf.where(signed, offset, "0"), tf.int64)
    size = tf.abs(number)
    seconds = tf.sign(number) * (size // 100 * 3600 + size % 100 * 60)
    return tf.where(offset == "", tf.constant(assumed_s, tf.int64), seconds)


def _days_from_civil(year: tf.Tensor, month: tf.Tensor, day: tf.Tensor) -> tf.Tensor:
    """Days since 1970-01-01 in the proleptic Gregorian calendar (H. Hinnant, `chrono-Compatible Low-Level Date Algorithms`)."""
    y = year - tf.cast(month <= 2, tf.int64)
    era = tf.math.floordiv(y, 400)
    year_of_era = y - era * 400
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146_097 + day_of_era - 719_468
