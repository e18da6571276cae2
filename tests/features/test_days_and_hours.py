"""Days and hours as partitions: spelling, folders, order."""

from datetime import date, datetime, timedelta
from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import InputError
from features.partition import (
    Hour,
    disjoint,
    end_h,
    folder_of,
    in_order,
    is_before,
    parse_partition,
    partition_of,
    partitions_between,
    same_kind,
    start_h,
)

DAY = date(2022, 5, 1)
NOON = Hour(DAY, 12)
PARTITIONS = st.dates() | st.builds(Hour, st.dates(), st.integers(0, 23))


def bounds(partition):
    """First moment and end as Python's own calendar has them."""
    if isinstance(partition, Hour):
        first = datetime(partition.on.year, partition.on.month, partition.on.day, partition.hour)
        return first, first + timedelta(hours=1)
    first = datetime(partition.year, partition.month, partition.day)
    return first, first + timedelta(days=1)


def test_spelling_and_folders_by_hand():
    assert (str(DAY), folder_of(DAY)) == ("2022-05-01", "dt=2022-05-01")
    assert (str(Hour(DAY, 3)), folder_of(Hour(DAY, 3))) == (
        "2022-05-01T03",
        "dt=2022-05-01/hm=0300",
    )
    assert parse_partition("2022-05-01") == DAY
    assert parse_partition("2022-05-01T13") == Hour(DAY, 13)


@given(PARTITIONS)
def test_what_is_written_reads_back(partition):
    assert parse_partition(partition.isoformat()) == parse_partition(str(partition)) == partition
    assert partition_of(PurePath(folder_of(partition))) == partition


@pytest.mark.parametrize(
    "text",
    [
        "2022-5-1",
        "20220501",
        "2022-05-01T24",
        "2022-05-01T1",
        "2022-05-01T13:00",
        "2022-05-01 13",
        "2022-02-30",
        "٢٠٢٢-05-01",
        "",
    ],
)
def test_anything_else_is_refused_with_the_spelling(text):
    with pytest.raises(InputError, match="write YYYY-MM-DD, or YYYY-MM-DDTHH"):
        parse_partition(text)


def test_a_folder_of_another_name_and_an_hour_that_is_none_are_refused():
    with pytest.raises(InputError, match="hm=1330: not the folder"):
        partition_of(PurePath("dt=2022-05-01/hm=1330"))
    with pytest.raises(InputError, match="hour 24 of 2022-05-01"):
        Hour(DAY, 24)


near = st.dates(date(2022, 5, 1), date(2022, 5, 3))
NEAR = near | st.builds(Hour, near, st.integers(0, 23))


@given(NEAR, NEAR)
def test_before_means_ended_when_the_other_begins(one, other):
    (_, end), (start, _) = bounds(one), bounds(other)
    assert is_before(one, other) == (end <= start)
    assert (end_h(one) - start_h(other)) == (end - start) / timedelta(hours=1)


def test_a_day_is_followed_by_hours_and_hours_by_a_day():
    assert is_before(DAY, Hour(date(2022, 5, 2), 0))
    assert is_before(Hour(DAY, 23), date(2022, 5, 2))
    assert not is_before(Hour(DAY, 0), DAY)
    assert not is_before(DAY, Hour(DAY, 23))


def test_order_is_by_end_and_a_day_comes_after_its_hours():
    tomorrow = date(2022, 5, 2)
    ordered = [Hour(DAY, 0), NOON, Hour(DAY, 23), DAY, Hour(tomorrow, 0), tomorrow]
    assert in_order(reversed(ordered)) == ordered


def test_hours_of_a_day_that_is_there_do_not_count_beside_it():
    other = Hour(date(2022, 5, 2), 0)
    assert disjoint([NOON, DAY, other]) == {DAY, other}
    assert disjoint([NOON, other]) == {NOON, other}


def test_between_goes_over_midnight():
    hours = partitions_between(Hour(DAY, 22), Hour(date(2022, 5, 2), 1))
    assert [str(hour) for hour in hours] == [
        "2022-05-01T22",
        "2022-05-01T23",
        "2022-05-02T00",
        "2022-05-02T01",
    ]
    assert partitions_between(NOON, NOON) == [NOON]
    assert partitions_between(DAY, date(2022, 5, 3)) == [DAY, date(2022, 5, 2), date(2022, 5, 3)]
    assert all(same_kind(hour, NOON) for hour in hours)


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        (Hour(DAY, 2), Hour(DAY, 1), "first hour must not be later"),
        (date(2022, 5, 2), DAY, "first day must not be later"),
        (DAY, NOON, "give two days or two hours"),
        (NOON, DAY, "give two days or two hours"),
    ],
)
def test_ends_that_do_not_fit_are_refused(first, last, words):
    with pytest.raises(InputError, match=words):
        partitions_between(first, last)
