"""Eviction policies: which keys a table deletes. A policy sees arrays and knows no table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.errors import InputError


@dataclass(frozen=True)
class KeyStats:
    """What an eviction policy sees: one element per known key, in the order of first occurrence.

    Attributes:
        has_row: bool [e]; false for keys that are counted and not admitted.
        counts: int32 [e], occurrences.
        last_seen: int32 [e], the step of the last occurrence.
        step: optimizer steps so far.
        days: the step at the start of each day, ascending (`ElasticTable.start_day`).
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
    """Selects the keys to delete."""

    def select(self, keys: KeyStats) -> NDArray[np.bool_]:
        """Return bool [e]: which keys are deleted."""


@dataclass(frozen=True)
class ZeroRows:
    """Rows that group lasso set to zero and whose key did not occur for `idle_steps` steps.

    Until it is evicted, a zero row keeps its optimizer state and can become nonzero again.
    """

    idle_steps: int = 0

    def select(self, keys: KeyStats) -> NDArray[np.bool_]:
        """Return bool [e]."""
        return keys.zero() & (keys.last_seen <= keys.step - self.idle_steps)


@dataclass(frozen=True)
class Idle:
    """Keys, with or without a row, that did not occur for `steps` steps or `days` days.

    Days are counted back from the start of the current one.

    Raises:
        InputError: neither or both are given, or below 1.
    """

    steps: int | None = None
    days: int | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.days is None) or (self.steps or self.days or 0) < 1:
            raise InputError(f"{self}: give either steps or days, at least 1")

    def select(self, keys: KeyStats) -> NDArray[np.bool_]:
        """Return bool [e]."""
        if self.steps is not None:
            return keys.last_seen <= keys.step - self.steps
        back = self.days or 0
        # No key is idle for longer than the table exists.
        begin = keys.days[-1 - back] if len(keys.days) > back else -1
        return keys.last_seen <= begin


@dataclass(frozen=True)
class SmallNorm:
    """Rows whose L2 norm over all slabs is below `below`."""

    below: float

    def __post_init__(self) -> None:
        if not 0 < self.below < math.inf:
            raise InputError(
                f"{self}: below must be positive and finite; ZeroRows() evicts zero rows"
            )

    def select(self, keys: KeyStats) -> NDArray[np.bool_]:
        """Return bool [e]."""
        return keys.has_row & (keys.norms() < self.below)


@dataclass(frozen=True)
class LeastFrequent:
    """The rows above a budget of `max_rows`: the least frequent, then the longest unseen."""

    max_rows: int

    def __post_init__(self) -> None:
        if self.max_rows < 1:
            raise InputError(f"{self}: max_rows must be at least 1")

    def select(self, keys: KeyStats) -> NDArray[np.bool_]:
        """Return bool [e]."""
        chosen = np.zeros(len(keys.counts), np.bool_)
        chosen[_by_frequency(keys, keys.has_row)[: -self.max_rows]] = True
        return chosen


@dataclass(frozen=True)
class Eviction:
    """When a table evicts, and by which policies; any of them suffices.

    Attributes:
        policies: the policies.
        every: steps between two evictions; 0 evicts only at calls of `evict()`.
        keep_rows: the least number of rows that an eviction leaves, the most frequent ones.

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
        """Return whether the table evicts after this step."""
        return self.every > 0 and step % self.every == 0

    def select(self, keys: KeyStats) -> NDArray[np.bool_]:
        """Return bool [e]: which keys are deleted."""
        chosen: NDArray[np.bool_] = np.logical_or.reduce(
            [policy.select(keys) for policy in self.policies]
        )
        missing = self.keep_rows - int(np.count_nonzero(keys.has_row & ~chosen))
        if missing > 0:
            chosen[_by_frequency(keys, keys.has_row & chosen)[-missing:]] = False
        return chosen


def _by_frequency(keys: KeyStats, among: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Positions where `among` is true: least frequent, then longest unseen, then newest first."""
    # The sort is stable, so the reversed order makes the newest keys come first among equals.
    positions = np.flatnonzero(among)[::-1]
    return positions[np.lexsort((keys.last_seen[positions], keys.counts[positions]))]
