"""What admission policies would do to a stretch of traffic: rows, and how much of it would be trained. No table, no TensorFlow.

The yardstick is the offline filter: two passes over the traffic, of which the first counts and the second trains the keys
that were seen `min_count` times or more in all of it. A streaming policy has to decide while it sees the keys.

    stream = traffic({"user": users, "ad": ads}, batch_size=512)
    for line in explain(stream, {"n ≥ 2": CountAdmission(2)}, min_count=10):
        print(line.policy, line.field, line.rows, line.share_trained)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from elastic_embeddings.admission.policies import Admission, ByField, Candidates, resolve
from elastic_embeddings.admission.sketch import CountingSketch
from elastic_embeddings.core.ragged import Ragged
from elastic_embeddings.errors import InputError
from elastic_embeddings.tally import by_field

OFFLINE = "offline filter"
"""The name under which the yardstick is listed, first."""


@dataclass(frozen=True)
class Traffic:
    """A stream of keys in batches: batch i is `codes[offsets[i]:offsets[i + 1]]`.

    Attributes:
        field_names: in the order of their codes.
        keys: int64 [distinct], in order of first occurrence.
        key_fields: int16 [distinct], the field in which each key came first.
        codes: int64 [n], each occurrence's place in `keys`.
        fields: int16 [n], each occurrence's field.
        offsets: int64 [batches + 1].
    """

    field_names: tuple[str, ...]
    keys: NDArray[np.int64]
    key_fields: NDArray[np.int16]
    codes: NDArray[np.int64]
    fields: NDArray[np.int16]
    offsets: NDArray[np.int64]

    def events_by_field(self) -> dict[str, int]:
        """Return how many keys, repeated ones included, each field brings."""
        events = np.bincount(self.fields, minlength=len(self.field_names))
        return dict(zip(self.field_names, events.tolist(), strict=True))


@dataclass(frozen=True)
class Explanation:
    """What a policy did to one field, or to all.

    Attributes:
        policy: its name; `OFFLINE` for the yardstick.
        field: None for all fields together.
        events: occurrences of keys.
        keys: distinct keys.
        rows: keys that were admitted.
        trained: occurrences whose key had a row once its batch was admitted (prequential: the batch that admits trains).
        precision: share of the rows that the offline filter keeps; NaN without rows.
        recall: share of the offline filter's keys that were admitted; NaN where it keeps none.
    """

    policy: str
    field: str | None
    events: int
    keys: int
    rows: int
    trained: int
    precision: float
    recall: float

    @property
    def share_trained(self) -> float:
        """The share of the events that is trained; NaN without events."""
        return _ratio(self.trained, self.events)


def traffic(keys_by_field: Mapping[str, NDArray[np.int64] | Ragged], batch_size: int) -> Traffic:
    """Interleave the fields of a log into batches, as training sees them.

    Args:
        keys_by_field: field name → keys by impression in the order of time: int64 [n], or n lists.
        batch_size: impressions a batch.

    Raises:
        InputError: no field, fields of different length, or a batch size below 1.
    """
    lengths = {name: len(keys) for name, keys in keys_by_field.items()}
    if not lengths or len(set(lengths.values())) > 1:
        raise InputError(
            f"traffic needs fields of the same impressions, got {lengths}: give each one entry per impression"
        )
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}: give at least 1 impression")
    columns = [_flat(keys) for keys in keys_by_field.values()]
    batch = np.concatenate([row // batch_size for _, row in columns])
    order = np.argsort(batch, kind="stable")
    codes, keys = pd.factorize(np.concatenate([values for values, _ in columns])[order])
    fields = np.repeat(
        np.arange(len(columns), dtype=np.int16), [len(values) for values, _ in columns]
    )[order]
    offsets = np.searchsorted(batch[order], np.arange(-(-max(lengths.values()) // batch_size) + 1))
    return Traffic(
        tuple(lengths),
        keys,
        _first(codes, fields, len(keys)),
        codes.astype(np.int64),
        fields,
        offsets,
    )


def explain(
    stream: Traffic, policies: Mapping[str, Admission | ByField], min_count: int, seed: int = 0
) -> tuple[Explanation, ...]:
    """Run policies over traffic and compare them with the offline filter.

    Args:
        stream: what is to be trained.
        policies: by the name in the result.
        min_count: occurrences that the offline filter asks for.
        seed: of the policies' draws and sketches.

    Returns:
        For the offline filter, then for each policy: all fields together, then each field.

    Raises:
        InputError: a policy names a field that is not in the traffic.
    """
    kept = np.bincount(stream.codes, minlength=len(stream.keys)) >= min_count
    trials = [_Trial(stream, policy, seed) for policy in policies.values()]
    for batch in _batches(stream):
        for trial in trials:
            trial.take(batch)
    since = [np.where(kept, 0, _NEVER), *(trial.since for trial in trials)]
    return tuple(
        line
        for name, s in zip((OFFLINE, *policies), since, strict=True)
        for line in _lines(stream, name, s, kept)
    )


_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class _Batch:
    """A batch's distinct keys as codes int64 [U], their times int32 [U], counts so far int64 [U], and events by field so far."""

    number: int
    codes: NDArray[np.int64]
    times: NDArray[np.int32]
    counts: NDArray[np.int64]
    events: NDArray[np.int64]
    size: int


