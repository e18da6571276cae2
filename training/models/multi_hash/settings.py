"""Settings of multi-hash fields and the sizes of their tables. Free of TensorFlow and NumPy."""

from __future__ import annotations

from math import gcd, prod
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from features.errors import InputError
from features.schema import Categorical, KeyField, Schema, Settings
from training.settings import AdmissionSettings

Count = Annotated[int, Field(ge=1)]

WEIGHTS_PER_ROW = 10
"""Rows of the importance table per row of vectors; Svenstrup et al. advise more than 10."""


class MultiHashSettings(Settings):
    """How the ids of one field share rows: an id's vector is made of rows of several small tables.

    Attributes:
        kind: `hash` accepts any key. `remainders` accepts dense indices 0 to ids - 1 and gives
            each a unique combination of rows, by tables of about the same size without a common
            divisor (a variant of quotient and remainder: Shi et al., KDD 2020).
        hashes: rows per id, k; also the number of tables, unless they are shared.
        rows: rows of all tables together; with `concat` a row is dim / hashes wide. Default: the
            fewest that remainders need.
        shared: all hashes share one table instead of having one each.
        combine: `sum`; `concat`; or `weighted`, a sum with trained importance weights of the id
            (hash embeddings: Svenstrup et al., NeurIPS 2017).
        weight_rows: rows of the importance table, each of k weights; default: `ids`, or
            `WEIGHTS_PER_ROW` times `rows`.
        ids: number of dense indices for `remainders`; with `hash` and `weighted` it gives every
            index its own importance weights.
    """

    kind: Literal["hash", "remainders"] = "hash"
    hashes: Count = 2
    rows: Count | None = None
    shared: bool = False
    combine: Literal["sum", "concat", "weighted"] = "sum"
    weight_rows: Count | None = None
    ids: Count | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        indexed, weighted = self.kind != "hash", self.combine == "weighted"
        separate_rows = self.rows if self.rows and not self.shared else self.hashes
        problems = [
            (self.rows is None and not indexed, "rows: give the rows of all tables together"),
            (
                separate_rows < self.hashes,
                f"rows: {self.hashes} tables need at least as many rows, got {self.rows}",
            ),
            (indexed and self.ids is None, f"ids: {self.kind} needs the number of dense indices"),
            (indexed and self.shared, f"shared: {self.kind} needs separate tables"),
            (
                self.ids is not None and not (indexed or weighted),
                "ids: is for dense indices or weights per id; leave it out",
            ),
            (
                self.weight_rows is not None and not weighted,
                "weight_rows: is for combine weighted only; leave it out",
            ),
        ]
        found = [problem for applies, problem in problems if applies]
        if found:
            raise ValueError("; ".join(found))
        return self


def multi_hash_of(field: KeyField) -> MultiHashSettings:
    """Return the settings of a field's hashed rows.

    `sum` of the schema pools them by the mean, as a list's rows are: their sum but for the factor
    k, which is the same for all ids.
    """
    assert isinstance(field, Categorical)
    assert field.multi_hash is not None
    hashing = field.multi_hash
    return MultiHashSettings(
        hashes=hashing.hashes, rows=hashing.rows, shared=hashing.shared, combine=hashing.combine
    )


def has_dedicated_rows(field: KeyField) -> bool:
    """Whether an admitted id of a multi-hash field has its ordinary row in addition."""
    hashing = field.multi_hash if isinstance(field, Categorical) else None
    return hashing is not None and hashing.own_rows


def check_dedicated_rows(schema: Schema, admission: AdmissionSettings) -> None:
    """Check that only frequent ids get dedicated rows; raises InputError."""
    # A field that admits every id at once has a row for each, so that hashing saves nothing.
    for name in (f.name for f in schema.fields if has_dedicated_rows(f)):
        if admission.threshold(name) == 1:
            raise InputError(
                f"field {name!r} has multi_hash.own_rows, but training.admission gives every id a "
                "row at first sight, so that nothing is saved: set "
                f"training.admission.min_counts.{name} to 2 or more, or remove own_rows"
            )


def table_rows(settings: MultiHashSettings) -> tuple[int, ...]:
    """Return the rows m_1, ..., m_k of the tables of the k hashes; a shared table k times.

    Raises:
        InputError: the tables have fewer rows than remainders need to distinguish `ids` indices.
    """
    tables = settings.hashes
    if settings.kind == "remainders":
        return _coprime(settings.ids or 1, tables, settings.rows)
    rows = settings.rows or tables
    if settings.shared:
        return (rows,) * tables
    return tuple(rows // tables + (table < rows % tables) for table in range(tables))


def vector_rows(settings: MultiHashSettings) -> int:
    """Return the rows of all tables together, Σ m_j, a shared table counted once."""
    rows = table_rows(settings)
    return rows[0] if settings.shared else sum(rows)


def weight_rows(settings: MultiHashSettings) -> int:
    """Return the rows of the importance table; 0 if nothing is weighted."""
    if settings.combine != "weighted":
        return 0
    return settings.weight_rows or settings.ids or WEIGHTS_PER_ROW * vector_rows(settings)


def distinct_weights(settings: MultiHashSettings) -> bool:
    """Return whether no two dense indices share a row of the importance table."""
    return settings.ids is not None and weight_rows(settings) >= settings.ids


def row_width(settings: MultiHashSettings, dim: int) -> int:
    """Return the width of one row of a vector of width `dim`, or raise InputError."""
    if settings.combine != "concat":
        return dim
    if dim % settings.hashes:
        raise InputError(
            f"multi-hash: a vector of width {dim} cannot be made of {settings.hashes} chunks: "
            "choose a number of hashes that divides it, or another way to combine"
        )
    return dim // settings.hashes


def _coprime(ids: int, tables: int, rows: int | None) -> tuple[int, ...]:
    """Return sizes without a common divisor whose product is at least `ids`.

    By the Chinese remainder theorem, the remainders of two different indices then differ.
    """
    if rows is None:
        # The product grows with the largest size, so the least largest size is found by bisection.
        low, high = 0, 1
        while prod(_descending(high, tables)) < ids:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            enough = prod(_descending(middle, tables)) >= ids
            low, high = (low, middle) if enough else (middle, high)
        return _descending(high, tables)
    # A larger first size may leave smaller ones for the others, so that the product is smaller:
    # then a smaller first size is tried.
    for largest in range(rows // tables, 0, -1):
        if largest**tables < ids:
            break
        sizes = _descending(largest, tables)
        if prod(sizes) >= ids:
            return sizes
    raise InputError(
        f"multi-hash: {tables} tables of {rows} rows in all cannot tell {ids} indices apart: give "
        "more rows, or none (the fewest are used), or more hashes"
    )


def _descending(largest: int, tables: int) -> tuple[int, ...]:
    """Return the largest sizes up to `largest` that are pairwise coprime, filled up with 1."""
    sizes: list[int] = []
    for size in range(largest, 1, -1):
        if len(sizes) == tables:
            break
        if all(gcd(size, other) == 1 for other in sizes):
            sizes.append(size)
    return (*sizes, *(1 for _ in range(tables - len(sizes))))
