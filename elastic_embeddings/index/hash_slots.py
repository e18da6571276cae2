"""The open-addressing table from keys to entries: linear probing, deletion without tombstones.

A slot has 16 bytes, so a search touches one or two cache lines. The hash of a key is scaled to the
capacity, so a larger capacity keeps the order of slots. The table grows in place: its slots move
up, from the last to the first, within reserved address space. This happens in stages of about a
millisecond, between which keys can be found and inserted.

Arrays of the kernels:
    pairs: uint64 [slots, 2], the key and its entry + 1; 0 if the slot is empty.
    layout: `SlotLayout`.

Kernels index with unsigned numbers: numba tests signed ones for being negative.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.hashing import mix
from elastic_embeddings.core.memory import committed_bytes, release, reserved
from elastic_embeddings.core.native import compiled, prefetch

_FIRST_CAPACITY = 1_024
_FULL, _BUILT = 0.58, 0.5  # load at which growth begins, and load after a rebuild
_GROWTH = 1.5
# Slots that a stage moves, and keys that may be inserted between stages. With these numbers the
# load exceeds _FULL by 0.04 at most while the table grows.
_STAGE_SLOTS, _STAGE_KEYS = 65_536, 4_096

AHEAD = 32  # memory accesses in flight
RING_MASK = np.uint64(AHEAD - 1)
# Any constant: keys that were sampled or sharded by their `mix64` must still spread over all slots.
SALT = np.uint64(0xD6E8FEB86659FD93)
ONE, TWO, _32 = np.uint64(1), np.uint64(2), np.uint64(32)

Pairs = NDArray[np.uint64]


class SlotLayout(NamedTuple):
    """Where keys are: slots below `boundary` by `capacity`, others by the `wider` capacity.

    All three are equal unless the table is growing.
    """

    capacity: np.uint64
    wider: np.uint64
    boundary: np.uint64


class HashSlots:
    """Slots of distinct keys.

    Args:
        reserve: slots to reserve address space for. A table that outgrows it is copied once to
            twice the address space.

    Attributes:
        pairs, layout: the arguments of the kernels.
    """

    def __init__(self, reserve: int) -> None:
        self.pairs: Pairs = reserved((max(reserve, 4 * _FIRST_CAPACITY), 2), np.uint64)
        self.layout = _layout(_FIRST_CAPACITY)
        self._next_stage = 0  # number of keys at which the next stage of growth must run

    @property
    def growing(self) -> bool:
        """Whether some slots are still placed by the old capacity."""
        return bool(self.layout.capacity != self.layout.wider)

    def free(self, used: int) -> int:
        """Return the number of keys that can be added to `used` ones before `grow` must run."""
        limit = self._next_stage if self.growing else int(_FULL * int(self.layout.capacity))
        return max(0, limit - used)

    def grow(self, used: int) -> None:
        """Run a stage of growth, the next one or the first one of a new capacity."""
        self._next_stage = used + _STAGE_KEYS
        if not self.growing:
            wider = int(_GROWTH * int(self.layout.capacity))
            self._reserve(2 * wider)
            self.layout = self.layout._replace(wider=np.uint64(wider))
        boundary = _migrate(self.pairs, self.layout, _STAGE_SLOTS)
        if boundary:
            self.layout = self.layout._replace(boundary=np.uint64(boundary))
        else:
            self.layout = _layout(int(self.layout.wider))

    def rebuild(self, keys: NDArray[np.int64]) -> bool:
        """Replace the content: the i-th key is entry i. Return False if a key is repeated."""
        # Empties all slots: released pages read as zeros.
        release(self.pairs, 0)
        capacity = max(_FIRST_CAPACITY, int(len(keys) / _BUILT))
        self._reserve(2 * capacity)
        self.layout = _layout(capacity)
        return bool(_insert_all(self.pairs, self.layout, keys))

    def find(self, bits: NDArray[np.uint64], entries: NDArray[np.int32]) -> None:
        """Write the entries of keys uint64 [n] to `entries` int32 [n]; -1: unknown."""
        _find(self.pairs, self.layout, bits, entries)

    def nbytes(self) -> int:
        """Return the committed bytes."""
        return committed_bytes(self.pairs, int(self.layout.wider))

    def _reserve(self, slots: int) -> None:
        # Callers ask for twice the capacity: searches run into the slots behind it.
        if slots > len(self.pairs):
            wider: Pairs = reserved((max(slots, 2 * len(self.pairs)), 2), np.uint64)
            wider[: slots // 2] = self.pairs[: slots // 2]
            self.pairs = wider


def _layout(capacity: int) -> SlotLayout:
    return SlotLayout(np.uint64(capacity), np.uint64(capacity), np.uint64(capacity))


@compiled
def home(key: np.uint64, layout: SlotLayout) -> np.uint64:
    """Return the slot at which the search for a key begins.

    Scaling replaces a modulo (Lemire: Fast Random Integer Generation in an Interval).
    """
    high = mix(key ^ SALT) >> _32
    slot = (high * layout.capacity) >> _32
    # A key whose home by the old capacity has been moved is found by the wider one.
    return slot if slot < layout.boundary else (high * layout.wider) >> _32


@compiled
def locate(pairs: Pairs, key: np.uint64, slot: np.uint64) -> np.uint64:
    """Return the slot of the key, or the empty slot for it, searching from its home."""
    # It ends without a test for the array's end: the last slots are always empty.
    # The entry tells whether a slot is empty, not the key: 0 is a key like any other.
    while pairs[slot, 1] != 0 and pairs[slot, 0] != key:
        slot += ONE
    return slot


@compiled
def vacate(pairs: Pairs, layout: SlotLayout, slot: np.uint64) -> None:
    """Empty a slot without a tombstone (Knuth vol. 3, 6.4, algorithm R)."""
    # Later keys that a search would no longer reach are moved back.
    other = slot + ONE
    while pairs[other, 1] != 0:
        if home(pairs[other, 0], layout) <= slot:
            pairs[slot, 0], pairs[slot, 1] = pairs[other, 0], pairs[other, 1]
            slot = other
        other += ONE
    pairs[slot, 0] = pairs[slot, 1] = 0


@compiled
def _find(
    pairs: Pairs, layout: SlotLayout, batch: NDArray[np.uint64], entries: NDArray[np.int32]
) -> None:
    # The homes of the next keys wait in a ring while their cache lines are fetched.
    flat, ring = pairs.reshape(-1), np.empty(AHEAD, np.uint64)
    for i in range(min(AHEAD, len(batch))):
        ring[np.uint64(i) & RING_MASK] = home(batch[i], layout)
        prefetch(flat, ring[np.uint64(i) & RING_MASK] * TWO)
    for i in range(len(entries)):
        turn = np.uint64(i) & RING_MASK
        entries[i] = np.int64(pairs[locate(pairs, batch[i], ring[turn]), 1]) - 1
        if i + AHEAD < len(entries):
            ring[turn] = home(batch[i + AHEAD], layout)
            prefetch(flat, ring[turn] * TWO)


@compiled
def _migrate(pairs: Pairs, layout: SlotLayout, slots: int) -> int:
    """Move the last `slots` slots below the boundary by the wider capacity.

    Returns:
        the new boundary.
    """
    end = np.int64(layout.boundary)
    start = max(end - slots, np.int64(0))
    # The moved block ends at an empty slot, so no search for a key below the boundary crosses it.
    while pairs[end, 1] != 0:
        end += 1
    # Copied, because the slots that the keys move to may be among those they come from.
    block = pairs[start:end].copy()
    pairs[start:end] = 0
    # With the lower boundary, `home` places the block's keys by the wider capacity.
    moved = SlotLayout(layout.capacity, layout.wider, np.uint64(start))
    for i in range(len(block)):
        if block[i, 1] != 0:
            slot = locate(pairs, block[i, 0], home(block[i, 0], moved))
            pairs[slot, 0], pairs[slot, 1] = block[i, 0], block[i, 1]
    return int(start)


@compiled
def _insert_all(pairs: Pairs, layout: SlotLayout, keys: NDArray[np.int64]) -> bool:
    """Insert the i-th key as entry i into empty slots; return False if a key is repeated."""
    flat = pairs.reshape(-1)
    for i in range(len(keys)):
        if i + AHEAD < len(keys):
            prefetch(flat, home(np.uint64(keys[i + AHEAD]), layout) * TWO)
        key = np.uint64(keys[i])
        slot = locate(pairs, key, home(key, layout))
        if pairs[slot, 1] != 0:
            return False
        pairs[slot, 0], pairs[slot, 1] = key, np.uint64(i + 1)
    return True
