"""Batches that are prepared and not yet trained on, with the index, the admission and the counters.

Preparation runs ahead of training, so a batch changes counts, admissions and rows before it is
known whether it will be trained on. Each pending batch keeps what is needed to undo it. A save or
an eviction has to see the table as it was trained: it undoes all pending batches, newest first, and
prepares them again afterwards. Preparing is a function of the state and the keys alone, so the
result does not depend on how far ahead it ran.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.admission.controller import AdmissionController, AdmissionDecision
from elastic_embeddings.admission.policies import Admission, ByField
from elastic_embeddings.batch import Batch, make_batch
from elastic_embeddings.core.native import compiled
from elastic_embeddings.errors import InputError
from elastic_embeddings.index.key_index import KeyIndex, KeyLookup

FieldCodes = NDArray[np.int16] | None


@dataclass(frozen=True)
class FieldCounters:
    """Running counters by field, int64 [fields] each.

    Attributes:
        events: occurrences of keys.
        hits: occurrences whose key had a row in that batch.
        admitted: keys that were given a row.
        evicted: keys that lost their row.
        revived: rows that group lasso had set to zero and that are nonzero again, as far as
            statistics saw them at zero.
    """

    events: NDArray[np.int64]
    hits: NDArray[np.int64]
    admitted: NDArray[np.int64]
    evicted: NDArray[np.int64]
    revived: NDArray[np.int64]

    @classmethod
    def zeros(cls, count: int) -> FieldCounters:
        """Return counters of `count` fields, all 0."""
        return cls(*(np.zeros(count, np.int64) for _ in fields(cls)))

    def arrays(self) -> dict[str, NDArray[np.int64]]:
        """Return the counters by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def add(self, other: FieldCounters, sign: int = 1) -> None:
        """Add another's counters in place, or subtract them with sign -1."""
        for own, added in zip(self.arrays().values(), other.arrays().values(), strict=True):
            own += sign * added


