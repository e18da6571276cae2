"""What YAML says of a multi-hash field. Plain data, free of TensorFlow and NumPy."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from features.schema import Categorical, KeyField, Settings

Count = Annotated[int, Field(ge=1)]
Combine = Literal["sum", "concat", "multiply", "weighted"]


class MultiHashSettings(Settings):
    """How the ids of one field share few rows: every id's vector is made of the rows of several small tables.

    Attributes:
        kind: `hash` takes any key. The others take dense indices 0 … ids - 1 and give every one a combination of rows of its
            own (Shi et al., KDD 2020): `quotient_remainder`, for more than two tables the digits of a mixed radix, and
            `remainders` by table sizes without a common divisor, where all tables are about equally large.
        hashes: rows an id is made of, k; its number of tables unless they are shared.
        rows: rows of all tables together; with `concat` a row is dim / hashes wide. Not given: the fewest that
            quotients and remainders need.
        shared: the hashes fall into one table instead of k separate ones.
        combine: `sum`; `concat`; `multiply`, elementwise; `weighted`, a sum with learned importance weights of the id
            (hash embeddings: Svenstrup et al., NeurIPS 2017).
        weight_rows: rows of the importance table, each of k weights; not given: `ids`, or `WEIGHTS_PER_ROW` times `rows`.
        ids: the number of dense indices, for the kinds that take them; beside `hash` it gives every index importance
            weights of its own.
        own_rows_from_count: ids seen so often keep a row of their own; not given: none by count.
    """

    kind: Literal["hash", "quotient_remainder", "remainders"] = "hash"
    hashes: Count = 2
    rows: Count | None = None
    shared: bool = False
    combine: Combine = "sum"
    weight_rows: Count | None = None
    ids: Count | None = None
    own_rows_from_count: Count | None = None

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        problems = [problem for wrong, problem in self._problems() if wrong]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems(self) -> list[tuple[bool, str]]:
        indexed, weighted = self.kind != "hash", self.combine == "weighted"
        separate_rows = self.rows if self.rows and not self.shared else self.hashes
        return [
            (self.rows is None and not indexed, "rows: say how many rows the tables have together"),
            (
                separate_rows < self.hashes,
                f"rows: {self.hashes} tables need at least as many rows, got {self.rows}",
            ),
            (indexed and self.ids is None, f"ids: {self.kind} needs the number of dense indices"),
            (indexed and self.shared, f"shared: {self.kind} needs separate tables"),
            (
                self.ids is not None and not (indexed or weighted),
                "ids: is for dense indices or weights of their own; leave it out",
            ),
            (
                self.weight_rows is not None and not weighted,
                "weight_rows: is for combine weighted only; leave it out",
            ),
        ]


WEIGHTS_PER_ROW = 10
"""Rows of the importance table per row of vectors; Svenstrup et al. advise more than 10 times as many."""


def multi_hash_of(field: KeyField) -> MultiHashSettings:
    """Return what the schema says of the hashed rows of a multi-hash field: `sum` pools them by the mean as a list's are.

    A mean of k rows is their sum but for the factor k, the same for all ids.
    """
    assert isinstance(field, Categorical)
    assert field.multi_hash is not None
    told = field.multi_hash
    return MultiHashSettings(
        hashes=told.hashes, rows=told.rows, shared=told.shared, combine=told.combine
    )
