"""The size of a multi-hash field and how likely its ids collide, known before training.

The probabilities are exact: they are not approximated by exponentials.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import expm1, factorial, log1p, perm, prod
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.errors import InputError
from features.schema import Categorical, Schema
from training.data.columns import read_impressions
from training.data.layout import ModelSpec
from training.models.multi_hash.settings import (
    MultiHashSettings,
    distinct_weights,
    has_dedicated_rows,
    multi_hash_of,
    row_width,
    table_rows,
    vector_rows,
    weight_rows,
)
from training.settings import AdmissionSettings, ModelSettings

_FLOAT32_BYTES = 4
_FIGURES = ("rows", "own_rows", "bytes", "collision_probability_full", "collision_probability_any")


@dataclass(frozen=True)
class MultiHashSize:
    """The largest size of a multi-hash field, and how likely its hashed ids collide.

    Attributes:
        rows: rows of vectors: of the small tables, and dedicated rows of frequent ids.
        own_rows: the dedicated rows alone.
        weight_rows: rows of importance weights.
        bytes: of all of them, without optimizer state.
        full_table_bytes: of a table with a row for every id, to compare with.
        expected_rows_used: rows of vectors and of weights in use, in the mean over hash functions.
        collision_probability_full: that a hashed id shares all its rows (and weights) with one
            other id, so that the model cannot distinguish them.
        collision_probability_any: that a hashed id shares at least one row (or its weights).
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
        """Return a line for people."""
        own = f" ({self.own_rows:,} of single ids)" if self.own_rows else ""
        weights = f" and {self.weight_rows:,} rows of weights" if self.weight_rows else ""
        return (
            f"{self.rows:,} rows{own}{weights}, {self.expected_rows_used:,.0f} of them expected "
            f"in use; {self.bytes / 2**20:,.2f} MiB, "
            f"{self.full_table_bytes / self.bytes:,.1f} times less than a row for every id; "
            "a hashed id has all its rows in common with another with probability "
            f"{self.collision_probability_full:.2g}, some with {self.collision_probability_any:.2g}"
        )


@dataclass(frozen=True)
class IdCountSource:
    """Where to count how often each id was seen.

    Attributes:
        partition: the day's `impressions` artifact.
        statistics: `feature_statistics` of an earlier day, which is preferred if it has the field.
    """

    partition: Path
    statistics: Path | None

    def counts(self, schema: Schema, field: Categorical) -> NDArray[np.int64]:
        """Return how often each distinct value of a field was seen, int64 [ids]."""
        if self.statistics:
            path = self.statistics / "values.parquet"
            try:
                only = [("field", "==", field.name)]
                counts = pq.read_table(path, columns=["impressions"], filters=only)["impressions"]
            except (OSError, ValueError, KeyError) as error:
                raise InputError(
                    f"{path}: cannot count the ids of {field.name} ({error}); run "
                    "`feature_statistics` again"
                ) from error
            if len(counts):
                return counts.to_numpy()
        table = read_impressions(self.partition, schema.model_copy(update={"fields": (field,)}))
        return pc.value_counts(table[field.name]).field("counts").to_numpy()


def multi_hash_sizes(
    schema: Schema, model: ModelSettings, admission: AdmissionSettings, seen: IdCountSource
) -> dict[str, MultiHashSize]:
    """Return the size of each multi-hash field by name, for the ids seen so far.

    Bytes are those of the deep vectors. Ids with dedicated rows are those seen as often as the
    field's admission threshold.

    Raises:
        InputError: the statistics or the partition cannot be read, or the model's groups do not fit
            the schema.
    """
    dims = {
        name: group.dim for group in ModelSpec(schema, model).groups for name in group.layout.keyed
    }
    sizes = {}
    for field in schema.fields:
        if not isinstance(field, Categorical) or field.multi_hash is None:
            continue
        settings, dim, counts = multi_hash_of(field), dims[field.name], seen.counts(schema, field)
        sizes[field.name] = hashed = size(settings, dim, len(counts))
        if has_dedicated_rows(field):
            frequent = int(np.count_nonzero(counts >= admission.threshold(field.name)))
            found = size(settings, dim, len(counts), frequent)
            # In the pipeline frequent ids keep their hashed rows: others share rows with them,
            # but none has all its rows in common with them.
            sizes[field.name] = replace(
                found,
                expected_rows_used=found.own_rows + hashed.expected_rows_used,
                collision_probability_any=hashed.collision_probability_any,
            )
    return sizes


def as_figures(sizes: Mapping[str, MultiHashSize]) -> dict[str, float]:
    """Return the sizes as metrics, `multi_hash.<field>.<figure>`."""
    return {
        f"multi_hash.{name}.{figure}": float(getattr(size, figure))
        for name, size in sizes.items()
        for figure in _FIGURES
    }