def _batches(stream: Traffic) -> Iterator[_Batch]:
    counts = np.zeros(len(stream.keys), np.int64)
    events = np.zeros(len(stream.field_names), np.int64)
    for number, (start, stop) in enumerate(
        zip(stream.offsets[:-1], stream.offsets[1:], strict=True)
    ):
        codes, times = np.unique(stream.codes[start:stop], return_counts=True)
        counts[codes] += times
        events += np.bincount(stream.fields[start:stop], minlength=len(events))
        yield _Batch(
            number, codes, times.astype(np.int32), counts[codes], events, int(stop - start)
        )


class _Trial:
    """One policy at work. `since` int64 [distinct] is the batch that admitted each key, `_NEVER` where none did."""

    def __init__(self, stream: Traffic, policy: Admission | ByField, seed: int) -> None:
        each = resolve(policy, stream.field_names)
        self._stream, self._seed = stream, seed
        self._policies = tuple(dict.fromkeys(each))
        self._policy_of = np.array([self._policies.index(p) for p in each])[stream.key_fields]
        self._sketches = {
            p: CountingSketch(p.sketch, seed) for p in self._policies if p.sketch is not None
        }
        self.since = np.full(len(stream.keys), _NEVER)

    def take(self, batch: _Batch) -> None:
        """Ask the policies about the batch's keys that have no row."""
        waiting = self.since[batch.codes] == _NEVER
        for number, policy in enumerate(self._policies):
            among = np.flatnonzero(waiting & (self._policy_of[batch.codes] == number))
            admitted = policy.admit(self._candidates(policy, batch, among))
            self.since[batch.codes[among[admitted]]] = batch.number

    def _candidates(self, policy: Admission, batch: _Batch, among: NDArray[np.int64]) -> Candidates:
        codes = batch.codes[among]
        keys, fields = self._stream.keys[codes], self._stream.key_fields[codes]
        counts, coverage = batch.counts[among], 1.0
        if policy in self._sketches:
            counts, _ = self._sketches[policy].add(keys, batch.times[among], batch.size)
            coverage = self._sketches[policy].coverage
        return Candidates(keys, counts, batch.events[fields], fields, self._seed, coverage)


def _lines(
    stream: Traffic, name: str, since: NDArray[np.int64], kept: NDArray[np.bool_]
) -> Iterator[Explanation]:
    batch = np.repeat(np.arange(len(stream.offsets) - 1), np.diff(stream.offsets))
    trained = since[stream.codes] <= batch
    fields = len(stream.field_names)
    columns = [
        np.bincount(stream.fields, minlength=fields),
        by_field(stream.key_fields, fields),
        by_field(stream.key_fields[since != _NEVER], fields),
        by_field(stream.fields[trained], fields),
        by_field(stream.key_fields[kept & (since != _NEVER)], fields),
        by_field(stream.key_fields[kept], fields),
    ]
    table = np.stack(columns, axis=1)
    for field, figures in zip(
        (None, *stream.field_names), [table.sum(axis=0), *table], strict=True
    ):
        events, keys, rows, hits, right, wanted = figures.tolist()
        yield Explanation(
            name, field, events, keys, rows, hits, _ratio(right, rows), _ratio(right, wanted)
        )


def _flat(keys: NDArray[np.int64] | Ragged) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All keys of a field, int64 [m], and the impression of each, int64 [m]."""
    if isinstance(keys, Ragged):
        return keys.values, np.repeat(np.arange(len(keys)), keys.lengths())
    return keys, np.arange(len(keys))


def _first(codes: NDArray[np.int64], fields: NDArray[np.int16], distinct: int) -> NDArray[np.int16]:
    """The field of each code's first occurrence, int16 [distinct]."""
    first = np.zeros(distinct, np.int16)
    first[codes[::-1]] = fields[::-1]  # of repeated places NumPy keeps the last value written
    return first


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
