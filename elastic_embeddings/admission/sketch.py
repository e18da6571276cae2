"""Approximate counts of keys without a row, in bounded memory: a counting Bloom filter.

A key's count is the minimum of its counters (Fan et al.: Summary Cache, 2000). They are raised
conservatively (Estan, Varghese: New Directions in Traffic Measurement and Accounting, 2002), so a
count is never too low within what the sketch remembers. New occurrences go to the current
generation. When that is full or old, it becomes the previous one, the previous one is dropped, and
an empty one begins. An estimate is the sum of both generations. So the memory is fixed, and keys
that do not occur again are forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.hashing import mix64
from elastic_embeddings.core.native import compiled, prefetch
from elastic_embeddings.errors import InputError

Counters = NDArray[np.uint8] | NDArray[np.uint16]

_SALT = 0x5EED_0F_5EE7C4
_MAX_COUNTERS = 2**32 - 1
_MAX_COUNT = 2**16 - 1
# Positions in the clock: events in total, of the current and of the previous generation, and the
# number of keys in the current one.
_TOTAL, _CURRENT, _PREVIOUS, _KEYS = range(4)
_BLOCK = 16  # keys whose counters are prefetched together
_EARLY_EXIT = 2  # counters of the previous generation that are read before giving up on a key


@dataclass(frozen=True)
class SketchSpec:
    """The size of a sketch and how long it remembers.

    Attributes:
        capacity: distinct keys of a generation. A larger batch overfills a generation, so give more
            than the distinct keys of a batch.
        false_positive_rate: chance, per generation and at capacity, that a key that never occurred
            is counted at all.
        decay_every: events after which a generation ends, however few keys it holds; None: only
            `capacity` ends it.
        max_count: the highest count that is represented; up to 255 a counter needs 1 byte, above
            that 2.

    Raises:
        InputError: a number out of range.
    """

    capacity: int = 1 << 20
    false_positive_rate: float = 0.01
    decay_every: int | None = None
    max_count: int = 255

    def __post_init__(self) -> None:
        if not (
            self.capacity >= 1
            and 0 < self.false_positive_rate < 1
            and 1 <= self.max_count <= _MAX_COUNT
        ):
            raise InputError(
                f"{self}: give capacity ≥ 1, false_positive_rate between 0 and 1, "
                f"max_count 1 … {_MAX_COUNT}"
            )
        if self.decay_every is not None and self.decay_every < 1:
            raise InputError(f"{self}: decay_every is in events, give at least 1, or None")
        if self.num_counters > _MAX_COUNTERS:
            raise InputError(
                f"{self}: needs {self.num_counters:,} counters, more than 2^32 - 1: "
                "give a smaller capacity"
            )

    @property
    def num_counters(self) -> int:
        """Counters of a generation: ⌈|ln p| / (ln 2)² · capacity⌉."""
        return math.ceil(abs(math.log(self.false_positive_rate)) / math.log(2) ** 2 * self.capacity)

    @property
    def hashes(self) -> int:
        """Counters of a key: ⌈|log₂ p|⌉."""
        return math.ceil(abs(math.log2(self.false_positive_rate)))

    @property
    def dtype(self) -> np.dtype:
        """The NumPy dtype of a counter."""
        return np.dtype(np.uint8 if self.max_count <= np.iinfo(np.uint8).max else np.uint16)


@dataclass(frozen=True)
class SketchLog:
    """What one `add` changed, for `undo`.

    Attributes:
        keys: int64 [k].
        before: their counters before, [k, hashes].
        clock: the clock before.
        dropped: the generation that this `add` dropped, if it began a new one.
    """

    keys: NDArray[np.int64]
    before: Counters
    clock: NDArray[np.int64]
    dropped: Counters | None


class CountingSketch:
    """Counts of keys, too high with the false-positive rate, never too low within a generation.

    One writer at a time. The content is a function of the calls, the spec and the seed; it does not
    depend on threads or on the time of day.

    >>> sketch = CountingSketch(SketchSpec(capacity=1000), seed=1)
    >>> counts, _ = sketch.add(np.array([5, -7]), np.array([2, 1], np.int32), events=3)
    >>> counts
    array([2, 1])

    Args:
        spec: size and memory.
        seed: any integer; the counters of a key are a function of (key, seed).
    """

    def __init__(self, spec: SketchSpec, seed: int = 0) -> None:
        self.spec = spec
        self._salt = mix64(np.full(1, (seed ^ _SALT) & (2**64 - 1), np.uint64))[0]
        self._current: Counters = np.zeros(spec.num_counters, spec.dtype)
        self._previous: Counters = np.zeros(spec.num_counters, spec.dtype)
        self._clock = np.zeros(4, np.int64)

    @property
    def coverage(self) -> float:
        """The share of all events that the counts cover: 1 until a generation is dropped."""
        total = int(self._clock[_TOTAL])
        return int(self._clock[_CURRENT] + self._clock[_PREVIOUS]) / total if total else 1.0

    def add(
        self, keys: NDArray[np.int64], times: NDArray[np.int32], events: int
    ) -> tuple[NDArray[np.int64], SketchLog]:
        """Add occurrences; return the counts int64 [k], these included, and the log for `undo`.

        Args:
            keys: int64 [k], distinct.
            times: int32 [k], occurrences of each, at least 1.
            events: occurrences of all keys in the batch, those of keys with a row included.
        """
        clock, dropped = self._clock.copy(), None
        # 1. Begin a generation if the current one is too old, or if the keys could overfill it. An
        #    empty generation takes any number of keys.
        spec = self.spec
        old = spec.decay_every is not None and self._clock[_CURRENT] >= spec.decay_every
        if old or 0 < self._clock[_KEYS] > spec.capacity - len(keys):
            dropped, self._previous = self._previous, self._current
            self._current = np.zeros(spec.num_counters, spec.dtype)
            self._clock[:] = self._clock[_TOTAL], 0, self._clock[_CURRENT], 0
        # 2. Raise the counters.
        counts = np.empty(len(keys), np.int64)
        before = np.empty((len(keys), spec.hashes), spec.dtype)
        new = _add(self._current, self._previous, keys, times, self._salt, counts, before)
        self._clock += np.array([events, events, 0, new])
        return counts, SketchLog(keys.copy(), before, clock, dropped)

    def undo(self, log: SketchLog) -> None:
        """Undo an `add`, the newest first: every byte is as before."""
        _restore(self._current, log.keys, self._salt, log.before)
        self._clock = log.clock.copy()
        if log.dropped is not None:
            self._current, self._previous = self._previous, log.dropped

    def nbytes(self) -> int:
        """Return the bytes of both generations, a constant."""
        return self._current.nbytes + self._previous.nbytes + self._clock.nbytes

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return views of the content: `current`, `previous` [num_counters], `clock` int64 [4]."""
        return {"current": self._current, "previous": self._previous, "clock": self._clock}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replace the content by copies of the `arrays` of a sketch of the same spec and seed.

        Raises:
            InputError: an array is missing or of another shape or dtype: the sketch was saved with
                another spec.
        """
        own = self.arrays()
        for name, array in own.items():
            saved = arrays.get(name)
            if saved is None or (saved.shape, saved.dtype) != (array.shape, array.dtype):
                raise InputError(
                    f"sketch array {name!r} does not fit {self.spec}: "
                    "give the spec that it was saved with"
                )
        self._current, self._previous, self._clock = (arrays[name].copy() for name in own)


_mix = compiled(mix64)
_ONE, _HALF, _LOW = np.uint64(1), np.uint64(32), np.uint64(0xFFFFFFFF)


@compiled
def _locate(
    keys: NDArray[np.int64],
    start: int,
    salt: np.uint64,
    current: Counters,
    previous: Counters,
    positions: NDArray[np.uint64],
) -> int:
    """Write the positions of the counters of the next keys and prefetch them; return how many.

    Double hashing (Kirsch, Mitzenmacher: Less Hashing, Same Performance, 2006).
    """
    count = min(len(positions), len(keys) - start)
    for i in range(count):
        bits = _mix(np.uint64(keys[start + i]) ^ salt)
        low, stride = bits & _LOW, (bits >> _HALF) | _ONE
        for turn in range(positions.shape[1]):
            # The multiplication maps 32 bits to [0, counters) without a division.
            position = (low + np.uint64(turn) * stride) & _LOW
            position = (position * np.uint64(len(current))) >> _HALF
            positions[i, turn] = position
            prefetch(current, position)
            if turn < _EARLY_EXIT:
                prefetch(previous, position)
    return count


# One function: calls of smaller ones would add a third to the time.
@compiled
def _add(
    current: Counters,
    previous: Counters,
    keys: NDArray[np.int64],
    times: NDArray[np.int32],
    salt: np.uint64,
    counts: NDArray[np.int64],
    before: Counters,
) -> int:
    """Raise each key's counters to their minimum plus its times; return how many keys are new.

    Writes the counts, and the counters before.
    """
    new, hashes = 0, before.shape[1]
    full = np.int64(2 ** (8 * current.itemsize) - 1)
    positions = np.empty((_BLOCK, hashes), np.uint64)
    for start in range(0, len(keys), _BLOCK):
        for i in range(_locate(keys, start, salt, current, previous, positions)):
            # 1. The key's count in the current generation.
            least = earlier = full
            for turn in range(hashes):
                value = current[positions[i, turn]]
                before[start + i, turn] = value
                least = min(least, np.int64(value))
            # 2. Its count in the previous one. Most keys are not in it, which two counters show.
            for turn in range(hashes):
                if turn == _EARLY_EXIT and earlier == 0:
                    break
                earlier = min(earlier, np.int64(previous[positions[i, turn]]))
            # 3. Conservative update: counters that are higher already belong to other keys too.
            raised = min(least + np.int64(times[start + i]), full)
            for turn in range(hashes):
                current[positions[i, turn]] = max(np.int64(before[start + i, turn]), raised)
            new += least == 0
            counts[start + i] = raised + earlier
    return new


@compiled
def _restore(current: Counters, keys: NDArray[np.int64], salt: np.uint64, before: Counters) -> None:
    """Write the counters back. Keys may share counters, so the last key's are written first."""
    positions = np.empty((_BLOCK, before.shape[1]), np.uint64)
    for start in range((len(keys) - 1) // _BLOCK * _BLOCK, -1, -_BLOCK):
        count = _locate(keys, start, salt, current, current, positions)
        for i in range(count - 1, -1, -1):
            for turn in range(before.shape[1]):
                current[positions[i, turn]] = before[start + i, turn]
