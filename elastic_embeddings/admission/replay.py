"""Replays a log through admission policies: rows, and the share of the events that are trained on.

No table and no TensorFlow are involved. The reference is the offline filter: a first pass over the
log counts, a second one trains on the keys that occur `min_count` times or more in all of it. A
streaming policy has to decide while it sees the keys.

    log = traffic({"user": users, "ad": ads}, batch_size=512)
    for line in explain(log, {"n ≥ 2": CountAdmission(2)}, min_count=10):
        print(line.policy, line.field, line.rows, line.share_trained)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.admission.controller import AdmissionController
from elastic_embeddings.admission.policies import Admission, ByField, Candidates
from elastic_embeddings.core.ragged import Ragged
from elastic_embeddings.errors import InputError
from elastic_embeddings.index.key_index import KeyIndex

OFFLINE = "offline filter"
"""The policy name of the reference, which comes first."""

_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Traffic:
    """A stream of keys in batches: batch i is `codes[offsets[i]:offsets[i + 1]]`.

    Attributes:
        field_names: in the order of their codes.
        keys: int64 [distinct], in order of first occurrence.
        key_fields: int16 [distinct], the field in which each key first occurred.
        codes: int64 [n], each occurrence's position in `keys`.
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
        """Return the number of occurrences of keys by field."""
        events = np.bincount(self.fields, minlength=len(self.field_names))
        return dict(zip(self.field_names, events.tolist(), strict=True))


@dataclass(frozen=True)
class Explanation:
    """The effect of a policy on one field, or on all.

    Attributes:
        policy: its name; `OFFLINE` for the reference.
        field: None for all fields together.
        events: occurrences of keys.
        keys: distinct keys.
        rows: keys that were admitted.
        trained: occurrences whose key had a row once its batch was admitted; the batch that admits
            a key trains on it.
        precision: share of the rows that the offline filter keeps; NaN without rows.
        recall: share of the offline filter's keys that were admitted; NaN if it keeps none.
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
        """The share of the events that are trained on; NaN without events."""
        return _ratio(self.trained, self.events)


def traffic(keys_by_field: Mapping[str, NDArray[np.int64] | Ragged], batch_size: int) -> Traffic:
    """Interleave the fields of a log into batches, as in training.

    Args:
        keys_by_field: field name → keys by impression in the order of time: int64 [n], or n lists.
        batch_size: impressions per batch.

    Raises:
        InputError: no field, fields of different length, or a batch size below 1.
    """
    lengths = {name: len(keys) for name, keys in keys_by_field.items()}
    if not lengths or len(set(lengths.values())) > 1:
        raise InputError(
            f"traffic needs fields of the same impressions, got {lengths}: "
            "give each one entry per impression"
        )
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}: give at least 1 impression")
    # 1. Flatten each field to its keys and the batch of each.
    flat, batches, sizes = [], [], []
    for keys in keys_by_field.values():
        impressions = np.arange(len(keys))
        if isinstance(keys, Ragged):
            impressions = np.repeat(impressions, keys.lengths())
        flat.append(np.asarray(keys.values if isinstance(keys, Ragged) else keys, np.int64))
        batches.append(impressions // batch_size)
        sizes.append(len(flat[-1]))
    # 2. Sort by batch; inside a batch the fields keep their order.
    batch = np.concatenate(batches)
    order = np.argsort(batch, kind="stable")
    fields = np.repeat(np.arange(len(sizes), dtype=np.int16), sizes)[order]
    count = -(-max(lengths.values()) // batch_size)
    # 3. Number the keys by first occurrence. The index does exactly that, and keeps each key's
    #    first field.
    index = KeyIndex()
    lookup = index.find_or_insert(np.concatenate(flat)[order], 1, fields)
    return Traffic(
        field_names=tuple(lengths),
        keys=index.keys.copy(),
        key_fields=index.fields.astype(np.int16),
        codes=lookup.inverse.astype(np.int64),
        fields=fields,
        offsets=np.searchsorted(batch[order], np.arange(count + 1)),
    )


def explain(
    stream: Traffic, policies: Mapping[str, Admission | ByField], min_count: int, seed: int = 0
) -> tuple[Explanation, ...]:
    """Run policies over traffic and compare them with the offline filter.

    Args:
        stream: the training traffic.
        policies: by the name in the result.
        min_count: occurrences that the offline filter requires.
        seed: of the policies' draws and sketches.

    Returns:
        For the offline filter, then for each policy: all fields together, then each field.

    Raises:
        InputError: a policy names a field that is not in the traffic.
    """
    kept = np.bincount(stream.codes, minlength=len(stream.keys)) >= min_count
    offline = np.where(kept, 0, _NEVER)
    return tuple(
        line
        for name, admitted_in in ((OFFLINE, offline), *_replay(stream, policies, seed).items())
        for line in _lines(stream, name, admitted_in, kept)
    )


def _replay(
    stream: Traffic, policies: Mapping[str, Admission | ByField], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Return, by policy, the batch that admitted each key, int64 [distinct]; `_NEVER` if none."""
    controllers = {
        name: AdmissionController(policy, stream.field_names, seed)
        for name, policy in policies.items()
    }
    admitted_in = {name: np.full(len(stream.keys), _NEVER) for name in policies}
    counts = np.zeros(len(stream.keys), np.int64)
    events = np.zeros(len(stream.field_names), np.int64)
    for number, start in enumerate(stream.offsets[:-1]):
        stop = stream.offsets[number + 1]
        # 1. Count the batch's distinct keys and its events, as the table's index does.
        codes, times = np.unique(stream.codes[start:stop], return_counts=True)
        counts[codes] += times
        events += np.bincount(stream.fields[start:stop], minlength=len(events))
        # 2. Ask each policy about the keys that it did not admit before. To its sketch all of them
        #    are new, since keys that are counted in a sketch never have an index entry.
        for name, controller in controllers.items():
            positions = np.flatnonzero(admitted_in[name][codes] == _NEVER)
            waiting = codes[positions]
            fields = stream.key_fields[waiting]
            candidates = Candidates(
                stream.keys[waiting], counts[waiting], events[fields], fields, seed
            )
            decision = controller.decide_about(
                candidates,
                positions,
                times[positions].astype(np.int32),
                new=np.ones(len(waiting), np.bool_),
                batch_events=int(stop - start),
            )
            admitted_in[name][waiting[decision.admit]] = number
    return admitted_in


def _lines(
    stream: Traffic, name: str, admitted_in: NDArray[np.int64], kept: NDArray[np.bool_]
) -> Iterator[Explanation]:
    batch = np.repeat(np.arange(len(stream.offsets) - 1), np.diff(stream.offsets))
    trained = admitted_in[stream.codes] <= batch
    admitted = admitted_in != _NEVER
    # One column per figure, one line per field.
    columns = (
        stream.fields,
        stream.key_fields,
        stream.key_fields[admitted],
        stream.fields[trained],
        stream.key_fields[kept & admitted],
        stream.key_fields[kept],
    )
    count = len(stream.field_names)
    table = np.stack([np.bincount(codes, minlength=count) for codes in columns], axis=1)
    figures = [table.sum(axis=0), *table]
    for field, line in zip((None, *stream.field_names), figures, strict=True):
        events, keys, rows, hits, right, wanted = line.tolist()
        precision, recall = _ratio(right, rows), _ratio(right, wanted)
        yield Explanation(name, field, events, keys, rows, hits, precision, recall)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
