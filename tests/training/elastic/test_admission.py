"""Admission policies on counts."""

import numpy as np
import pytest

from features.errors import InputError
from training.elastic import AlwaysAdmit, CountAdmission


def test_always_admits_at_the_first_occurrence():
    assert AlwaysAdmit().admit(np.array([1, 5], np.int64)).tolist() == [True, True]


def test_counts_below_the_threshold_wait():
    assert CountAdmission(3).admit(np.array([1, 2, 3, 4], np.int64)).tolist() == [False, False, True, True]


@pytest.mark.parametrize("policy", [AlwaysAdmit(), CountAdmission(2)])
def test_no_key_no_decision(policy):
    decided = policy.admit(np.empty(0, np.int64))
    assert decided.dtype == np.bool_
    assert len(decided) == 0


def test_a_threshold_below_one_is_refused():
    with pytest.raises(InputError, match="min_count is 0"):
        CountAdmission(0)


def test_policies_are_equal_by_value():
    assert CountAdmission(2) == CountAdmission(2) != CountAdmission(3)
