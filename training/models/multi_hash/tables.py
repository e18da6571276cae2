"""How many rows each small table of a multi-hash field has, and how wide a row is. Plain Python."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd, prod

from features.errors import InputError
from training.models.multi_hash.settings import WEIGHTS_PER_ROW, MultiHashSettings


def table_rows(settings: MultiHashSettings) -> tuple[int, ...]:
    """Return the rows m_1 … m_k of the tables that the k hashes fall into; a shared table is named k times.

    Raises:
        InputError: fewer rows than quotients and remainders need to tell `ids` indices apart.
    """
    if settings.kind != "hash":
        make = _radices if settings.kind == "quotient_remainder" else _coprime
        return make(settings.ids or 1, settings.hashes, settings.rows)
    rows = settings.rows or settings.hashes
    return (rows,) * settings.hashes if settings.shared else _evenly(rows, settings.hashes)


def vector_rows(settings: MultiHashSettings) -> int:
    """Return the most rows of vectors that hashed ids can ever take, Σ m_j, a shared table counted once.

    Raises:
        InputError: as `table_rows`.
    """
    rows = table_rows(settings)
    return rows[0] if settings.shared else sum(rows)


def weight_rows(settings: MultiHashSettings) -> int:
    """Return the rows of the importance table; 0 where nothing is weighted.

    Raises:
        InputError: as `table_rows`.
    """
    if settings.combine != "weighted":
        return 0
    return settings.weight_rows or settings.ids or WEIGHTS_PER_ROW * vector_rows(settings)


def distinct_weights(settings: MultiHashSettings) -> bool:
    """Return whether every dense index has a row of the importance table to itself."""
    return settings.ids is not None and weight_rows(settings) >= settings.ids


def row_width(settings: MultiHashSettings, dim: int) -> int:
    """Return the width of one row where an id's vector is `dim` wide.

    Raises:
        InputError: `dim` cannot be cut into as many chunks as there are hashes.
    """
    if settings.combine != "concat":
        return dim
    if dim % settings.hashes:
        raise InputError(
            f"multi-hash: a vector of width {dim} cannot be made of {settings.hashes} chunks: choose a number of hashes "
            "that divides it, or another way to combine"
        )
    return dim // settings.hashes


def _evenly(rows: int, tables: int) -> tuple[int, ...]:
    return tuple(rows // tables + (table < rows % tables) for table in range(tables))


def _radices(ids: int, digits: int, rows: int | None) -> tuple[int, ...]:
    """Radices of a mixed radix that tells `ids` indices apart, within `rows`: the first one takes what is left over."""
    least = _balanced(ids, digits)
    if rows is None:
        return least
    first = rows - (digits - 1)
    while True:
        others = _balanced(-(-ids // first), digits - 1) if first > 0 else ()
        fits = rows - sum(others)
        if first < 1 or (digits == 1 and first < ids):
            raise _too_few(ids, digits, rows)
        if first <= fits:
            return (first, *others)
        first = fits


def _coprime(ids: int, tables: int, rows: int | None) -> tuple[int, ...]:
    """Sizes without a common divisor whose product is at least `ids`, so that remainders differ (Chinese remainder theorem)."""
    if rows is None:
        return _descending(
            _least(lambda largest: prod(_descending(largest, tables)) >= ids), tables
        )
    # A larger first size may leave smaller ones for the rest, so that the product falls: then a smaller one is tried.
    for largest in range(rows // tables, 0, -1):
        if largest**tables < ids:
            break
        sizes = _descending(largest, tables)
        if prod(sizes) >= ids:
            return sizes
    raise _too_few(ids, tables, rows)


def _descending(largest: int, tables: int) -> tuple[int, ...]:
    """The largest sizes up to `largest` of which no two have a common divisor; 1 where there are no more."""
    sizes: list[int] = []
    for size in range(largest, 1, -1):
        if len(sizes) == tables:
            break
        if all(gcd(size, other) == 1 for other in sizes):
            sizes.append(size)
    return (*sizes, *(1 for _ in range(tables - len(sizes))))


def _too_few(ids: int, tables: int, rows: int) -> InputError:
    return InputError(
        f"multi-hash: {tables} tables of {rows} rows in all cannot tell {ids} indices apart: give more rows, or none (the "
        "fewest are taken), or more hashes"
    )


def _balanced(ids: int, digits: int) -> tuple[int, ...]:
    """As few radices' sum as equal radices allow, their product at least `ids`; no digits at all tell one id."""
    if not digits:
        return ()
    radix = _least(lambda r: r**digits >= ids)
    radices = [radix] * digits
    for place in range(digits):
        if prod([*radices[:place], radix - 1, *radices[place + 1 :]]) >= ids:
            radices[place] = radix - 1
    return tuple(radices)


def _least(enough: Callable[[int], bool]) -> int:
    """The least whole number from 1 on that is `enough`, which every larger one is too."""
    low, high = 0, 1
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
