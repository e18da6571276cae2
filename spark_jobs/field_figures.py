"""Figures of each field over a window: cardinality, coverage, concentration, new values, moments.

The counts are one sorted file, far smaller than the impressions: Arrow reads it in batches and
NumPy adds them up, in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from dataclasses import field as attribute
from decimal import ROUND_HALF_UP, Context, Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.canonical import NULL
from features.schema import Numeric, Schema, Transform
from spark_jobs.files import table_of
from spark_jobs.values import numbers_of

Integers = NDArray[np.int64]

TAIL_BELOW = 10
"""A value with fewer impressions than this in the window belongs to the tail."""

HISTOGRAM = pa.schema({
    "field": pa.string(), "at_least": pa.int64(), "values": pa.int64(), "impressions": pa.int64(),
})  # fmt: skip
NEW_VALUES = pa.schema({
    "field": pa.string(), "day": pa.string(), "values": pa.int64(), "new_values": pa.int64(),
    "impressions": pa.int64(), "new_impressions": pa.int64(), "new_value_rate": pa.float64(),
})  # fmt: skip
FIELDS = pa.schema({
    "field": pa.string(), "kind": pa.string(), "cardinality": pa.int64(), "impressions": pa.int64(),
    "coverage": pa.float64(), "seen_once_share": pa.float64(), "tail_share": pa.float64(),
    "entropy": pa.float64(), "new_value_rate": pa.float64(), "mean": pa.float64(),
    "std": pa.float64(),
})  # fmt: skip

_DIGITS = 12
_SIGNIFICANT = Context(prec=_DIGITS, rounding=ROUND_HALF_UP)
_PLACES = Decimal(1).scaleb(-_DIGITS)
_POWERS = 64


@dataclass
class Moments:
    """Weighted mean, standard deviation and range of numbers that arrive in batches."""

    weight: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    """Σ n · (x - mean)²."""
    least: float = math.inf
    most: float = -math.inf

    @property
    def std(self) -> float:
        """Standard deviation of the population; 0 without any number."""
        return math.sqrt(self.squares / self.weight) if self.weight else 0.0

    def add(self, x: NDArray[np.float64], n: Integers) -> None:
        """Add numbers x [k], each n [k] times; NaN is ignored."""
        known = ~np.isnan(x)
        x, weights = x[known], n[known].astype(np.float64)
        if not len(x):
            return
        weight = float(weights.sum())
        mean = float((x * weights).sum()) / weight
        apart, both = mean - self.mean, self.weight + weight
        # Batches are merged by the formula of Chan, Golub and LeVeque (1979). A plain sum of
        # squares would lose the digits of a deviation that is small against the mean.
        squares = float((weights * (x - mean) ** 2).sum())
        self.squares += squares + apart**2 * self.weight * weight / both
        self.mean += apart * weight / both
        self.weight = both
        self.least, self.most = min(self.least, float(x.min())), max(self.most, float(x.max()))


@dataclass
class FieldFigures:
    """The sums of one field over the batches of its values that were added."""

    numeric: Numeric | None
    """The field if it is dense: `moments` then has its numbers."""

    nulls: int = 0
    once: int = 0
    tail: int = 0
    log_sum: float = 0.0
    """Σ n · ln(n)."""
    new: Integers = attribute(default_factory=lambda: np.zeros(4, np.int64))
    """Of the last day: values, new values, impressions, new impressions."""
    values_by_power: Integers = attribute(default_factory=lambda: np.zeros(_POWERS, np.int64))
    impressions_by_power: Integers = attribute(default_factory=lambda: np.zeros(_POWERS, np.int64))
    moments: Moments = attribute(default_factory=Moments)

    @property
    def cardinality(self) -> int:
        """Distinct values without null."""
        return int(self.values_by_power.sum())

    def add(self, values: pa.Array, impressions: Integers, today: Integers) -> None:
        """Add values of the field, each with its impressions in the window and on the last day."""
        present = pc.not_equal(values, NULL).to_numpy(zero_copy_only=False)
        self.nulls += int(impressions[~present].sum())
        n, last = impressions[present], today[present]
        self.once += int(np.count_nonzero(n == 1))
        self.tail += int(n[n < TAIL_BELOW].sum())
        self.log_sum += float((n * np.log(n)).sum())
        shown = last > 0
        # A value is new if all its impressions in the window are of the last day.
        new = shown & (n == last)
        self.new += [np.count_nonzero(shown), np.count_nonzero(new), last.sum(), last[new].sum()]
        power = np.frexp(n.astype(np.float64))[1] - 1
        self.values_by_power += np.bincount(power, minlength=_POWERS)
        # `bincount` sums in float64, which is exact: the sums stay below 2^53.
        sums = np.bincount(power, weights=n, minlength=_POWERS)
        self.impressions_by_power += sums.astype(np.int64)
        if self.numeric is not None:
            x = numbers_of(values)
            if self.numeric.transform is Transform.LOG:
                x = np.sign(x) * np.log1p(np.abs(x))
            self.moments.add(x, impressions)

    def new_value_rate(self) -> float | None:
        """Return the share of the last day's impressions whose value is new, or None."""
        _, _, shown, new = self.new.tolist()
        return _rounded(new / shown) if shown else None

    def record(self, impressions: int) -> tuple[float | int | None, ...]:
        """Return the columns of `fields.parquet` from `cardinality` on."""
        covered = impressions - self.nulls
        shares: tuple[float | None, ...] = (None, None, None)
        if self.cardinality:
            total = int(self.impressions_by_power.sum())
            entropy = math.log(total) - self.log_sum / total
            shares = (self.once / self.cardinality, self.tail / total, entropy)
        moments: tuple[float | None, ...] = (None, None)
        if self.moments.weight:
            # To significant digits: the last bits of a sum of floats depend on its order.
            moments = tuple(
                float(_SIGNIFICANT.create_decimal(repr(each)))
                for each in (self.moments.mean, self.moments.std)
            )
        figures = (covered / max(impressions, 1), *shares)
        rounded = (None if figure is None else _rounded(figure) for figure in figures)
        return self.cardinality, covered, *rounded, self.new_value_rate(), *moments


