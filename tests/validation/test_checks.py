"""A check passes only for a number within its limits; what cannot be seen does not pass."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.checks import Check

NUMBER = st.floats(-1e12, 1e12)
ANY = st.none() | st.floats(allow_nan=True, allow_infinity=True)


@given(ANY, NUMBER, NUMBER)
def test_a_check_is_an_interval(value, first, second):
    low, high = sorted((first, second))
    inside = value is not None and math.isfinite(value) and low <= value <= high
    assert Check("x", value, low, high, "x").passed is inside
    assert Check("x", value, low, None, "x").passed is (
        value is not None and math.isfinite(value) and value >= low
    )
    assert Check("x", value, None, high, "x").passed is (
        value is not None and math.isfinite(value) and value <= high
    )


@given(ANY, NUMBER)
def test_every_check_can_be_written_and_said(value, low):
    check = Check("x", value, low, None, "the figure")
    document = json.loads(json.dumps(check.as_dict(), allow_nan=False))
    assert document["passed"] is check.passed
    assert document["value"] == (value if value is not None and math.isfinite(value) else None)
    assert check.finding.startswith("the figure: ")
    assert check.finding.endswith(f"must be {check.limit}")


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_said_to_be_none(value):
    assert (
        Check("x", value, 0, 1, "share").finding == "share: not a number, must be between 0 and 1"
    )


@pytest.mark.parametrize(
    "limits", [(None, None), (math.nan, None), (None, math.inf), (math.nan, math.inf)]
)
def test_limits_that_limit_nothing_are_refused(limits):
    with pytest.raises(ValueError, match="has no limit"):
        Check("x", 0.5, *limits, "x")


def test_a_check_cannot_be_changed_afterwards():
    with pytest.raises(AttributeError):
        Check("x", 0.5, 0, 1, "x").high = 2