def size(settings: MultiHashSettings, dim: int, ids: int, dedicated: int = 0) -> MultiHashSize:
    """Return the size of a field.

    Args:
        settings: of the field.
        dim: width of an id's vector.
        ids: number of distinct ids, frequent ones included; dense indices without dedicated rows
            are assumed to be consecutive.
        dedicated: how many of them have dedicated rows.
    """
    width, hashed = row_width(settings, dim), ids - dedicated
    own_rows = dedicated * dim // width
    vectors, weights = vector_rows(settings), weight_rows(settings)
    values = (vectors + own_rows) * width + weights * settings.hashes

    # Rows in use: those of vectors, then those of weights.
    tables = table_rows(settings)
    if settings.kind == "remainders":
        used = float(sum(min(rows, hashed) for rows in tables))
    elif settings.shared:
        used = expected_used(tables[0], settings.hashes * hashed)
    else:
        used = sum(expected_used(rows, hashed) for rows in tables)
    if weights:
        used += hashed if distinct_weights(settings) else expected_used(weights, hashed)
    return MultiHashSize(
        rows=vectors + own_rows,
        own_rows=own_rows,
        weight_rows=weights,
        bytes=values * _FLOAT32_BYTES,
        full_table_bytes=ids * dim * _FLOAT32_BYTES,
        expected_rows_used=own_rows + used,
        collision_probability_full=_full(settings, hashed),
        collision_probability_any=_any(settings, hashed),
    )


def _full(settings: MultiHashSettings, ids: int) -> float:
    tables, weights = table_rows(settings), weight_rows(settings)
    if settings.kind == "remainders" or (weights and distinct_weights(settings)):
        return 0.0
    if settings.shared and settings.combine == "sum":
        # The rows of a shared table in another order have the same sum.
        return unordered_full(tables[0], settings.hashes, ids)
    return separate_full([*tables, weights] if weights else tables, ids)


def _any(settings: MultiHashSettings, ids: int) -> float:
    tables = table_rows(settings)
    if settings.kind == "remainders":
        # Consecutive indices wrap around first in the smallest table.
        shares_row = min(1.0, 2 * max(0, ids - min(tables)) / max(1, ids))
    elif settings.shared:
        shares_row = shared_any(tables[0], settings.hashes, ids)
    else:
        shares_row = separate_any(tables, ids)
    weights = 0 if distinct_weights(settings) else weight_rows(settings)
    shares_weights = shared_by_any(1 / weights, ids - 1) if weights else 0.0
    return 1 - (1 - shares_row) * (1 - shares_weights)


def shared_by_any(chance: float, others: int) -> float:
    """Return 1 - (1 - chance)^others: the probability of at least one hit by `others` ids."""
    if others <= 0 or chance <= 0:
        return 0.0
    # expm1 and log1p keep the precision of probabilities near 0.
    return 1.0 if chance >= 1 else -expm1(others * log1p(-chance))


def separate_full(rows: Sequence[int], ids: int) -> float:
    """Return the probability that an id shares its row of every table with the same other id."""
    return shared_by_any(1 / prod(rows), ids - 1)


def separate_any(rows: Sequence[int], ids: int) -> float:
    """Return the probability that an id shares its row of at least one table with another id."""
    return 1 - prod(1 - shared_by_any(1 / m, ids - 1) for m in rows)


def unordered_full(rows: int, hashes: int, ids: int) -> float:
    """Return the probability that another id has the same rows of one shared table in any order.

    The mean is over the patterns of repetition: an id whose hashes fall on distinct rows is matched
    by k! of the rows^k draws of another id, one with repeated rows by fewer.
    """
    return sum(
        p * shared_by_any(_orders(c) / rows ** sum(c), ids - 1) for c, p in _patterns(rows, hashes)
    )


def shared_any(rows: int, hashes: int, ids: int) -> float:
    """Return the probability that one of an id's rows of a shared table is another id's too."""
    return sum(
        p * shared_by_any(len(c) / rows, hashes * (ids - 1)) for c, p in _patterns(rows, hashes)
    )


def expected_used(rows: int, draws: int) -> float:
    """Return the expected number of distinct rows among draws: rows (1 - (1 - 1/rows)^draws)."""
    return rows * shared_by_any(1 / rows, draws)


def _patterns(rows: int, hashes: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Yield the counts of an id's distinct rows, descending, and their probability."""
    for counts in _partitions(hashes, hashes):
        alike = prod(factorial(n) for n in Counter(counts).values())
        ways = perm(rows, len(counts)) // alike * _orders(counts)
        if ways:
            yield counts, ways / rows**hashes


def _partitions(total: int, largest: int) -> Iterator[tuple[int, ...]]:
    """Yield the partitions of a whole number, each descending."""
    if total == 0:
        yield ()
    for first in range(min(total, largest), 0, -1):
        for rest in _partitions(total - first, first):
            yield (first, *rest)


def _orders(counts: Sequence[int]) -> int:
    """Return the number of orders in which hashes can fall on rows with these counts."""
    return factorial(sum(counts)) // prod(factorial(n) for n in counts)
