"""Which keys get a row. A policy is a small frozen object over counts; it knows nothing of the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError


class Admission(Protocol):
    """Decides from how often keys were seen which of them deserve a row. Once admitted, a key stays admitted."""

    def admit(self, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return bool [n]: which keys get a row, given their occurrences int64 [n], this batch included."""
        ...


@dataclass(frozen=True)
class AlwaysAdmit:
    """Every key gets a row at its first occurrence."""

    def admit(self, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return all true, bool [n]."""
        return np.ones(len(counts), np.bool_)


@dataclass(frozen=True)
class CountAdmission:
    """A key gets a row in the batch in which it reaches `min_count` occurrences.

    >>> CountAdmission(3).admit(np.array([1, 3, 9])).tolist()
    [False, True, True]

    Raises:
        InputError: `min_count` is below 1.
    """

    min_count: int

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise InputError(f"CountAdmission: min_count is {self.min_count}, give at least 1 (1 admits every key)")

    def admit(self, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return bool [n]: `counts >= min_count`."""
        return counts >= self.min_count
