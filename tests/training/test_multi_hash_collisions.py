"""Sizes: published figures, exact small cases by enumeration, and measured collisions."""

from itertools import product
from math import exp

import numpy as np
import pytest

from features.errors import InputError
from training.models.multi_hash import size as collisions
from training.models.multi_hash.keys import derived_keys, weight_keys
from training.models.multi_hash.settings import MultiHashSettings
from training.models.multi_hash.size import size

SEEDS = 40
DEVIATIONS = 4.5


def test_a_million_ids_in_a_hundred_thousand_rows():
    """papers.md 6: k = 1 .99995; 2 tables of 50,000 rows 4.0e-4; 3 of 33,333 2.7e-8."""
    full = [
        size(MultiHashSettings(rows=100_000, hashes=k), 16, 1_000_000).collision_probability_full
        for k in (1, 2, 3)
    ]
    assert full == pytest.approx([0.99995, 4.0e-4, 2.7e-8], rel=2e-2)
    assert (
        size(MultiHashSettings(rows=100_000, hashes=3), 16, 1_000_000).collision_probability_any
        > 0.999
    )


def test_the_exponential_approximation_is_near():
    assert collisions.separate_full([1000], 500) == pytest.approx(1 - exp(-0.5), rel=2e-3)
    assert collisions.expected_used(1000, 500) == pytest.approx(1000 * (1 - exp(-0.5)), rel=1e-3)


@pytest.mark.parametrize(
    ("rows", "hashes", "ids"), [(2, 2, 2), (2, 3, 2), (3, 2, 3), (4, 2, 2), (2, 2, 3), (5, 3, 2)]
)
def test_a_shared_table_by_enumeration_of_every_draw(rows, hashes, ids):
    same = touching = draws = 0
    tuples = list(product(range(rows), repeat=hashes))
    for first, *others in product(tuples, repeat=ids):
        draws += 1
        same += any(sorted(first) == sorted(other) for other in others)
        touching += any(set(first) & set(other) for other in others)
    assert collisions.unordered_full(rows, hashes, ids) == pytest.approx(same / draws)
    assert collisions.shared_any(rows, hashes, ids) == pytest.approx(touching / draws)


@pytest.mark.parametrize("rows", [[2, 2], [3, 2], [1, 4]])
def test_separate_tables_by_enumeration_of_every_draw(rows):
    same = touching = draws = 0
    for first, *others in product(list(product(*(range(m) for m in rows))), repeat=3):
        draws += 1
        same += first in others
        touching += any(a == b for other in others for a, b in zip(first, other, strict=True))
    assert collisions.separate_full(rows, 3) == pytest.approx(same / draws)
    assert collisions.separate_any(rows, 3) == pytest.approx(touching / draws)


def test_edges_of_the_formulas():
    assert collisions.shared_by_any(1.0, 5) == 1.0
    assert collisions.shared_by_any(1.0, 0) == 0.0
    assert collisions.shared_by_any(0.0, 5) == 0.0
    assert collisions.shared_by_any(1e-18, 10**6) == pytest.approx(1e-12)
    assert collisions.expected_used(1, 10) == 1.0


def measured(settings, ids, vocabulary):
    """Shares of ids with all and with some rows in common with another; rows in use."""
    keys = np.arange(ids, dtype=np.int64)
    derived = derived_keys(keys, settings, vocabulary)
    if settings.combine == "weighted":
        derived = np.concatenate(
            [derived, weight_keys(keys, settings, vocabulary)[:, None]], axis=1
        )
    ordered = np.sort(derived, axis=1) if settings.shared and settings.combine == "sum" else derived
    _, group, counts = np.unique(ordered, axis=0, return_inverse=True, return_counts=True)
    distinct_in_id = [np.unique(row) for row in derived]
    rows, holders = np.unique(np.concatenate(distinct_in_id), return_counts=True)
    crowded = np.isin(derived, rows[holders > 1]).any(axis=1)
    return (counts[group.ravel()] > 1).mean(), crowded.mean(), len(rows)