def count_by_field(codes: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    """Return int64 [count]: how often each field code occurs in `codes` [n]."""
    return np.bincount(codes, minlength=count).astype(np.int64)


# np.bincount with weights sums in float64 and is slower.
@compiled
def _add_by_field(
    codes: NDArray[np.int32], numbers: NDArray[np.int32], sums: NDArray[np.int64]
) -> None:
    for i in range(len(codes)):
        sums[codes[i]] += numbers[i]


@dataclass
class PendingBatch:
    """A prepared batch, and what is needed to undo it.

    Attributes:
        batch: the current rows.
        lookup: what the index counted and inserted.
        admitted: int32 [k], entries that were given rows.
        decision: what the sketches counted.
        counters: the batch's share of the table's counters.
        visible: whether lookups may see the new rows.
        initialised: whether the new rows' vectors are written.
        begun: whether it is being trained on.
    """

    batch: Batch
    lookup: KeyLookup
    admitted: NDArray[np.int32]
    decision: AdmissionDecision
    counters: FieldCounters
    visible: bool
    initialised: bool = False
    begun: bool = False


class PendingBatches:
    """The pending batches, and what they change: index, admission and counters.

    One thread may call `prepare` while another calls `oldest` and `commit`; everything else needs
    the table's lock.

    Attributes:
        index: keys, counts and rows, including those of pending batches.
        admission: the admission policies.
        counters: by field, including those of pending batches.
        step: batches trained on.
    """

    def __init__(self, admission: Admission | ByField, fields: Sequence[str], seed: int) -> None:
        self.index = KeyIndex()
        self.admission = AdmissionController(admission, fields, seed)
        self.counters = FieldCounters.zeros(len(fields))
        self.step = 0
        self._pending: deque[PendingBatch] = deque()
        self._number = 0
        self._last_step = 0  # the step that the newest pending batch will be

    def set_fields(self, fields: Sequence[str]) -> None:
        """Append fields to the ones so far."""
        self.admission.set_fields(fields)
        longer = FieldCounters.zeros(len(fields))
        for name, counter in self.counters.arrays().items():
            longer.arrays()[name][: len(counter)] = counter
        self.counters = longer

    def batches(self) -> tuple[PendingBatch, ...]:
        """Return the pending batches, oldest first."""
        return tuple(self._pending)

    def prepare(self, keys: NDArray[np.int64], fields: FieldCodes, visible: bool) -> Batch:
        """Count the keys, admit, give rows, and keep what undoes it."""
        # Copies: a save or an eviction prepares the batch again from its keys, and the caller may
        # have filled the arrays with other ones by then.
        keys, fields = keys.copy(), None if fields is None else fields.copy()
        pending = self._prepare(self._number + 1, keys, fields, visible)
        self._number += 1
        self._pending.append(pending)
        return pending.batch

    def oldest(self, batch: Batch) -> PendingBatch | None:
        """Return the pending batch of this number if it is the oldest, else None."""
        first = self._pending[0] if self._pending else None
        # The copied keys are passed on whenever a batch is prepared again, so they identify it.
        return first if first and first.batch.keys is batch.keys else None

    def begin(self, batch: Batch) -> PendingBatch:
        """Return a pending batch with its current rows; undo those prepared before it for good.

        Raises:
            InputError: it was trained on, skipped or discarded.
        """
        numbers = [pending.batch.number for pending in self._pending]
        if batch.number in numbers:
            own = self._pending[numbers.index(batch.number)].batch
            if own.keys is not batch.keys:
                raise InputError(
                    f"batch {batch.number} was prepared by another table: prepare its keys here"
                )
        else:
            raise InputError(
                f"batch {batch.number} was trained on, skipped or discarded: prepare its keys again"
            )
        if numbers[0] != batch.number:
            # The skipped batches counted and admitted keys: undo them, and prepare the rest again
            # as if they had never been prepared.
            with self.rolled_back(skip=numbers.index(batch.number)):
                pass
        return self._pending[0]

    def commit(self) -> None:
        """Keep the changes of the oldest pending batch, after it was trained on."""
        if not self._pending:
            raise InputError(
                "the batch was undone while it was trained on: another thread called save, "
                "statistics, evict or the like; during training, call only prepare(ahead=True), "
                "and restore this table"
            )
        self.step += 1
        self._pending.popleft()

    def resume_at(self, step: int) -> None:
        """Continue after `step` steps; there must be no pending batch."""
        self.step = self._last_step = step

    def undo_all(self) -> None:
        """Undo every pending batch for good."""
        while self._pending:
            pending = self._pending.pop()
            self.counters.add(pending.counters, sign=-1)
            # The reverse order of `_prepare`: rows, entries, sketches.
            self.index.deallocate_rows(pending.admitted)
            self.index.undo(pending.lookup)
            pending.decision.undo()
        self._last_step = self.step

    @contextmanager
    def rolled_back(self, skip: int = 0) -> Iterator[None]:
        """Undo the pending batches inside the block and prepare them again after it.

        Args:
            skip: how many of the oldest are not prepared again.
        """
        pending = list(self._pending)
        self.undo_all()
        try:
            yield
        finally:
            for old in pending[skip:]:
                self._pending.append(
                    self._prepare(old.batch.number, old.batch.keys, old.batch.fields, old.visible)
                )
                self._pending[-1].begun = old.begun

    def hidden_rows(self) -> NDArray[np.int32]:
        """Return the rows int32 [k] of pending batches that lookups must not see yet."""
        hidden = [pending.batch.new_rows for pending in self._pending if not pending.visible]
        return np.concatenate([np.zeros(0, np.int32), *hidden])

    def nbytes(self) -> int:
        """Return the bytes of index and sketches."""
        sketches = self.admission.sketches.values()
        return self.index.nbytes() + sum(sketch.nbytes() for sketch in sketches)

    def _prepare(
        self, number: int, keys: NDArray[np.int64], fields: FieldCodes, visible: bool
    ) -> PendingBatch:
        # 1. Find or insert the keys. New keys have an index entry from here on, but no row yet.
        step = self._last_step + 1
        lookup = self.index.find_or_insert(keys, step, fields)

        # 2. Decide which keys get a row. The decision counts this batch's own events.
        counters = FieldCounters.zeros(len(self.counters.events))
        _add_by_field(lookup.fields, lookup.times, counters.events)
        decision = self.admission.decide(
            lookup, self.index.keys, self.counters.events + counters.events
        )

        # 3. Remove the keys that only a sketch counts; keep what undoes the rest.
        entries, undo = self._remove_dropped(lookup, decision, step)

        # 4. Give rows to the admitted keys. `lookup.rows` is changed in place, as the batch and the
        #    hit counter below are made of it.
        positions = decision.positions[decision.admit]
        admitted = entries[positions]
        new_rows = self.index.allocate_rows(admitted)
        lookup.rows[positions] = new_rows
        lookup.counts[positions] = decision.counts[decision.admit]
        batch = make_batch(
            number,
            keys,
            fields,
            lookup.rows,
            lookup.inverse,
            lookup.counts,
            new_rows,
            self.index.keys[admitted],
        )

        # 5. Update the counters by field.
        _add_by_field(lookup.fields, lookup.times * (lookup.rows > 0), counters.hits)
        counters.admitted[:] = count_by_field(lookup.fields[positions], len(counters.admitted))
        self.counters.add(counters)
        self._last_step = step
        return PendingBatch(batch, undo, admitted, decision, counters, visible)

    def _remove_dropped(
        self, lookup: KeyLookup, decision: AdmissionDecision, step: int
    ) -> tuple[NDArray[np.int32], KeyLookup]:
        """Remove the dropped keys from the index.

        Returns:
            The entry of each distinct key, int32 [U] (-1: dropped), and what undoes the rest.
        """
        if not decision.drop.any():
            return lookup.entries, lookup
        entries, times = lookup.entries.copy(), lookup.times.copy()
        entries[decision.positions[decision.drop]] = -1
        # All new entries are removed and the kept ones inserted again, so that the entry numbers
        # stay without holes.
        kept_new = np.flatnonzero(entries >= lookup.new[0])
        keys, fields = self.index.keys[entries[kept_new]], self.index.fields[entries[kept_new]]
        self.index.remove(lookup.new)
        again = self.index.find_or_insert(keys, step, fields)
        entries[kept_new] = again.entries
        # Their counts are those of the sketch, which may have counted them in earlier batches.
        counts = decision.counts[np.searchsorted(decision.positions, kept_new)]
        times[kept_new] = self.index.counts[again.entries] = counts
        kept = entries >= 0
        return entries, replace(
            lookup,
            entries=entries[kept],
            times=times[kept],
            seen_before=lookup.seen_before[kept],
            new=again.new,
        )
