"""Which keys a table lets go. Policies are small frozen objects over arrays; they know nothing of the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.errors import InputError


@dataclass(frozen=True)
class Residents:
    """What a policy sees: one element per known key, in the order of first occurrence.

    Attributes:
        has_row: bool [e]; false for keys that are counted and not admitted.
        counts: int32 [e], occurrences.
        last_seen: int32 [e], the step of the last occurrence.
        step: optimizer steps taken.
        days: the steps taken when each day began, ascending (`ElasticTable.start_day`).
        zero: computes bool [e]: has a row that is exactly zero in every slab.
        norms: computes float32 [e]: L2 norm of the row over all slabs; 0 without a row.
    """

    has_row: NDArray[np.bool_]
    counts: NDArray[np.int32]
    last_seen: NDArray[np.int32]
    step: int
    days: Sequence[int]
    zero: Callable[[], NDArray[np.bool_]]
    norms: Callable[[], NDArray[np.float32]]


class EvictionPolicy(Protocol):
    """Chooses keys to let go."""

    def select(self, residents: Residents) -> NDArray[np.bool_]:
        """Return bool [e]: which keys go."""


@dataclass(frozen=True)
class ZeroRows:
    """Rows that group lasso set to zero and that were not seen for `idle_steps` steps (0: at once).

    Until it goes, a zero row keeps its optimizer state and can revive.
    """

    idle_steps: int = 0

    def select(self, residents: Residents) -> NDArray[np.bool_]:
        """Return bool [e]."""
        return residents.zero() & (residents.last_seen <= residents.step - self.idle_steps)


@dataclass(frozen=True)
class Idle:
    """Keys, admitted or waiting, not seen for `steps` steps, or since the day `days` days before the current one began.

    Raises:
        InputError: neither or both are given, or below 1.
    """

    steps: int | None = None
    days: int | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.days is None) or (self.steps or self.days or 0) < 1:
            raise InputError(f"{self}: give either steps or days, at least 1")

    def select(self, residents: Residents) -> NDArray[np.bool_]:
        """Return bool [e]."""
        if self.steps is not None:
            return residents.last_seen <= residents.step - self.steps
        return residents.last_seen <= _beginning(residents.days, self.days or 0)


@dataclass(frozen=True)
class SmallNorm:
    """Rows whose L2 norm over all slabs is below `below`."""

    below: float

    def __post_init__(self) -> None:
        if not self.below > 0:
            raise InputError(
                f"{self}: below must be positive; ZeroRows() is the policy for rows that are exactly zero"
            )

    def select(self, residents: Residents) -> NDArray[np.bool_]:
        """Return bool [e]."""
        return residents.has_row & (residents.norms() < self.below)


@dataclass(frozen=True)
class LeastFrequent:
    """The rows above a budget of `max_rows`, the least frequent first; of equals the one seen longest ago."""

    max_rows: int

    def __post_init__(self) -> None:
        if self.max_rows < 1:
            raise InputError(f"{self}: max_rows must be at least 1")

    def select(self, residents: Residents) -> NDArray[np.bool_]:
        """Return bool [e]."""
        chosen = np.zeros(len(residents.counts), np.bool_)
        chosen[_by_worth(residents, residents.has_row)[: -self.max_rows]] = True
        return chosen


@dataclass(frozen=True)
class Eviction:
    """When a table lets keys go, and by which policies: a key goes when any of them says so.

    Attributes:
        policies: asked in this order.
        every: steps between two evictions; 0 leaves it to calls of `evict()`.
        keep_rows: a floor: of the chosen rows the most frequent stay, until this many rows are left.

    Raises:
        InputError: no policy, or a negative number.
    """

    policies: tuple[EvictionPolicy, ...]
    every: int = 0
    keep_rows: int = 0

    def __post_init__(self) -> None:
        if not self.policies or self.every < 0 or self.keep_rows < 0:
            raise InputError(
                f"{self}: give at least one policy; every and keep_rows must not be negative"
            )

    def due(self, step: int) -> bool:
        """Return whether keys go after this step."""
        return self.every > 0 and step % self.every == 0

    def select(self, residents: Residents) -> NDArray[np.bool_]:
        """Return bool [e]: which keys go."""
        chosen = np.logical_or.reduce([policy.select(residents) for policy in self.policies])
        spared = self.keep_rows - int(np.count_nonzero(residents.has_row & ~chosen))
        if spared > 0:
            chosen[_by_worth(residents, residents.has_row & chosen)[-spared:]] = False
        return chosen


def _by_worth(residents: Residents, among: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Positions where `among` is true, least frequent first, then longest unseen, then youngest."""
    places = np.flatnonzero(among)[::-1]
    return places[np.lexsort((residents.last_seen[places], residents.counts[places]))]


def _beginning(days: Sequence[int], back: int) -> int:
    """Steps taken when the day `back` days before the current one began; -1 if the table is not that old."""
    return days[-1 - back] if len(days) > back else -1
