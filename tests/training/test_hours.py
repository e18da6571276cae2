"""Local hours and runs of equal values."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.fit.score_then_train import local_hours, runs

HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("timezone", "hours"),
    [
        ("UTC", [0, 0, 1, 23]),
        ("Asia/Shanghai", [8, 8, 9, 7]),
        ("+05:30", [5, 6, 6, 5]),
        ("-01:00", [23, 23, 0, 22]),
    ],
)
def test_hours_are_those_of_the_zone(timezone, hours):
    stamps = np.array([0, HOUR_MS - 1, HOUR_MS, 24 * HOUR_MS - 1])
    assert local_hours(stamps, timezone).tolist() == hours


def test_hours_follow_summer_time():
    noon = np.array([1_704_106_800_000, 1_719_831_600_000])  # 2024-01-01 and 2024-07-01, 11:00 UTC
    assert local_hours(noon, "Europe/Berlin").tolist() == [12, 13]


@given(values=st.lists(st.integers(0, 3), max_size=40))
def test_runs_are_what_groupby_finds(values):
    expected = [(key, len(list(group))) for key, group in itertools.groupby(values)]
    found = runs(np.array(values, np.int64))
    assert [(values[start], stop - start) for start, stop in found] == expected
    assert [start for start, _ in found[1:]] == [stop for _, stop in found[:-1]]
