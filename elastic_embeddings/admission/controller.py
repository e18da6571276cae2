"""The admission controller: asks the policies which keys of a batch get a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.admission.policies import Admission, ByField, Candidates, resolve
from elastic_embeddings.admission.sketch import CountingSketch, SketchLog
from elastic_embeddings.index.key_index import KeyLookup


@dataclass(frozen=True)
class AdmissionDecision:
    """The decision about the keys of a batch that have no row, [w] each.

    Attributes:
        positions: int64 [w], their positions among the batch's distinct keys, ascending.
        counts: int64 [w], occurrences so far, exact or estimated by a sketch.
        admit: bool [w], the key gets a row now.
        drop: bool [w], not admitted and counted in a sketch, so the key needs no index entry.
        logs: what undoes the sketches, in the order in which they counted.
    """

    positions: NDArray[np.int64]
    counts: NDArray[np.int64]
    admit: NDArray[np.bool_]
    drop: NDArray[np.bool_]
    logs: tuple[tuple[CountingSketch, SketchLog], ...]

    def undo(self) -> None:
        """Undo the counts of the sketches."""
        for sketch, log in reversed(self.logs):
            sketch.undo(log)


class AdmissionController:
    """The admission policies of a table and their sketches.

    Args:
        admission: one policy for all fields, or one by field.
        fields: names of the fields, in the order of their codes.
        seed: of the policies' draws.

    Attributes:
        sketches: by the number of the policy among the distinct ones, for policies with a sketch.

    Raises:
        InputError: a policy is given for a field that is not one of the table's.
    """

    def __init__(self, admission: Admission | ByField, fields: Sequence[str], seed: int) -> None:
        by_field = resolve(admission, fields)
        self._admission = admission
        self._policies = tuple(dict.fromkeys(by_field))
        self._policy_of_field = self._numbers(by_field)
        self._seed = seed
        self.sketches = {
            number: CountingSketch(policy.sketch, seed)
            for number, policy in enumerate(self._policies)
            if policy.sketch is not None
        }

    def set_fields(self, fields: Sequence[str]) -> None:
        """Append fields to the ones so far; new fields use one of the existing policies."""
        self._policy_of_field = self._numbers(
            policy if policy in self._policies else self._policies[0]
            for policy in resolve(self._admission, fields)
        )

    def _numbers(self, policies: Iterable[Admission]) -> NDArray[np.int64]:
        return np.array([self._policies.index(policy) for policy in policies], np.int64)

    def decide(
        self, lookup: KeyLookup, keys: NDArray[np.int64], events: NDArray[np.int64]
    ) -> AdmissionDecision:
        """Decide about the keys of a batch that have no row.

        Args:
            lookup: the batch, as the index found and inserted it.
            keys: int64, the index's keys by entry.
            events: int64 [fields], occurrences of each field so far, this batch included.
        """
        positions = np.flatnonzero(lookup.rows == 0)
        entries, fields = lookup.entries[positions], lookup.fields[positions]
        candidates = Candidates(
            keys=keys[entries],
            counts=lookup.counts[positions].astype(np.int64),
            events=events[fields],
            fields=fields.astype(np.int16),
            seed=self._seed,
        )
        # New entries have the highest numbers.
        first_new = lookup.new[0] if len(lookup.new) else len(keys)
        times, batch_events = lookup.times[positions], int(lookup.times.sum())
        return self.decide_about(candidates, positions, times, entries >= first_new, batch_events)

    def decide_about(
        self,
        candidates: Candidates,
        positions: NDArray[np.int64],
        times: NDArray[np.int32],
        new: NDArray[np.bool_],
        batch_events: int,
    ) -> AdmissionDecision:
        """Decide about candidates; their counts are replaced by estimates where a sketch counts.

        Args:
            candidates: w keys without a row.
            positions: int64 [w], copied to the decision.
            times: int32 [w], occurrences in the batch.
            new: bool [w], not counted in the index before this batch.
            batch_events: occurrences of all keys in the batch, those with a row included.
        """
        admit, drop, logs = np.zeros(len(new), np.bool_), np.zeros(len(new), np.bool_), []
        for number, policy in enumerate(self._policies):
            # 1. Select the keys of the policy's fields.
            chosen = np.flatnonzero(self._policy_of_field[candidates.fields] == number)
            sketch, coverage = self.sketches.get(number), 1.0
            # 2. Count them in the sketch. Keys that the index counts exactly (such as those of a
            #    restored table with another policy) keep that count.
            if sketch is not None:
                counted = chosen[new[chosen]]
                candidates.counts[counted], log = sketch.add(
                    candidates.keys[counted], times[counted], batch_events
                )
                logs.append((sketch, log))
                coverage = sketch.coverage
            # 3. Ask the policy.
            admit[chosen] = policy.admit(
                replace(
                    candidates,
                    keys=candidates.keys[chosen],
                    counts=candidates.counts[chosen],
                    events=candidates.events[chosen],
                    fields=candidates.fields[chosen],
                    coverage=coverage,
                )
            )
            drop[chosen] = ~admit[chosen] & new[chosen] & (sketch is not None)
        return AdmissionDecision(positions, candidates.counts, admit, drop, tuple(logs))
