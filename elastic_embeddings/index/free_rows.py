"""Which slab rows are free: the ones given back, last first, then the next one that was never handed out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class FreeRows:
    """Rows from 1 on; row 0 is never given.

    Args:
        limit: rows 1 … limit are in use.

    Attributes:
        limit: the highest row ever handed out.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self._rows = np.empty(16, np.int32)
        self._count = 0
        self._highest_freed = 0

    def __len__(self) -> int:
        """Return how many rows below `limit` are free."""
        return self._count

    def give(self, count: int) -> NDArray[np.int32]:
        """Return so many rows, int32 [count]."""
        reused = min(count, self._count)
        self._count -= reused
        rows = np.arange(self.limit + 1 - reused, self.limit + 1 - reused + count, dtype=np.int32)
        rows[:reused] = self._rows[self._count : self._count + reused][::-1]
        self.limit += count - reused
        return rows

    def take(self, rows: NDArray[np.int32]) -> None:
        """Undo `give`, which returned these rows; calls are undone newest first.

        A row that was never used before lies at the limit and above all that were freed: that tells the two kinds apart.
        """
        backwards = rows[::-1]
        fresh = (backwards == self.limit - np.arange(len(rows))) & (backwards > self._highest_freed)
        taken = int(np.logical_and.accumulate(fresh).sum())
        self.limit -= taken
        self._push(backwards[taken:])

    def free(self, rows: NDArray[np.int32]) -> None:
        """Add rows int32 [k] that are no longer used; the last one is given first."""
        self._highest_freed = max(self._highest_freed, int(rows.max(initial=0)))
        self._push(rows)

    def nbytes(self) -> int:
        """Return the allocated bytes."""
        return self._rows.nbytes

    def _push(self, rows: NDArray[np.int32]) -> None:
        needed = self._count + len(rows)
        if needed > len(self._rows):
            longer = np.empty(max(needed, 2 * len(self._rows)), np.int32)
            longer[: self._count] = self._rows[: self._count]
            self._rows = longer
        self._rows[self._count : needed] = rows
        self._count = needed
