"""Settings of multi-hash fields: errors, and the rows and widths of the tables."""

from itertools import combinations
from math import gcd, prod

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from features.errors import InputError
from training.models.multi_hash.settings import (
    MultiHashSettings,
    row_width,
    table_rows,
    vector_rows,
    weight_rows,
)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "rows: give the rows of all tables"),
        ({"hashes": 3, "rows": 2}, "3 tables need at least as many rows, got 2"),
        ({"rows": 10, "ids": 5}, "ids: is for dense indices or weights"),
        ({"kind": "remainders"}, "remainders needs the number of dense indices"),
        ({"kind": "remainders", "ids": 9, "shared": True}, "remainders needs separate tables"),
        ({"rows": 10, "weight_rows": 5}, "weight_rows: is for combine weighted only"),
        ({"rows": 10, "tables": 5}, "Extra inputs are not permitted"),
        ({"rows": 0}, "greater than or equal to 1"),
    ],
)
def test_impossible_settings_are_refused_with_the_reason(given, says):
    with pytest.raises(ValidationError, match=says):
        MultiHashSettings(**given)


def test_every_problem_is_reported_at_once():
    with pytest.raises(ValidationError, match=r"at least as many rows.*weight_rows: is for"):
        MultiHashSettings(hashes=3, rows=2, weight_rows=5)


def test_a_shared_table_may_have_fewer_rows_than_hashes():
    assert table_rows(MultiHashSettings(hashes=3, rows=2, shared=True)) == (2, 2, 2)


def test_rows_are_split_evenly_and_a_shared_table_is_counted_once():
    assert table_rows(MultiHashSettings(hashes=3, rows=11)) == (4, 4, 3)
    assert vector_rows(MultiHashSettings(hashes=3, rows=11)) == 11
    assert vector_rows(MultiHashSettings(hashes=3, rows=11, shared=True)) == 11


def test_the_importance_table_has_a_row_an_index_or_ten_times_the_rows_by_default():
    assert weight_rows(MultiHashSettings(rows=11)) == 0
    assert weight_rows(MultiHashSettings(rows=11, combine="weighted")) == 110
    assert weight_rows(MultiHashSettings(rows=11, combine="weighted", weight_rows=7)) == 7
    assert weight_rows(MultiHashSettings(rows=11, combine="weighted", ids=60)) == 60


def test_a_chunk_is_as_wide_as_the_vector_divided_by_the_hashes():
    assert row_width(MultiHashSettings(rows=8, hashes=4, combine="concat"), 32) == 8
    assert row_width(MultiHashSettings(rows=8, hashes=4), 30) == 30
    with pytest.raises(InputError, match="width 30 cannot be made of 4 chunks"):
        row_width(MultiHashSettings(rows=8, hashes=4, combine="concat"), 30)


def remainders(ids, hashes=2, rows=None):
    return MultiHashSettings(kind="remainders", ids=ids, hashes=hashes, rows=rows)


@pytest.mark.parametrize(
    ("ids", "hashes", "rows", "sizes"),
    [
        (10, 2, 9, (4, 3)),
        (10, 2, None, (4, 3)),
        (6040, 4, 4 * 4096, (4096, 4095, 4093, 4091)),
        (7, 1, 9, (9,)),
    ],
)
def test_remainders_are_by_sizes_without_a_common_divisor(ids, hashes, rows, sizes):
    assert table_rows(remainders(ids, hashes, rows)) == sizes


def test_too_few_rows_for_remainders_are_refused():
    with pytest.raises(InputError, match="3 tables of 6 rows in all cannot tell 6 indices apart"):
        table_rows(remainders(6, 3, 6))


@example(ids=30031, hashes=5, spare=2)
@given(ids=st.integers(1, 10**6), hashes=st.integers(1, 5), spare=st.integers(0, 50))
def test_remainders_always_tell_the_indices_apart(ids, hashes, spare):
    least = table_rows(remainders(ids, hashes))
    for sizes in (least, table_rows(remainders(ids, hashes, hashes * (max(least) + spare)))):
        assert prod(sizes) >= ids
        assert all(gcd(a, b) == 1 for a, b in combinations(sizes, 2))
