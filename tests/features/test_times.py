"""Raw times to epoch milliseconds, against Python's own datetime."""

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from features.schema import Timestamp
from features.times import epoch_ms, local_seconds
from features.timezones import offset_seconds, parse_timezone, utc_offsets


def parse(unit, *raw, offset="+00:00"):
    ms, valid = epoch_ms(
        tf.constant(list(raw)), Timestamp(column="t", unit=unit, assume_offset=offset)
    )
    return ms.numpy().tolist(), valid.numpy().tolist()


def test_epoch_milliseconds_keep_every_digit():
    assert parse("ms", "1650812741437") == ([1650812741437], [True])


def test_units_scale_and_round_down():
    assert parse("s", "-1", "1650812741") == ([-1000, 1650812741000], [True, True])
    assert parse("us", "1650812741437999", "-1") == ([1650812741437, -1], [True, True])


def test_seconds_that_overflow_milliseconds_are_invalid():
    assert parse("s", "9223372036854775", "9223372036854776") == (
        [9223372036854775000, 0],
        [True, False],
    )


@pytest.mark.parametrize("raw", ["", "1.5", "12:00", "1650812741437000000000", "abc"])
def test_what_is_no_epoch_is_invalid(raw):
    assert parse("ms", raw) == ([0], [False])


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("2022-04-25T00:00:00Z", 1650844800000),
        ("2022-04-25 08:00:00+08:00", 1650844800000),
        ("2022-04-25T00:00:00.1234Z", 1650844800123),
        ("2022-04-24T18:30-0530", 1650844800000),
        ("1969-12-31T23:59:59.5Z", -500),
        ("2000-02-29T00:00:00Z", 951782400000),
    ],
)
def test_iso_times(raw, expected):
    assert parse("iso", raw) == ([expected], [True])


@pytest.mark.parametrize(
    "raw",
    [
        "2022-02-29T00:00:00Z",
        "2022-13-01T00:00:00Z",
        "2022-04-25T24:00:00Z",
        "2022-04-25",
        "25.04.2022 10:00",
    ],
)
def test_impossible_iso_times_are_invalid(raw):
    assert parse("iso", raw) == ([0], [False])


def test_an_iso_time_without_offset_takes_the_assumed_one():
    assert parse("iso", "2022-04-25T08:00:00", offset="+08:00") == ([1650844800000], [True])


@settings(max_examples=100, deadline=None)
@given(st.datetimes(datetime(1970, 1, 2), datetime(2099, 12, 30)), st.integers(-14 * 60, 14 * 60))
def test_iso_agrees_with_datetime(moment, offset_minutes):
    aware = moment.replace(
        microsecond=moment.microsecond // 1000 * 1000,
        tzinfo=timezone(timedelta(minutes=offset_minutes)),
    )
    expected = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert parse("iso", aware.isoformat(timespec="milliseconds")) == ([expected], [True])


@pytest.mark.covers("F25")
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 4_000_000_000), min_size=1, max_size=30),
    st.sampled_from(
        [
            "Europe/Berlin",
            "America/New_York",
            "Asia/Kolkata",
            "Australia/Lord_Howe",
            "+08:00",
            "UTC",
            "Pacific/Apia",
        ]
    ),
)
def test_local_time_agrees_with_zoneinfo(seconds, zone):
    expected = [
        s + datetime.fromtimestamp(s, parse_timezone(zone)).utcoffset().total_seconds()
        for s in seconds
    ]
    np.testing.assert_array_equal(
        local_seconds(tf.constant(seconds, tf.int64), zone).numpy(), expected
    )


def test_a_fixed_offset_has_one_entry():
    starts, offsets = utc_offsets("+08:00")
    assert (len(starts), offsets) == (1, (28800,))


def test_offsets_are_spelled_in_three_ways():
    assert [offset_seconds(t) for t in ("Z", "+0530", "-03:30")] == [0, 19800, -12600]
