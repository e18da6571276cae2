"""Running counts by field: how many events came, how many met a row, what was admitted, evicted and revived."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.native import compiled


@dataclass(frozen=True)
class Tally:
    """Counters int64 [fields].

    Attributes:
        events: occurrences of keys.
        hits: occurrences whose key had a row in that batch.
        admitted: keys that were given a row.
        evicted: keys that lost their row.
        revived: rows that group lasso had set to zero and that came back, as far as evictions and statistics saw them zero.
    """

    events: NDArray[np.int64]
    hits: NDArray[np.int64]
    admitted: NDArray[np.int64]
    evicted: NDArray[np.int64]
    revived: NDArray[np.int64]

    @classmethod
    def zeros(cls, count: int) -> Tally:
        """Return counters of `count` fields, all 0."""
        return cls(*(np.zeros(count, np.int64) for _ in fields(cls)))

    def add(self, other: Tally) -> None:
        """Add another's counters, in place."""
        for mine, its in zip(self._counters(), other._counters(), strict=True):
            mine += its

    def subtract(self, other: Tally) -> None:
        """Take another's counters away, in place."""
        for mine, its in zip(self._counters(), other._counters(), strict=True):
            mine -= its

    def arrays(self) -> dict[str, NDArray[np.int64]]:
        """Return the counters by name."""
        return dict(zip(TALLY_NAMES, self._counters(), strict=True))

    def _counters(self) -> tuple[NDArray[np.int64], ...]:
        return self.events, self.hits, self.admitted, self.evicted, self.revived


TALLY_NAMES = tuple(field.name for field in fields(Tally))


def sums_by_field(
    codes: NDArray[np.int32], numbers: NDArray[np.int32], count: int
) -> NDArray[np.int64]:
    """Return int64 [count]: the sum of the numbers int32 [n] of each of the field codes int32 [n]."""
    sums = np.zeros(count, np.int64)
    _add_up(codes, numbers, sums)
    return sums


@compiled
def _add_up(codes: NDArray[np.int32], numbers: NDArray[np.int32], sums: NDArray[np.int64]) -> None:
    for i in range(len(codes)):
        sums[codes[i]] += numbers[i]


def by_field(codes: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    """Return int64 [count]: how many of the codes [n] are each field."""
    return np.bincount(codes, minlength=count).astype(np.int64)