@pytest.mark.parametrize(
    "settings",
    [
        MultiHashSettings(rows=300, hashes=1),
        MultiHashSettings(rows=60, hashes=2),
        MultiHashSettings(rows=1000, hashes=2),
        MultiHashSettings(rows=40, hashes=3, combine="concat"),
        MultiHashSettings(rows=30, hashes=2, shared=True),
        MultiHashSettings(rows=900, hashes=3, shared=True),
        MultiHashSettings(rows=16, hashes=3, shared=True),
        MultiHashSettings(rows=10, hashes=2, shared=True, combine="weighted", weight_rows=20),
        MultiHashSettings(rows=2000, hashes=2, combine="weighted", weight_rows=900),
        MultiHashSettings(rows=400, hashes=2, combine="weighted", ids=300),
    ],
    ids=lambda s: f"{s.combine}-{s.hashes}-{s.rows}{'-shared' if s.shared else ''}",
)
def test_measured_collisions_are_those_of_the_formulas(settings):
    """Over many vocabularies (hash functions); the error allowed is that of their mean."""
    ids = 300
    seen = np.array([measured(settings, ids, f"vocabulary {seed}") for seed in range(SEEDS)])
    stated = size(settings, 12, ids)
    error = seen.std(axis=0) / np.sqrt(SEEDS) + 1e-4
    expected = (
        stated.collision_probability_full,
        stated.collision_probability_any,
        stated.expected_rows_used,
    )
    assert (np.abs(seen.mean(axis=0) - expected) < DEVIATIONS * error).all(), (
        seen.mean(axis=0),
        expected,
        error,
    )


@pytest.mark.parametrize("ids", [1, 2, 8, 9, 10, 13, 16, 40])
def test_remainders_are_counted_exactly(ids):
    settings = MultiHashSettings(kind="remainders", ids=60, hashes=2, rows=20)  # mod 10 and mod 9
    stated = size(settings, 8, ids)
    full, some, rows = measured(settings, ids, "v")
    assert (stated.collision_probability_full, stated.expected_rows_used) == (full, rows)
    assert stated.collision_probability_any == pytest.approx(some)


def test_bytes_count_every_table():
    stated = size(
        MultiHashSettings(rows=100, hashes=2, combine="weighted", weight_rows=500), 32, 10_000
    )
    assert (stated.rows, stated.weight_rows) == (100, 500)
    assert stated.bytes == 4 * (100 * 32 + 500 * 2)
    assert stated.full_table_bytes == 4 * 10_000 * 32


def test_chunks_are_narrow_rows():
    stated = size(MultiHashSettings(rows=4 * 512, hashes=4, combine="concat"), 32, 6040)
    assert (stated.rows, stated.bytes) == (2048, 512 * 32 * 4)


def test_ids_with_rows_of_their_own_leave_the_hashed_tables():
    settings = MultiHashSettings(rows=100, hashes=4, combine="concat")
    stated, without = size(settings, 32, 1000, dedicated=200), size(settings, 32, 800)
    assert (stated.own_rows, stated.rows, stated.bytes) == (800, 900, without.bytes + 200 * 32 * 4)
    assert stated.collision_probability_full == without.collision_probability_full
    assert stated.expected_rows_used == pytest.approx(800 + without.expected_rows_used)
    assert size(settings, 32, 1000, dedicated=1000).collision_probability_any == 0.0


def test_impossible_widths_are_refused_before_training():
    with pytest.raises(InputError, match="width 30"):
        size(MultiHashSettings(rows=8, hashes=4, combine="concat"), 30, 100)


def test_a_size_is_a_sentence():
    text = str(
        size(
            MultiHashSettings(rows=100, hashes=2, combine="weighted", weight_rows=500),
            32,
            10_000,
            dedicated=50,
        )
    )
    assert text.startswith(
        "150 rows (50 of single ids) and 500 rows of weights, 650 of them expected in use; "
        "0.02 MiB, 55.2"
    )
    assert "all its rows in common with another with probability 0.0079, some with 1" in text
