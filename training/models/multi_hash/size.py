"""What a multi-hash field will cost and how its ids will collide, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from training.models.multi_hash import collisions
from training.models.multi_hash.settings import MultiHashSettings
from training.models.multi_hash.tables import (
    distinct_weights,
    row_width,
    table_rows,
    vector_rows,
    weight_rows,
)

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Size:
    """How large a multi-hash field gets at most, and how likely its hashed ids are to collide.

    Attributes:
        rows: rows of vectors: those of the small tables and those that frequent ids have of their own.
        own_rows: the latter alone.
        weight_rows: rows of importance weights.
        bytes: of all of them, without optimizer state.
        full_table_bytes: of a table with a row for every id, to compare with.
        expected_rows_used: rows of vectors and of weights that the ids fall on, in the mean over hash functions.
        collision_probability_full: that a hashed id has all its rows (and weights) in common with one other: the two
            are the same to the model.
        collision_probability_any: that a hashed id has at least one row (or weights) in common with another.
    """

    rows: int
    own_rows: int
    weight_rows: int
    bytes: int
    full_table_bytes: int
    expected_rows_used: float
    collision_probability_full: float
    collision_probability_any: float

    def __str__(self) -> str:
        """Return a line for a person."""
        own = f" ({self.own_rows:,} of single ids)" if self.own_rows else ""
        weights = f" and {self.weight_rows:,} rows of weights" if self.weight_rows else ""
        return (
            f"{self.rows:,} rows{own}{weights}, {self.expected_rows_used:,.0f} of them expected in use; "
            f"{self.bytes / 2**20:,.2f} MiB, {self.full_table_bytes / self.bytes:,.1f} times less than a row for every id; "
            f"a hashed id has all its rows in common with another with probability {self.collision_probability_full:.2g}, "
            f"some with {self.collision_probability_any:.2g}"
        )


def size(settings: MultiHashSettings, dim: int, ids: int, own: int = 0) -> Size:
    """State the size of a field up front.

    Args:
        settings: of the field.
        dim: width of an id's vector.
        ids: how many distinct ids there are, frequent ones included; where dense indices are hashed, those without rows of
            their own are taken as consecutive.
        own: how many of them keep a row of their own.

    Raises:
        InputError: the settings are impossible (see `tables`).
    """
    width, hashed = row_width(settings, dim), ids - own
    own_rows = own * dim // width
    vectors, weights = vector_rows(settings), weight_rows(settings)
    values = (vectors + own_rows) * width + weights * settings.hashes
    return Size(
        rows=vectors + own_rows,
        own_rows=own_rows,
        weight_rows=weights,
        bytes=values * _FLOAT32_BYTES,
        full_table_bytes=ids * dim * _FLOAT32_BYTES,
        expected_rows_used=own_rows + _used(settings, hashed),
        collision_probability_full=_full(settings, hashed),
        collision_probability_any=_any(settings, hashed),
    )


def _used(settings: MultiHashSettings, ids: int) -> float:
    weights = weight_rows(settings)
    if not weights:
        return _used_vectors(settings, ids)
    return _used_vectors(settings, ids) + (
        ids if distinct_weights(settings) else collisions.expected_used(weights, ids)
    )


def _used_vectors(settings: MultiHashSettings, ids: int) -> float:
    rows = table_rows(settings)
    if settings.kind != "hash":
        steps = [
            prod(rows[:place]) if settings.kind == "quotient_remainder" else 1
            for place in range(len(rows))
        ]
        return float(sum(min(m, -(-ids // step)) for m, step in zip(rows, steps, strict=True)))
    if settings.shared:
        return collisions.expected_used(rows[0], settings.hashes * ids)
    return sum(collisions.expected_used(m, ids) for m in rows)


def _full(settings: MultiHashSettings, ids: int) -> float:
    """Rows of a shared table in another order are the same rows to a sum and a product."""
    rows, weights = table_rows(settings), weight_rows(settings)
    if settings.kind != "hash" or (weights and distinct_weights(settings)):
        return 0.0
    if settings.shared and settings.combine in ("sum", "multiply"):
        return collisions.unordered_full(rows[0], settings.hashes, ids)
    return collisions.separate_full([*rows, weights] if weights else rows, ids)


def _any(settings: MultiHashSettings, ids: int) -> float:
    weights = 0 if distinct_weights(settings) else weight_rows(settings)
    same_weights = collisions.shared_by_any(1 / weights, ids - 1) if weights else 0.0
    return 1 - (1 - _any_row(settings, ids)) * (1 - same_weights)


def _any_row(settings: MultiHashSettings, ids: int) -> float:
    """Consecutive indices meet in their quotient if not in their remainder; of remainders, the smallest table tells."""
    rows = table_rows(settings)
    if settings.kind == "quotient_remainder":
        return float(ids > 1 and settings.hashes > 1)
    if settings.kind == "remainders":
        return min(1.0, 2 * max(0, ids - min(rows)) / max(1, ids))
    if settings.shared:
        return collisions.shared_any(rows[0], settings.hashes, ids)
    return collisions.separate_any(rows, ids)
