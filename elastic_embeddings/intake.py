"""The host side of a table: from keys to rows, and the batches that are prepared but not yet learned.

Preparation runs ahead of learning, so a batch changes counts, admissions and rows before it is known that it will ever be
learned. Each prepared batch keeps what is needed to take it back; whoever has to see the table as it was learned (a save,
an eviction) takes all of them back, newest first, and prepares them anew afterwards. Since preparing is a function of the
state and the keys alone, nobody can tell how far ahead it had run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.admission.gate import Gate, Verdict
from elastic_embeddings.admission.policies import Admission, ByField
from elastic_embeddings.batch import Batch, make_batch
from elastic_embeddings.errors import InputError
from elastic_embeddings.index.key_index import Assigned, KeyIndex
from elastic_embeddings.tally import Tally, by_field, sums_by_field

Codes = NDArray[np.int16] | None


@dataclass
class Prepared:
    """A prepared batch, and what it takes to undo it.

    Attributes:
        batch: the rows as they are now.
        assigned: what the index counted and inserted.
        admitted: int32 [k], entries that were given rows.
        verdict: what the sketches counted.
        tally: what the counters were raised by.
        visible: whether lookups may see the new rows.
        written: whether the new rows' vectors are written.
    """

    batch: Batch
    assigned: Assigned
    admitted: NDArray[np.int32]
    verdict: Verdict
    tally: Tally
    visible: bool
    written: bool = False


class Intake:
    """Index, admission, counters and prepared batches.

    One thread may `prepare` while another calls `oldest` and `learned`; all else needs the table's lock.

    Attributes:
        index: keys, counts and rows, the prepared batches' included.
        gate: the admission policies.
        tally: counters by field, the prepared batches' included.
        step: batches learned.
    """

    def __init__(self, admission: Admission | ByField, fields: Sequence[str], seed: int) -> None:
        self.index = KeyIndex()
        self.gate = Gate(admission, fields, seed)
        self.tally = Tally.zeros(len(fields))
        self.step = 0
        self._prepared: deque[Prepared] = deque()
        self._number = 0
        self._stamp = 0  # of the newest prepared batch: the step that it will be

    def set_fields(self, fields: Sequence[str]) -> None:
        """Take more fields in: the ones so far, and new ones behind them."""
        self.gate.set_fields(fields)
        tally = Tally.zeros(len(fields))
        for name, counter in self.tally.arrays().items():
            tally.arrays()[name][: len(counter)] = counter
        self.tally = tally

    def prepare(self, keys: NDArray[np.int64], fields: Codes, visible: bool) -> Batch:
        """Count, admit and give rows, and remember how to undo it."""
        prepared = self._prepare(self._number + 1, keys, fields, visible)
        self._number += 1
        self._prepared.append(prepared)
        return prepared.batch

    def oldest(self, batch: Batch) -> Prepared | None:
        """Return a prepared batch if it is the oldest, as it is now; None otherwise."""
        first = self._prepared[0] if self._prepared else None
        return first if first and first.batch.number == batch.number else None

    def begin(self, batch: Batch) -> Prepared:
        """Return a prepared batch as it is now. Those prepared before it are undone for good.

        Raises:
            InputError: it was learned, passed over or discarded.
        """
        numbers = [prepared.batch.number for prepared in self._prepared]
        if batch.number not in numbers:
            raise InputError(
                f"batch {batch.number} was learned, passed over or discarded before: prepare its keys again"
            )
        if numbers[0] != batch.number:
            with self.settled(passed_over=numbers.index(batch.number)):
                pass
        return self._prepared[0]

    def learned(self) -> None:
        """Commit the oldest prepared batch."""
        self.step += 1
        self._prepared.popleft()

    def start_at(self, step: int) -> None:
        """Go on after so many steps; nothing is prepared."""
        self.step = self._stamp = step

    def discard(self) -> None:
        """Undo every prepared batch for good."""
        while self._prepared:
            self._undo(self._prepared.pop())
        self._stamp = self.step

    @contextmanager
    def settled(self, passed_over: int = 0) -> Iterator[None]:
        """Within, the state is that of the learned batches alone; the prepared ones are prepared anew on leaving.

        Args:
            passed_over: how many of the oldest are not.
        """
        waiting = list(self._prepared)
        self.discard()
        try:
            yield
        finally:
            for old in waiting[passed_over:]:
                self._prepared.append(
                    self._prepare(old.batch.number, old.batch.keys, old.batch.fields, old.visible)
                )

    def waiting(self) -> tuple[Prepared, ...]:
        """Return the prepared batches, oldest first."""
        return tuple(self._prepared)

    def hidden_rows(self) -> NDArray[np.int32]:
        """Return the rows int32 [k] of prepared batches that lookups must not see yet."""
        return np.concatenate(
            [np.zeros(0, np.int32), *(p.batch.new_rows for p in self._prepared if not p.visible)]
        )

    def nbytes(self) -> int:
        """Return the bytes of index and sketches."""
        return self.index.nbytes() + sum(sketch.nbytes() for sketch in self.gate.sketches.values())

    def _prepare(
        self, number: int, keys: NDArray[np.int64], fields: Codes, visible: bool
    ) -> Prepared:
        stamp = self._stamp + 1
        assigned = self.index.assign(keys, stamp, fields)
        events = sums_by_field(assigned.fields, assigned.times, len(self.tally.events))
        verdict = self.gate.judge(assigned, self.index.keys, self.tally.events + events)
        entries, undoable = self._without_dropped(assigned, verdict, stamp)
        rows, counts = assigned.rows, assigned.counts
        seats = verdict.places[verdict.admit]
        admitted = entries[seats]
        new_rows = rows[seats] = self.index.give_rows(admitted)
        counts[seats] = verdict.counts[verdict.admit]
        batch = make_batch(
            number,
            keys,
            fields,
            rows,
            assigned.inverse,
            counts,
            new_rows,
            self.index.keys[admitted],
        )
        tally = self._tallied(assigned, events, seats)
        self._stamp = stamp
        return Prepared(batch, undoable, admitted, verdict, tally, visible)

    def _without_dropped(
        self, assigned: Assigned, verdict: Verdict, stamp: int
    ) -> tuple[NDArray[np.int32], Assigned]:
        """Forget the dropped keys; return each distinct key's entry, int32 [U] (-1: dropped), and what undoes the rest.

        All new entries go and those that stay come back, so that entry numbers stay without holes.
        """
        if not verdict.drop.any():
            return assigned.entries, assigned
        entries, times = assigned.entries.copy(), assigned.times.copy()
        entries[verdict.places[verdict.drop]] = -1
        stay = np.flatnonzero(entries >= assigned.new[0])
        keys, fields = self.index.keys[entries[stay]], self.index.fields[entries[stay]]
        self.index.forget(assigned.new)
        again = self.index.assign(keys, stamp, fields)
        entries[stay] = again.entries
        times[stay] = self.index.counts[again.entries] = verdict.counts[
            np.searchsorted(verdict.places, stay)
        ]
        kept = entries >= 0
        return entries, replace(
            assigned,
            entries=entries[kept],
            times=times[kept],
            seen_before=assigned.seen_before[kept],
            new=again.new,
        )

    def _tallied(
        self, assigned: Assigned, events: NDArray[np.int64], seats: NDArray[np.int64]
    ) -> Tally:
        tally = Tally.zeros(len(events))
        tally.events[:] = events
        tally.hits[:] = sums_by_field(
            assigned.fields, assigned.times * (assigned.rows > 0), len(events)
        )
        tally.admitted[:] = by_field(assigned.fields[seats], len(events))
        self.tally.add(tally)
        return tally

    def _undo(self, prepared: Prepared) -> None:
        self.tally.subtract(prepared.tally)
        self.index.take_rows(prepared.admitted)
        self.index.undo(prepared.assigned)
        prepared.verdict.undo()
