"""Mean and deviation of numbers that come with weights and in batches."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.canonical import NUMBER, python_pattern

_NUMBER = re.compile(python_pattern(NUMBER))

Floats = NDArray[np.float64]


@dataclass
class Moments:
    """The sums so far: of weights, and the weighted mean and squares about it."""

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

    def add(self, x: Floats, n: NDArray[np.int64]) -> None:
        """Add numbers x [k], each n [k] times; NaN is none.

        Batches are merged by the formula of Chan, Golub and LeVeque (1979), which loses no digits to a large mean.
        """
        known = ~np.isnan(x)
        x, weights = x[known], n[known].astype(np.float64)
        if not len(x):
            return
        weight = float(weights.sum())
        mean = float((x * weights).sum()) / weight
        apart, both = mean - self.mean, self.weight + weight
        self.squares += (
            float((weights * (x - mean) ** 2).sum()) + apart**2 * self.weight * weight / both
        )
        self.mean += apart * weight / both
        self.weight = both
        self.least, self.most = min(self.least, float(x.min())), max(self.most, float(x.max()))


def numbers_of(values: pa.Array) -> Floats:
    """Return the numbers that canonical strings spell, NaN where one spells no finite number.

    The rule is that of `spark_jobs.values.number`.
    """
    x = np.array(
        [float(text) if _NUMBER.match(text) else math.nan for text in values.to_pylist()],
        np.float64,
    )
    return np.where(np.isinf(x), np.nan, x)
