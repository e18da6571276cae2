"""The open-addressing table from keys to entries: linear probing, growth a little at a time, deletion without tombstones.

A slot is 16 bytes, so a search touches one cache line or two. A key's hash is scaled to the capacity, which keeps the
order of slots when the capacity grows: growing means to walk down the table and move everything up, in place, in an array
whose address space was set aside beforehand. It is done in stages of a millisecond, so nobody waits for it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.native import committed_bytes, release, reserved
from elastic_embeddings.index import upkeep as kernels
from elastic_embeddings.index.kernels import Layout, find

_FIRST_CAPACITY = 1_024
_FULL, _BUILT = 0.58, 0.5  # shares of the slots in use where growth begins, and after a rebuild
_GROWTH = 1.5
_STAGE_SLOTS, _STAGE_KEYS = (
    65_536,
    4_096,
)  # slots moved a stage, keys let in between two: the load passes _FULL by .04 at most


class HashSlots:
    """Slots of distinct keys. `layout` and `pairs` are what the kernels take.

    Args:
        reserve: slots for which address space is set aside; when outgrown it is doubled, at the price of one copy.
    """

    def __init__(self, reserve: int) -> None:
        self.pairs: NDArray[np.uint64] = reserved((max(reserve, 4 * _FIRST_CAPACITY), 2), np.uint64)
        self.layout = _settled(_FIRST_CAPACITY)
        self._due = 0  # keys in use at which the next stage of growth has to be taken

    @property
    def growing(self) -> bool:
        """Whether part of the table still lies where the old capacity puts it."""
        return self.layout[0] != self.layout[1]

    def room(self, used: int) -> int:
        """Return how many keys may be inserted beside `used` ones until `make_room` must be called."""
        return max(0, (self._due if self.growing else int(_FULL * int(self.layout[0]))) - used)

    def make_room(self, used: int) -> None:
        """Take one step of growth beside `used` keys: the next stage, or the first of a new capacity."""
        self._due = used + _STAGE_KEYS
        if not self.growing:
            wider = int(_GROWTH * int(self.layout[0]))
            self._reserve(2 * wider)
            self.layout = (self.layout[0], np.uint64(wider), self.layout[0])
        boundary = kernels.migrate(self.pairs, self.layout, _STAGE_SLOTS)
        self.layout = (
            (self.layout[0], self.layout[1], np.uint64(boundary))
            if boundary
            else _settled(int(self.layout[1]))
        )

    def rebuild(self, keys: NDArray[np.int64]) -> bool:
        """Hold the i-th key as entry i and nothing else, in as many slots as needed; False where a key is there twice."""
        release(self.pairs, 0)
        capacity = max(_FIRST_CAPACITY, int(len(keys) / _BUILT))
        self._reserve(2 * capacity)
        self.layout = _settled(capacity)
        return bool(kernels.insert_all(self.pairs, self.layout, keys))

    def find(self, bits: NDArray[np.uint64], entries: NDArray[np.int32]) -> None:
        """Fill `entries` int32 [n] with those of keys uint64 [n], -1 where a key is not here."""
        find(self.pairs, self.layout, bits, entries)

    def nbytes(self) -> int:
        """Return the committed bytes."""
        return committed_bytes(self.pairs, int(self.layout[1]))

    def _reserve(self, slots: int) -> None:
        if slots > len(self.pairs):
            wider: NDArray[np.uint64] = reserved((max(slots, 2 * len(self.pairs)), 2), np.uint64)
            wider[: slots // 2] = self.pairs[: slots // 2]
            self.pairs = wider


def _settled(capacity: int) -> Layout:
    return np.uint64(capacity), np.uint64(capacity), np.uint64(capacity)
