"""What a window's counts say of each field: cardinality, coverage, concentration, new values, moments.

The counts are one sorted file, far smaller than the impressions: it is read in batches by Arrow and
added up by NumPy, in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from dataclasses import field as attribute
from decimal import ROUND_HALF_UP, Context, Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.canonical import NULL
from features.schema import Numeric, Schema, Transform
from spark_jobs.moments import Moments, numbers_of

TAIL_BELOW = 10
"""A value seen less often than this in the window belongs to the tail."""

HISTOGRAM = pa.schema(
    [("field", pa.string())]
    + [(name, pa.int64()) for name in ("at_least", "values", "impressions")]
)
NEW_VALUES = pa.schema(
    [("field", pa.string()), ("day", pa.string())]
    + [(name, pa.int64()) for name in ("values", "new_values", "impressions", "new_impressions")]
    + [("new_value_rate", pa.float64())]
)
FIELDS = pa.schema(
    [
        ("field", pa.string()),
        ("kind", pa.string()),
        ("cardinality", pa.int64()),
        ("impressions", pa.int64()),
    ]
    + [
        (name, pa.float64())
        for name in (
            "coverage",
            "seen_once_share",
            "tail_share",
            "entropy",
            "new_value_rate",
            "mean",
            "std",
        )
    ]
)

_DIGITS = 12
_SIGNIFICANT = Context(prec=_DIGITS, rounding=ROUND_HALF_UP)
_PLACES = Decimal(1).scaleb(-_DIGITS)
_POWERS = 64

Counts = NDArray[np.int64]


@dataclass
class FieldFigures:
    """The sums of one field, over as many batches of its values as are added."""

    numeric: Numeric | None
    """The field where it is dense: its numbers' mean and deviation are told too."""

    nulls: int = 0
    once: int = 0
    tail: int = 0
    log_sum: float = 0.0
    """Σ n · ln(n)."""
    new: Counts = attribute(default_factory=lambda: np.zeros(4, np.int64))
    """Of the last day: values, new values, impressions, new impressions."""
    values_by_power: Counts = attribute(default_factory=lambda: np.zeros(_POWERS, np.int64))
    impressions_by_power: Counts = attribute(default_factory=lambda: np.zeros(_POWERS, np.int64))
    moments: Moments = attribute(default_factory=Moments)

    @property
    def cardinality(self) -> int:
        """Distinct values, null left out."""
        return int(self.values_by_power.sum())

    @property
    def total(self) -> int:
        """Impressions summed over the values, null left out."""
        return int(self.impressions_by_power.sum())

    def add(self, values: pa.Array, impressions: Counts, today: Counts) -> None:
        """Add values of the field, each with its impressions in the window and on the last day."""
        present = pc.not_equal(values, NULL).to_numpy(zero_copy_only=False)
        self.nulls += int(impressions[~present].sum())
        n, last = impressions[present], today[present]
        self.once += int(np.count_nonzero(n == 1))
        self.tail += int(n[n < TAIL_BELOW].sum())
        self.log_sum += float((n * np.log(n)).sum())
        shown = last > 0
        new = shown & (n == last)
        self.new += [np.count_nonzero(shown), np.count_nonzero(new), last.sum(), last[new].sum()]
        power = np.frexp(n.astype(np.float64))[1] - 1
        self.values_by_power += np.bincount(power, minlength=_POWERS)
        # Exact: the sums stay below 2^53.
        self.impressions_by_power += np.bincount(power, weights=n, minlength=_POWERS).astype(
            np.int64
        )
        if self.numeric is not None:
            x = numbers_of(values)
            if self.numeric.transform is Transform.LOG:
                x = np.sign(x) * np.log1p(np.abs(x))
            self.moments.add(x, impressions)

    def histogram(self) -> Iterator[tuple[int, int, int]]:
        """Yield `at_least, values, impressions`: values seen at least 2^k and less than 2^(k+1) times."""
        for k in np.flatnonzero(self.values_by_power).tolist():
            yield 1 << k, int(self.values_by_power[k]), int(self.impressions_by_power[k])

    def new_value_rate(self) -> float | None:
        """Return the share of the last day's impressions whose value is new; None without impressions."""
        _, _, shown, new = self.new.tolist()
        return _rounded(new / shown) if shown else None

    def record(self, impressions: int) -> tuple[float | int | None, ...]:
        """Return the figures as `fields.parquet` has them, from `cardinality` on."""
        covered = impressions - self.nulls
        shares: tuple[float | None, ...] = (None, None, None)
        if self.cardinality:
            entropy = math.log(self.total) - self.log_sum / self.total
            shares = (self.once / self.cardinality, self.tail / self.total, entropy)
        moments: tuple[float | None, ...] = (None, None)
        if self.moments.weight:
            moments = (_significant(self.moments.mean), _significant(self.moments.std))
        figures = (covered / max(impressions, 1), *shares)
        rounded = (None if figure is None else _rounded(figure) for figure in figures)
        return self.cardinality, covered, *rounded, self.new_value_rate(), *moments


def field_figures(batches: Iterable[pa.RecordBatch], schema: Schema) -> dict[str, FieldFigures]:
    """Return the figures of each field of the schema.

    Args:
        batches: `field, value, impressions, today` (impressions of the window and of its last day), in
            the order of `field`.
        schema: names the fields.
    """
    dense = {each.name: each for each in schema.dense_fields()}
    figures = {each.name: FieldFigures(dense.get(each.name)) for each in schema.fields}
    for batch in batches:
        impressions, today = (batch[name].to_numpy() for name in ("impressions", "today"))
        for name, start, end in _runs(batch["field"]):
            if name in figures:
                figures[name].add(
                    batch["value"][start:end], impressions[start:end], today[start:end]
                )
    return figures


def histogram_table(figures: dict[str, FieldFigures]) -> pa.Table:
    """Return `histogram.parquet`."""
    return _table(
        HISTOGRAM, ((name, *row) for name in sorted(figures) for row in figures[name].histogram())
    )


def new_values_table(figures: dict[str, FieldFigures], day: str) -> pa.Table:
    """Return the day's own records of `new_values.parquet`: how much of it the window had not seen before."""
    return _table(
        NEW_VALUES,
        ((name, day, *each.new.tolist(), each.new_value_rate()) for name, each in figures.items()),
    )


def fields_table(figures: dict[str, FieldFigures], schema: Schema, impressions: int) -> pa.Table:
    """Return `fields.parquet`; `impressions` are those of the window."""
    kinds = {each.name: each.kind for each in schema.fields}
    return _table(
        FIELDS,
        ((name, kinds[name], *figures[name].record(impressions)) for name in sorted(figures)),
    )


def _runs(names: pa.Array) -> Iterator[tuple[str, int, int]]:
    """Each field's records in a batch: name, start, end."""
    ends = pa.compute.run_end_encode(names)
    start = 0
    for name, end in zip(ends.values.to_pylist(), ends.run_ends.to_pylist(), strict=True):
        yield name, start, end
        start = end


def _rounded(value: float) -> float:
    """A figure to 12 decimals, half up as Spark's `round` does."""
    return float(Decimal(repr(value)).quantize(_PLACES, ROUND_HALF_UP, Context(prec=40)))


def _significant(value: float) -> float:
    """A figure to 12 significant digits: sums of floats differ in the last bits from one order to another."""
    return float(_SIGNIFICANT.create_decimal(repr(value)))


def _table(schema: pa.Schema, rows: Iterable[tuple[object, ...]]) -> pa.Table:
    columns: list[Sequence[object]] = list(zip(*rows, strict=True)) or [[] for _ in schema]
    return pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema
    )
