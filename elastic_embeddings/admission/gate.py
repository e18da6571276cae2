"""Asks the admission policies which keys of a batch get a row. Keys that a sketch counts have no entry until then."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.admission.policies import Admission, ByField, Candidates, resolve
from elastic_embeddings.admission.sketch import CountingSketch, SketchLog
from elastic_embeddings.index.key_index import Assigned


@dataclass(frozen=True)
class Verdict:
    """What becomes of the keys of a batch that have no row, [w] each.

    Attributes:
        places: int64 [w], their places among the batch's distinct keys, ascending.
        counts: int64 [w], occurrences so far, exact or as a sketch estimates them.
        admit: bool [w], given a row now.
        drop: bool [w], not admitted and counted in a sketch: needs no entry.
        logs: what undoes the sketches, in the order in which they counted.
    """

    places: NDArray[np.int64]
    counts: NDArray[np.int64]
    admit: NDArray[np.bool_]
    drop: NDArray[np.bool_]
    logs: tuple[tuple[CountingSketch, SketchLog], ...]

    def undo(self) -> None:
        """Take back what the sketches counted."""
        for sketch, log in reversed(self.logs):
            sketch.undo(log)


class Gate:
    """The admission policies of a table and their sketches.

    Args:
        admission: one policy for all fields, or one by field.
        fields: names of the fields, in the order of their codes.
        seed: of the policies' draws.

    Attributes:
        sketches: by the policy's place among the distinct ones, for those that have one.

    Raises:
        InputError: a policy is given for a field that is not one of the table's.
    """

    def __init__(self, admission: Admission | ByField, fields: Sequence[str], seed: int) -> None:
        each = resolve(admission, fields)
        self._admission = admission
        self._policies = tuple(dict.fromkeys(each))
        self._of_field = self._places(each)
        self._seed = seed
        self.sketches = {
            i: CountingSketch(p.sketch, seed)
            for i, p in enumerate(self._policies)
            if p.sketch is not None
        }

    def set_fields(self, fields: Sequence[str]) -> None:
        """Take more fields in: the ones so far, and new ones behind them, under the policies there are."""
        each = resolve(self._admission, fields)
        self._of_field = self._places(
            policy if policy in self._policies else self._policies[0] for policy in each
        )

    def _places(self, policies: Iterable[Admission]) -> NDArray[np.int64]:
        return np.array([self._policies.index(policy) for policy in policies], np.int64)

    def judge(
        self, assigned: Assigned, keys: NDArray[np.int64], events: NDArray[np.int64]
    ) -> Verdict:
        """Decide about the keys of a batch that have no row.

        Args:
            assigned: the batch.
            keys: int64, the index's keys by entry.
            events: int64 [fields], occurrences of each field so far, this batch included.
        """
        places = np.flatnonzero(assigned.rows == 0)
        entries, fields = assigned.entries[places], assigned.fields[places]
        waiting = Candidates(
            keys=keys[entries],
            counts=assigned.counts[places].astype(np.int64),
            events=events[fields],
            fields=fields.astype(np.int16),
            seed=self._seed,
        )
        new = entries >= (
            assigned.new[0] if len(assigned.new) else len(keys)
        )  # new entries have the highest numbers
        return self._ask(waiting, places, new, assigned)

    def _ask(
        self,
        waiting: Candidates,
        places: NDArray[np.int64],
        new: NDArray[np.bool_],
        assigned: Assigned,
    ) -> Verdict:
        admit, drop, logs = np.zeros(len(places), np.bool_), np.zeros(len(places), np.bool_), []
        for number, policy in enumerate(self._policies):
            among = np.flatnonzero(self._of_field[waiting.fields] == number)
            if number in self.sketches:
                unseen = among[new[among]]
                logs.append(
                    self._count(
                        number,
                        waiting,
                        unseen,
                        assigned.times[places[unseen]],
                        int(assigned.times.sum()),
                    )
                )
            coverage = self.sketches[number].coverage if number in self.sketches else 1.0
            admit[among] = policy.admit(_some(waiting, among, coverage))
            drop[among] = ~admit[among] & new[among] & (number in self.sketches)
        return Verdict(places, waiting.counts, admit, drop, tuple(logs))

    def _count(
        self,
        number: int,
        waiting: Candidates,
        unseen: NDArray[np.int64],
        times: NDArray[np.int32],
        events: int,
    ) -> tuple[CountingSketch, SketchLog]:
        sketch = self.sketches[number]
        waiting.counts[unseen], log = sketch.add(waiting.keys[unseen], times, events)
        return sketch, log


def _some(candidates: Candidates, among: NDArray[np.int64], coverage: float) -> Candidates:
    return Candidates(
        keys=candidates.keys[among],
        counts=candidates.counts[among],
        events=candidates.events[among],
        fields=candidates.fields[among],
        seed=candidates.seed,
        coverage=coverage,
    )
