"""The partition of an artifact: a day, or an hour of a day, in the schema's time zone.

A day is a `date`, written as `2022-05-01`; an hour is an `Hour`, written as `2022-05-01T13`. An
hour is a label of the local clock. Where a clock change repeats the label, both hours are one
partition; where it skips the label, the partition has no data. This module counts in such labels,
24 to a day, and knows no time zone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import PurePath
from typing import TypeAlias

from features.errors import InputError

HOURS_PER_DAY = 24

# ASCII, because `\d` also matches the digits of other scripts.
_TEXT = re.compile(r"(\d{4}-\d{2}-\d{2})(?:T([01]\d|2[0-3]))?", re.ASCII)
_FOLDER = re.compile(r"dt=(\d{4}-\d{2}-\d{2})(?:/hm=(\d{2})00)?", re.ASCII)


@dataclass(frozen=True)
class Hour:
    """The hour `hour` (0 to 23) of a day; raises InputError for other numbers."""

    on: date
    hour: int

    def __post_init__(self) -> None:
        if not 0 <= self.hour < HOURS_PER_DAY:
            raise InputError(
                f"hour {self.hour} of {self.on}: a day has the hours 0 to {HOURS_PER_DAY - 1}"
            )

    def __str__(self) -> str:
        return self.isoformat()

    def isoformat(self) -> str:
        """Return `YYYY-MM-DDTHH`."""
        return f"{self.on.isoformat()}T{self.hour:02d}"


Partition: TypeAlias = date | Hour


def parse_partition(text: str) -> Partition:
    """Return the partition written as `YYYY-MM-DD` or `YYYY-MM-DDTHH`, or raise InputError."""
    match = _TEXT.fullmatch(text)
    try:
        day = date.fromisoformat(match[1]) if match else None
    except ValueError:
        day = None
    if match is None or day is None:
        raise InputError(
            f"{text!r} is no day and no hour: write YYYY-MM-DD, or YYYY-MM-DDTHH with HH from 00 "
            "to 23"
        )
    return Hour(day, int(match[2])) if match[2] else day


def folder_of(partition: Partition) -> str:
    """Return the path below an artifact: `dt=2022-05-01`, or `dt=2022-05-01/hm=1300`."""
    day = f"dt={day_of(partition).isoformat()}"
    return f"{day}/hm={partition.hour:02d}00" if isinstance(partition, Hour) else day


def partition_of(folder: PurePath) -> Partition:
    """Return the partition of a folder, relative to its artifact, or raise InputError."""
    match = _FOLDER.fullmatch(folder.as_posix())
    if match is None:
        raise InputError(
            f"{folder}: not the folder of a day or an hour (dt=YYYY-MM-DD, "
            "dt=YYYY-MM-DD/hm=HH00); move it away"
        )
    return parse_partition(f"{match[1]}T{match[2]}" if match[2] else match[1])


def day_of(partition: Partition) -> date:
    """Return the day itself, or the day of an hour."""
    return partition.on if isinstance(partition, Hour) else partition


def start_h(partition: Partition) -> int:
    """Return the hours from the beginning of the calendar to the start of a partition."""
    hours = day_of(partition).toordinal() * HOURS_PER_DAY
    return hours + partition.hour if isinstance(partition, Hour) else hours


def length_h(partition: Partition) -> int:
    """Return 24 for a day and 1 for an hour."""
    return 1 if isinstance(partition, Hour) else HOURS_PER_DAY


def end_h(partition: Partition) -> int:
    """Return the hours from the beginning of the calendar to the end of a partition."""
    return start_h(partition) + length_h(partition)


def is_before(earlier: Partition, later: Partition) -> bool:
    """Whether one partition ends before the other begins, so that they do not overlap."""
    return end_h(earlier) <= start_h(later)


def same_kind(one: Partition, other: Partition) -> bool:
    """Whether both are days, or both are hours."""
    return isinstance(one, Hour) == isinstance(other, Hour)


def comparable(earlier: Partition, now: Partition) -> bool:
    """Whether both are days, or the same hour of days: the number of records depends on it."""
    if isinstance(earlier, Hour) and isinstance(now, Hour):
        return earlier.hour == now.hour
    return same_kind(earlier, now)


def kind_of(partition: Partition) -> str:
    """Return `day` or `hour`."""
    return "hour" if isinstance(partition, Hour) else "day"


def in_order(partitions: Iterable[Partition]) -> list[Partition]:
    """Return partitions by their end; the last hour of a day comes before the day itself."""
    # A day with the same end as an hour contains it, so it is the later state.
    return sorted(partitions, key=lambda partition: (end_h(partition), length_h(partition)))


def disjoint(partitions: Collection[Partition]) -> set[Partition]:
    """Return partitions without the hours of days that are also given."""
    # An hour of a day that is given as a whole would count twice.
    days = {partition for partition in partitions if not isinstance(partition, Hour)}
    hours = {partition for partition in partitions if isinstance(partition, Hour)}
    return days | {hour for hour in hours if hour.on not in days}


def days_between(first: date, last: date) -> list[date]:
    """Return all days from first to last, both included; raises InputError if none are."""
    if first > last:
        raise InputError(f"{first} is after {last}: the first day must not be later than the last")
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def partitions_between(first: Partition, last: Partition) -> list[Partition]:
    """Return all days, or all hours, from first to last, both included.

    Raises:
        InputError: the last is before the first, or one is a day and the other an hour.
    """
    if isinstance(first, Hour) and isinstance(last, Hour):
        if start_h(first) > start_h(last):
            raise InputError(
                f"{first} is after {last}: the first hour must not be later than the last"
            )
        hours = (divmod(hour, HOURS_PER_DAY) for hour in range(start_h(first), end_h(last)))
        return [Hour(date.fromordinal(day), hour) for day, hour in hours]
    if isinstance(first, Hour) or isinstance(last, Hour):
        raise InputError(
            f"{first} and {last}: one is a day, the other an hour; give two days or two hours"
        )
    return list(days_between(first, last))
