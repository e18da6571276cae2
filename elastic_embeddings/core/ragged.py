"""Lists of keys, one per impression, as one flat array with offsets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ragged:
    """Lists of different lengths: list `i` is `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
        values: int64 [m].
        offsets: int64 [n + 1]; the first one is 0.
    """

    values: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lengths(self) -> NDArray[np.int64]:
        """Return the length of each list, int64 [n]."""
        return np.diff(self.offsets)

    def slice(self, start: int, stop: int) -> Self:
        """Return the lists from `start` (included) to `stop` (excluded)."""
        offsets = self.offsets[start : max(start, stop) + 1]
        return type(self)(self.values[offsets[0] : offsets[-1]], offsets - offsets[0])

    def take(self, indices: NDArray[np.int64]) -> Self:
        """Return the lists at these positions, int64 [b]."""
        starts = self.offsets[indices]
        lengths = self.offsets[indices + 1] - starts
        offsets = _offsets(lengths)
        # Value j of the result belongs to list i; it is at starts[i] + (j - offsets[i]).
        positions = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return type(self)(self.values[positions], offsets)

    def keep(self, kept: NDArray[np.bool_]) -> Self:
        """Return the lists with only the values where `kept`, bool [m], is true."""
        owners = np.repeat(np.arange(len(self)), self.lengths())
        lengths = np.bincount(owners[kept], minlength=len(self))
        return type(self)(self.values[kept], _offsets(lengths))


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