def field_figures(batches: Iterable[pa.RecordBatch], schema: Schema) -> dict[str, FieldFigures]:
    """Return the figures of each field of the schema.

    Args:
        batches: `field, value, impressions, today` (impressions of the window and of its last day),
            in the order of `field`.
    """
    dense = {each.name: each for each in schema.dense_fields()}
    figures = {each.name: FieldFigures(dense.get(each.name)) for each in schema.fields}
    for batch in batches:
        impressions, today = (batch[name].to_numpy() for name in ("impressions", "today"))
        # Each run of equal names in the batch is one field.
        runs = pc.run_end_encode(batch["field"])
        start = 0
        for name, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            if name in figures:
                values = batch["value"][start:end]
                figures[name].add(values, impressions[start:end], today[start:end])
            start = end
    return figures


def figure_tables(
    figures: Mapping[str, FieldFigures], schema: Schema, impressions: int, day: str
) -> dict[str, pa.Table]:
    """Return the tables `fields`, `histogram` and `new_values`.

    Args:
        impressions: those of the window.
        day: the last day or hour of the window, to which the rows of `new_values` belong.
    """
    kinds = {each.name: each.kind for each in schema.fields}
    by_name = sorted(figures.items())
    fields = ((name, kinds[name], *each.record(impressions)) for name, each in by_name)
    # Values with at least 2^k and less than 2^(k+1) impressions.
    histogram = (
        (name, 1 << k, int(each.values_by_power[k]), int(each.impressions_by_power[k]))
        for name, each in by_name
        for k in np.flatnonzero(each.values_by_power).tolist()
    )
    new = ((name, day, *each.new.tolist(), each.new_value_rate()) for name, each in figures.items())
    return {
        "fields": table_of(fields, FIELDS),
        "histogram": table_of(histogram, HISTOGRAM),
        "new_values": table_of(new, NEW_VALUES),
    }


def _rounded(value: float) -> float:
    """Return a figure to 12 decimals, rounded half up as Spark's `round` does."""
    return float(Decimal(repr(value)).quantize(_PLACES, ROUND_HALF_UP, Context(prec=40)))
