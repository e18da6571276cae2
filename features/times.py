"""Raw times to epoch milliseconds and local time parts, in stock TensorFlow ops.

Training and the exported graph share these functions. All arithmetic is in int64, because a float
cannot represent every epoch.
"""

from __future__ import annotations

import tensorflow as tf

from features.canonical import EPOCH, ISO
from features.schema import TimePart, Timestamp, TimeUnit
from features.timezones import offset_seconds, utc_offsets

# Unit to milliseconds: multiply by the first number, divide by the second.
_MS_PER_UNIT = {
    TimeUnit.SECONDS: (1000, 1),
    TimeUnit.MILLISECONDS: (1, 1),
    TimeUnit.MICROSECONDS: (1, 1000),
}
_DAY_S = 86_400


def epoch_ms(raw: tf.Tensor, timestamp: Timestamp) -> tuple[tf.Tensor, tf.Tensor]:
    """Return `(milliseconds int64 [n], valid bool [n])` of raw times; 0 where not valid.

    Args:
        raw: string [n], epochs in the timestamp's unit or ISO times.
        timestamp: unit, and for ISO the offset assumed where none is written.
    """
    if timestamp.unit is TimeUnit.ISO:
        return _iso_ms(raw, offset_seconds(timestamp.assume_offset))
    valid = tf.strings.regex_full_match(raw, EPOCH)
    number = tf.strings.to_number(tf.where(valid, raw, "0"), tf.int64)
    times, per = _MS_PER_UNIT[timestamp.unit]
    # A time is invalid if its milliseconds do not fit into int64.
    valid &= tf.abs(number) <= tf.int64.max // times
    number = tf.where(valid, number, tf.zeros_like(number))
    return tf.math.floordiv(number * times, per), valid


def time_part(ms: tf.Tensor, part: TimePart, timezone: str) -> tf.Tensor:
    """Return a part of the local time of epoch milliseconds int64 [n], as int64 [n].

    The hour is 0 to 23, the weekday 0 (Monday) to 6, the hour of the week 0 to 167.
    """
    seconds = local_seconds(tf.math.floordiv(ms, 1000), timezone)
    hour = tf.math.floordiv(tf.math.floormod(seconds, _DAY_S), 3600)
    # Day 0, 1970-01-01, was a Thursday.
    weekday = tf.math.floormod(tf.math.floordiv(seconds, _DAY_S) + 3, 7)
    if part is TimePart.HOUR_OF_DAY:
        return hour
    return weekday if part is TimePart.DAY_OF_WEEK else weekday * 24 + hour


def local_seconds(seconds: tf.Tensor, timezone: str) -> tf.Tensor:
    """Return epoch seconds int64 [n], shifted by the zone's UTC offset at that moment."""
    starts, offsets = utc_offsets(timezone)
    # The first start is the smallest int64, so the index is never -1.
    index = tf.searchsorted(tf.constant(starts, tf.int64), seconds, side="right") - 1
    return seconds + tf.gather(tf.constant(offsets, tf.int64), index)


def _iso_ms(raw: tf.Tensor, assumed_s: int) -> tuple[tf.Tensor, tf.Tensor]:
    # 1. Split into fields. Values that do not match are replaced, so that parsing cannot fail.
    well_formed = tf.strings.regex_full_match(raw, ISO)
    text = tf.where(well_formed, raw, "1970-01-01T00:00:00Z")
    # The leading 0 makes an absent group (the seconds) a readable number.
    year, month, day, hour, minute, second = (
        tf.strings.to_number(tf.strings.regex_replace(text, ISO, rf"0\{group}"), tf.int64)
        for group in range(1, 7)
    )

    # 2. Check the ranges.
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    lengths = tf.constant([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], tf.int64)
    # The month may be out of range here; clipping keeps the gather inside the table.
    length = tf.gather(lengths, tf.clip_by_value(month - 1, 0, 11))
    length += tf.cast(leap & (month == 2), tf.int64)
    valid = well_formed & (month >= 1) & (month <= 12) & (day >= 1) & (day <= length)
    valid &= (hour < 24) & (minute < 60) & (second < 60)

    # 3. Subtract the offset: written as [+-]HH:MM or [+-]HHMM, `Z` for 0, or assumed.
    offset = tf.strings.regex_replace(tf.strings.regex_replace(text, ISO, r"\8"), ":", "")
    signed = tf.strings.regex_full_match(offset, r"[-+][0-9]{4}")
    hhmm = tf.strings.to_number(tf.where(signed, offset, "0"), tf.int64)
    size = tf.abs(hhmm)
    written_s = tf.sign(hhmm) * (size // 100 * 3600 + size % 100 * 60)
    seconds = _days_from_civil(year, month, day) * _DAY_S + hour * 3600 + minute * 60 + second
    seconds -= tf.where(offset == "", tf.constant(assumed_s, tf.int64), written_s)

    # 4. Add the first three digits of the fraction.
    digits = tf.strings.join([tf.strings.regex_replace(text, ISO, r"\7"), "000"])
    milliseconds = tf.strings.to_number(tf.strings.substr(digits, 0, 3), tf.int64)
    return tf.where(valid, seconds * 1000 + milliseconds, tf.zeros_like(seconds)), valid


def _days_from_civil(year: tf.Tensor, month: tf.Tensor, day: tf.Tensor) -> tf.Tensor:
    """Return days since 1970-01-01 in the proleptic Gregorian calendar.

    Source: H. Hinnant, `chrono-Compatible Low-Level Date Algorithms`.
    """
    # The year starts in March, so that the leap day is its last day. An era is 400 years.
    y = year - tf.cast(month <= 2, tf.int64)
    era = tf.math.floordiv(y, 400)
    year_of_era = y - era * 400
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146_097 + day_of_era - 719_468
