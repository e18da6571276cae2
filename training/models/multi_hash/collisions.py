"""How likely ids are to share rows: the formulas behind a size that is stated up front; exact, not by exponentials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import expm1, factorial, log1p, perm, prod


def shared_by_any(chance: float, others: int) -> float:
    """Return 1 - (1 - chance)^others: the probability that any of `others` ids does what one does with `chance`."""
    if others <= 0 or chance <= 0:
        return 0.0
    return 1.0 if chance >= 1 else -expm1(others * log1p(-chance))


def separate_full(rows: Sequence[int], ids: int) -> float:
    """Return the probability that an id shares its row in every one of these tables with one and the same other id."""
    return shared_by_any(1 / prod(rows), ids - 1)


def separate_any(rows: Sequence[int], ids: int) -> float:
    """Return the probability that an id shares a row of at least one of these tables with another id."""
    return 1 - prod(1 - shared_by_any(1 / m, ids - 1) for m in rows)


def unordered_full(rows: int, hashes: int, ids: int) -> float:
    """Return the probability that an id has the same rows of one shared table as another id, in whatever order.

    An id whose hashes fall on distinct rows is met by k! of the rows^k draws of another; one whose hashes fall together by
    fewer. So the mean is over the patterns of repetition.

    Args:
        rows: of the shared table.
        hashes: k.
        ids: how many ids there are.
    """
    return sum(
        p * shared_by_any(_orders(c) / rows ** sum(c), ids - 1) for c, p in _patterns(rows, hashes)
    )


def shared_any(rows: int, hashes: int, ids: int) -> float:
    """Return the probability that one of an id's rows of a shared table is a row of another id too."""
    return sum(
        p * shared_by_any(len(c) / rows, hashes * (ids - 1)) for c, p in _patterns(rows, hashes)
    )


def expected_used(rows: int, draws: int) -> float:
    """Return the expected number of distinct rows that so many draws fall on: rows (1 - (1 - 1/rows)^draws)."""
    return rows * shared_by_any(1 / rows, draws)


def _patterns(rows: int, hashes: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """How often each distinct row occurs among an id's hashes, descending, and how likely that is."""
    for counts in _partitions(hashes, hashes):
        alike = prod(factorial(n) for n in Counter(counts).values())
        ways = perm(rows, len(counts)) // alike * _orders(counts)
        if ways:
            yield counts, ways / rows**hashes


def _partitions(total: int, largest: int) -> Iterator[tuple[int, ...]]:
    """The partitions of a whole number, each descending."""
    if total == 0:
        yield ()
    for first in range(min(total, largest), 0, -1):
        for rest in _partitions(total - first, first):
            yield (first, *rest)


def _orders(counts: Sequence[int]) -> int:
    """In how many orders so many hashes can fall on the rows that they fall on."""
    return factorial(sum(counts)) // prod(factorial(n) for n in counts)
