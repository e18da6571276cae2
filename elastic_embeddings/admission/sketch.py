"""Approximate counts of keys that have no row yet, in bounded memory: a counting Bloom filter of two generations.

A key's count is the least of its counters (Fan et al.: Summary Cache, 2000), raised conservatively (Estan, Varghese: New
Directions in Traffic Measurement and Accounting, 2002), so within what is remembered a count is never too low. New
occurrences go to the current generation. When that is full or old, it becomes the previous one, the previous one is
forgotten, and an empty one begins; an estimate is the sum of both. So the memory is fixed and what is not seen again fades.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.hashing import mix64
from elastic_embeddings.core.native import compiled, prefetch
from elastic_embeddings.errors import InputError

Counters = NDArray[np.uint8] | NDArray[np.uint16]

_SALT = 0x5EED_0F_5EE7C4
_MAX_COUNTERS = 2**32 - 1
_MAX_COUNT = 2**16 - 1
_TOTAL, _CURRENT, _PREVIOUS, _KEYS = range(
    4
)  # what the clock holds: events in all and by generation, keys in the current one


@dataclass(frozen=True)
class SketchSpec:
    """How large a sketch is and how long it remembers.

    Attributes:
        capacity: distinct keys that a generation takes in before it ends; a larger batch overfills one, so give more than that.
        false_positive_rate: chance, per generation and at capacity, that a key never seen is counted at all.
        decay_every: events after which a generation ends, however few keys it holds; None: only `capacity` ends it.
        max_count: counts up to here are told apart; up to 255 a counter takes 1 byte, above that 2.

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
            allowed = (
                f"capacity ≥ 1, false_positive_rate between 0 and 1, max_count 1 … {_MAX_COUNT}"
            )
            raise InputError(f"{self}: give {allowed}")
        if self.decay_every is not None and self.decay_every < 1:
            raise InputError(f"{self}: decay_every is in events, give at least 1, or None")
        if self.num_counters > _MAX_COUNTERS:
            raise InputError(
                f"{self}: needs {self.num_counters:,} counters, more than 2^32 - 1: give a smaller capacity"
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
    """What one `add` changed, for `undo`: the keys int64 [k], their counters before [k, hashes], and the clock before.

    `forgotten` is the generation that this `add` dropped, if it began a new one; it lives as long as the log.
    """

    keys: NDArray[np.int64]
    before: Counters
    clock: NDArray[np.int64]
    forgotten: Counters | None


class CountingSketch:
    """Counts of keys, at most a false-positive too high, never too low within the last generation.

    One writer at a time. What it holds is a function of the calls, the spec and the seed: no threads, no time of day.

    >>> sketch = CountingSketch(SketchSpec(capacity=1000), seed=1)
    >>> counts, _ = sketch.add(np.array([5, -7]), np.array([2, 1], np.int32), events=3)
    >>> counts.tolist()
    [2, 1]

    Args:
        spec: size and memory.
        seed: any integer; which counters a key has is a function of (key, seed).
    """

    def __init__(self, spec: SketchSpec, seed: int = 0) -> None:
        self.spec = spec
        self._salt = mix64(np.full(1, (seed ^ _SALT) & (2**64 - 1), np.uint64))[0]
        self._current: Counters = self._empty()
        self._previous: Counters = self._empty()
        self._clock = np.zeros(4, np.int64)

    @property
    def coverage(self) -> float:
        """The share of all events that the counts still remember: 1 until a generation is forgotten."""
        total = int(self._clock[_TOTAL])
        return int(self._clock[_CURRENT] + self._clock[_PREVIOUS]) / total if total else 1.0

    def add(
        self, keys: NDArray[np.int64], times: NDArray[np.int32], events: int
    ) -> tuple[NDArray[np.int64], SketchLog]:
        """Add occurrences and return the counts int64 [k], these included, and the log that takes them back.

        Args:
            keys: int64 [k], distinct.
            times: int32 [k], occurrences of each, at least 1.
            events: how far the clock moves: occurrences of all keys in the batch, those of keys with a row included.
        """
        clock, forgotten = (
            self._clock.copy(),
            self._next_generation() if self._is_due(len(keys)) else None,
        )
        counts = np.empty(len(keys), np.int64)
        before = np.empty((len(keys), self.spec.hashes), self.spec.dtype)
        fresh = _add(self._current, self._previous, keys, times, self._salt, counts, before)
        self._clock += np.array([events, events, 0, fresh])
        return counts, SketchLog(keys.copy(), before, clock, forgotten)

    def undo(self, log: SketchLog) -> None:
        """Take an `add` back, the newest first: every byte is as it was before."""
        _restore(self._current, log.keys, self._salt, log.before)
        self._clock = log.clock.copy()
        if log.forgotten is not None:
            self._current, self._previous = self._previous, log.forgotten

    def nbytes(self) -> int:
        """Return the bytes of both generations; they never change."""
        return self._current.nbytes + self._previous.nbytes + self._clock.nbytes

    def arrays(self) -> dict[str, NDArray]:
        """Return the content for a checkpoint, as views: `current` and `previous` [num_counters], `clock` int64 [4]."""
        return {"current": self._current, "previous": self._previous, "clock": self._clock}

    def load(self, arrays: Mapping[str, NDArray]) -> None:
        """Replace the content by copies of what `arrays` returned from a sketch of the same spec and seed.

        Raises:
            InputError: an array is missing or of another shape or dtype: the sketch was saved with another spec.
        """
        mine = self.arrays()
        for name, array in mine.items():
            if name not in arrays or (arrays[name].shape, arrays[name].dtype) != (
                array.shape,
                array.dtype,
            ):
                raise InputError(
                    f"sketch array {name!r} does not fit {self.spec}: give the spec that it was saved with"
                )
        self._current, self._previous, self._clock = (arrays[name].copy() for name in mine)

    def _empty(self) -> Counters:
        return np.zeros(self.spec.num_counters, self.spec.dtype)

    def _is_due(self, keys: int) -> bool:
        """Whether the current generation is too old, or so many keys more might take it beyond its capacity."""
        old = self.spec.decay_every is not None and self._clock[_CURRENT] >= self.spec.decay_every
        return bool(old or 0 < self._clock[_KEYS] > self.spec.capacity - keys)

    def _next_generation(self) -> Counters:
        """Begin an empty generation and return the one that is forgotten."""
        forgotten = self._previous
        self._previous, self._current = self._current, self._empty()
        self._clock[:] = self._clock[_TOTAL], 0, self._clock[_CURRENT], 0
        return forgotten


_mix = compiled(mix64)
_ONE, _HALF, _LOW = np.uint64(1), np.uint64(32), np.uint64(0xFFFFFFFF)
_BLOCK = 16  # keys whose counters are asked of memory at once, before the first is read
_TELLING = 2  # counters of the previous generation that mostly tell that a key is not in it


@compiled
def _locate(
    keys: NDArray[np.int64],
    start: int,
    salt: np.uint64,
    current: Counters,
    previous: Counters,
    places: NDArray[np.uint64],
) -> int:
    """Write the places of the counters of the keys from `start` on, as many as fit, and ask memory for them; return how many.

    Double hashing (Kirsch, Mitzenmacher: Less Hashing, Same Performance, 2006), spread over the counters by multiplication.
    """
    count = min(len(places), len(keys) - start)
    for i in range(count):
        bits = _mix(np.uint64(keys[start + i]) ^ salt)
        low, stride = bits & _LOW, (bits >> _HALF) | _ONE
        for turn in range(places.shape[1]):
            place = (((low + np.uint64(turn) * stride) & _LOW) * np.uint64(len(current))) >> _HALF
            places[i, turn] = place
            prefetch(current, place)
            if turn < _TELLING:
                prefetch(previous, place)
    return count


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
    """Raise each key's counters to their least plus its times; write the counts, and the counters before.

    Return how many keys are new to the generation. One function, as calls would cost a third of the time.
    """
    fresh, hashes = 0, before.shape[1]
    full = np.int64(2 ** (8 * current.itemsize) - 1)
    places = np.empty((_BLOCK, hashes), np.uint64)
    for start in range(0, len(keys), _BLOCK):
        for i in range(_locate(keys, start, salt, current, previous, places)):
            least = earlier = full
            for turn in range(hashes):
                value = current[places[i, turn]]
                before[start + i, turn] = value
                least = min(least, np.int64(value))
            for turn in range(hashes):
                if turn == _TELLING and earlier == 0:
                    break
                earlier = min(earlier, np.int64(previous[places[i, turn]]))
            raised = min(least + np.int64(times[start + i]), full)
            for turn in range(hashes):
                current[places[i, turn]] = max(np.int64(before[start + i, turn]), raised)
            fresh += least == 0
            counts[start + i] = raised + earlier
    return fresh


@compiled
def _restore(current: Counters, keys: NDArray[np.int64], salt: np.uint64, before: Counters) -> None:
    """Write the counters back, the last key's first: keys may share counters."""
    places = np.empty((_BLOCK, before.shape[1]), np.uint64)
    for start in range((len(keys) - 1) // _BLOCK * _BLOCK, -1, -_BLOCK):
        count = _locate(keys, start, salt, current, current, places)
        for i in range(count - 1, -1, -1):
            for turn in range(before.shape[1]):
                current[places[i, turn]] = before[start + i, turn]
