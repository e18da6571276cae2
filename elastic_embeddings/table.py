"""The elastic table: one index of keys over several slabs of vectors."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elastic_embeddings.admission.policies import Admission, AlwaysAdmit, ByField
from elastic_embeddings.batch import Batch
from elastic_embeddings.errors import InputError
from elastic_embeddings.eviction import Eviction, KeyStats
from elastic_embeddings.pending import PendingBatch, PendingBatches
from elastic_embeddings.slabs.slab import Device, Slab, SlabSpec, make_slab
from elastic_embeddings.state import TableState
from elastic_embeddings.statistics import TableStatistics, summarise, take_snapshot
from elastic_embeddings.storage import save_restore

Gradients = ArrayLike | Mapping[str, ArrayLike]

_BLOCK = 1 << 18  # rows whose vectors are in memory together


class ElasticTable:
    """Vectors of int64 keys, of one or several widths, that grow as keys are admitted.

    >>> table = ElasticTable(SlabSpec(16), seed=17)
    >>> keys = np.array([5, -7, 5])
    >>> batch = table.prepare(keys)  # counts, admits, gives rows
    >>> vectors = table.lookup(keys)  # float32 [n, dim]
    >>> table.apply_gradients(batch, vectors)  # one optimizer step on the batch's rows
    >>> vectors.shape, len(table), table.step
    ((3, 16), 2, 1)

    A batch that is prepared and never trained on leaves no trace: `len`, `keys`, `statistics` and
    `save` cover only the batches that were trained on, and training on a later batch undoes the
    ones that were skipped.

    Two threads may share a table: one that only calls `prepare(keys, ahead=True)` and one that does
    everything else. The results of the second do not depend on how far ahead the first has run.

    Args:
        slabs: name → spec of the slab, names being Python identifiers; a single spec makes a slab
            named `vectors`.
        admission: which keys get a row; by field with `ByField`.
        seed: initial vectors and admission draws are functions of (key, seed).
        fields: names of the fields; their positions are the codes that `prepare` expects.
        eviction: which keys are deleted, and how often.
        device: `host` memory, or TensorFlow variables on a `device`; None uses a GPU if there is
            one.

    Attributes:
        slabs: name → slab.

    Raises:
        InputError: no slab, a name that is not an identifier, or a policy for a field that is not
            in `fields`.
    """

    def __init__(
        self,
        slabs: SlabSpec | Mapping[str, SlabSpec],
        admission: Admission | ByField | None = None,
        seed: int = 0,
        *,
        fields: Sequence[str] = ("all",),
        eviction: Eviction | None = None,
        device: Device | None = None,
    ) -> None:
        specs = {"vectors": slabs} if isinstance(slabs, SlabSpec) else dict(slabs)
        if not specs or not all(name.isidentifier() for name in specs):
            raise InputError(
                f"slabs {sorted(specs)}: give at least one, each named by an identifier such as "
                "'deep'"
            )
        self.slabs: dict[str, Slab] = {
            name: make_slab(spec, device) for name, spec in specs.items()
        }
        self.seed = seed
        self.eviction = eviction
        self._pending = PendingBatches(admission or AlwaysAdmit(), tuple(fields), seed)
        self._state = TableState(self._pending, self.slabs, tuple(fields), seed)
        # Guards the index and the pending batches: `prepare` may run in a second thread. Reentrant,
        # because public methods call each other.
        self._lock = threading.RLock()

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields, by code; fields that a restore added come last."""
        return self._state.fields

    @property
    def step(self) -> int:
        """The number of optimizer steps so far."""
        return self._pending.step

    def __len__(self) -> int:
        """Return the number of keys that have a row."""
        with self._lock:
            pending = sum(len(p.batch.new_rows) for p in self._pending.batches())
            return self._pending.index.row_count - pending

    @property
    def keys_seen(self) -> int:
        """The number of keys that the index counts, admitted or not."""
        with self._lock:
            pending = sum(len(p.lookup.new) for p in self._pending.batches())
            return len(self._pending.index) - pending

    def keys(self) -> NDArray[np.int64]:
        """Return the admitted keys int64 [len], in the order of first occurrence."""
        with self._lock, self._pending.rolled_back():
            index = self._pending.index
            entries = index.live()
            return index.keys[entries[index.rows[entries] > 0]]

    def prepare(
        self,
        keys: NDArray[np.int64],
        fields: NDArray[np.int16] | None = None,
        *,
        ahead: bool = False,
    ) -> Batch:
        """Count the keys of one training batch, admit, and give rows. Uses no slab.

        Args:
            keys: int64 [n], any values, repeated or not.
            fields: int16 [n], each key's position in the table's `fields`; None if there is one.
            ahead: other batches are trained on first: lookups see the new rows only after `begin`.

        Raises:
            InputError: keys or fields of another dtype or shape, or an unknown field code.
        """
        if fields is not None and len(fields):
            low, high = int(np.min(fields)), int(np.max(fields))
            if not 0 <= low <= high < len(self.fields):
                raise InputError(
                    f"field codes {low} … {high}: the table's fields are {list(self.fields)}"
                )
        with self._lock:
            return self._pending.prepare(keys, fields, visible=not ahead)

    def begin(self, batch: Batch) -> Batch:
        """Return a prepared batch with its current rows, whose vectors are written.

        Batches that were prepared before it and not trained on are undone for good.

        Raises:
            InputError: the batch was trained on, skipped or discarded.
        """
        # Without the lock: the other thread may hold it for the whole of a `prepare`, and in the
        # usual case, the oldest batch, nothing has to be undone.
        pending = self._pending.oldest(batch)
        if pending is None:
            with self._lock:
                pending = self._pending.begin(batch)
        pending.visible = pending.begun = True
        self._initialise_rows(pending)
        return pending.batch

    def gather(self, batch: Batch, slab: str | None = None) -> Any:
        """Return the vectors float32 [n, dim] of a begun batch, an array or a device tensor."""
        return self._slab(slab).gather(batch)

    def gather_all(self, batch: Batch) -> dict[str, Any]:
        """Return the result of `gather` by slab."""
        return {name: slab.gather(batch) for name, slab in self.slabs.items()}

    def apply(self, batch: Batch, gradients: Mapping[str, Any]) -> None:
        """Make one optimizer step with the gradients float32 [n, dim] by slab.

        Raises:
            InputError: as `apply_gradients`.
        """
        slabs = {name: self._slab(name) for name in gradients}
        for name, slab in slabs.items():
            expected, shape = (len(batch), slab.spec.dim), tuple(np.shape(gradients[name]))
            if shape != expected:
                raise InputError(
                    f"gradients of slab {name!r} have shape {shape}: "
                    f"give {expected}, shaped as lookup(keys)"
                )
        # Everything was checked above, before anything is changed.
        current = self.begin(batch)
        for name, slab in slabs.items():
            slab.apply(current, gradients[name], self.step + 1, slab_seed(self.seed, name))
        self._pending.commit()
        if self.eviction and self.eviction.due(self.step):
            self.evict()

    def apply_gradients(self, batch: Batch, gradients: Gradients) -> None:
        """Make one optimizer step on the rows of a prepared batch.

        Args:
            batch: from `prepare(keys)`.
            gradients: float32 [n, dim], shaped as `lookup(keys)`; those of repeated keys are added.
                By slab name if there are several slabs.

        Raises:
            InputError: the batch was trained on, skipped or discarded; the gradients have another
                shape; or a slab is not one of the table's.
        """
        by_name = gradients if isinstance(gradients, Mapping) else {self._only_slab(): gradients}
        self.apply(batch, {n: np.asarray(values, np.float32) for n, values in by_name.items()})

    def discard(self) -> None:
        """Undo every batch that is prepared and not trained on."""
        with self._lock:
            self._pending.undo_all()

    def find(self, keys: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the rows int32 [n] of keys int64 [n]; nothing is inserted.

        The row is 0 for keys that are unknown, not admitted, or admitted by a batch that was
        prepared ahead.
        """
        with self._lock:
            # `prepare` uses no slab, so new rows get their vectors when they are first needed.
            for pending in self._pending.batches():
                if pending.visible:
                    self._initialise_rows(pending)
            rows = self._pending.index.find_rows(keys)
            hidden = self._pending.hidden_rows()
        # The index has rows of batches that are prepared ahead, which must not be visible yet.
        if len(hidden):
            rows[np.isin(rows, hidden)] = 0
        return rows

    def lookup(self, keys: NDArray[np.int64], slab: str | None = None) -> NDArray[np.float32]:
        """Return the vectors float32 [n, dim] of keys int64 [n]; nothing is inserted.

        Keys without a row have the slab's fallback.

        Args:
            keys: int64 [n].
            slab: the name; None if there is one slab.
        """
        return self._slab(slab).vectors(self.find(keys))

    def lookup_all(
        self, keys: NDArray[np.int64], fields: NDArray[np.int16] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Return the result of `lookup` by slab; `fields` has no effect."""
        rows = self.find(keys)
        return {name: slab.vectors(rows) for name, slab in self.slabs.items()}

    def evict(self, eviction: Eviction | None = None) -> int:
        """Delete keys and free their rows; return how many.

        Keys of a batch that is being trained on, from `begin` to `apply`, are kept.

        Args:
            eviction: the policies; None uses the table's own.

        Raises:
            InputError: there is no policy.
        """
        eviction = eviction or self.eviction
        if eviction is None:
            raise InputError(
                "evict: the table has no eviction, give one such as Eviction((ZeroRows(),))"
            )
        with self._lock:
            # Rows of a begun batch are about to be updated, so their keys are kept. Other prepared
            # batches are prepared again, and simply do not find the deleted keys: they may never
            # be trained on, and must leave no trace.
            held = [p.batch.keys for p in self._pending.batches() if p.begun]
            with self._pending.rolled_back():
                index = self._pending.index
                entries = index.live()
                chosen = eviction.select(self._key_stats(entries))
                kept = index.find(np.concatenate([np.zeros(0, np.int64), *held]))
                chosen[np.isin(entries, kept)] = False
                self._state.delete(entries[chosen])
                return int(np.count_nonzero(chosen))

    def compact(self) -> None:
        """Renumber keys and rows without holes and release the memory of deleted ones."""
        with self._lock, self._pending.rolled_back():
            self._pending.index.squeeze()
            old_rows = self._pending.index.compact_rows()
            for slab in self.slabs.values():
                slab.compact(old_rows)

    def save(self, folder: Path) -> None:
        """Write the table in the format of `elastic_embeddings.storage.checkpoint`.

        The same table gives the same bytes. The folder is replaced as a whole once everything is on
        the disk. Memory beyond the table: a few MiB, and 16 bytes a key.
        """
        with self._lock, self._pending.rolled_back():
            save_restore.save(Path(folder), self._state)

    def restore(self, folder: Path) -> ElasticTable:
        """Replace the content by a saved table's and return self; training continues from there.

        Admission, eviction, seed, storage and optimizers remain this table's own, so they may
        differ from those of the saved table. Optimizer state of another rule starts from scratch,
        which is logged; that of another learning rate is converted so that the vectors do not
        change. Keys of fields that this table does not have are kept until they are evicted.
        Prepared batches are discarded.

        Raises:
            InputError: a file is missing or damaged, the folder holds a delta, or the slabs' names
                or widths differ; the table is then unchanged.
        """
        with self._lock:
            self._pending.undo_all()
            save_restore.restore(Path(folder), self._state)
        return self

    def save_delta(self, folder: Path, since: int) -> None:
        """Write the changes after step `since`, and the keys that were deleted since then.

        Raises:
            InputError: `since` is later than the table's step.
        """
        with self._lock, self._pending.rolled_back():
            save_restore.save_delta(Path(folder), self._state, since)

    def apply_delta(self, folder: Path) -> ElasticTable:
        """Apply a delta that starts at this table's step, deletions included; return self.

        Raises:
            InputError: a file is missing or damaged, or the delta starts at another step; the table
                is then unchanged.
        """
        with self._lock:
            self._pending.undo_all()
            save_restore.apply_delta(Path(folder), self._state)
        return self

    def forget_deletions(self) -> None:
        """Forget which keys were deleted up to now; a delta cannot start before this step then.

        Deleted keys are kept for deltas, 12 bytes each, until this is called: for instance before a
        full save, from which later deltas start.
        """
        self._state.tombstones.forget(self.step)

    def start_day(self) -> None:
        """Mark the start of a day; `Idle(days=…)` counts them."""
        self._state.days.append(self.step)

    def statistics(self) -> TableStatistics:
        """Return rows, hits, norms, frequencies and bytes, as a whole and by field."""
        with self._lock, self._pending.rolled_back():
            return summarise(take_snapshot(self._state))

    def memory_bytes(self) -> int:
        """Return the bytes of index, sketches, vectors, optimizer state and deleted keys."""
        rows = self._pending.index.row_limit
        slabs = sum(sum(slab.nbytes(rows)) for slab in self.slabs.values())
        return slabs + self._pending.nbytes() + self._state.tombstones.nbytes()

    def __reduce__(self) -> Any:
        # The slabs reserve address space of the machine's size, which a copy would fill.
        raise TypeError("an ElasticTable cannot be pickled or copied: use save and restore")

    def _initialise_rows(self, pending: PendingBatch) -> None:
        """Write the vectors of a batch's new rows, once."""
        if pending.initialised:
            return
        pending.initialised = True
        rows, keys = pending.batch.new_rows, pending.batch.new_keys
        if len(rows):
            for name, slab in self.slabs.items():
                slab.ensure(int(rows.max()))
                slab.initialise(rows, keys, slab_seed(self.seed, name))

    def _key_stats(self, entries: NDArray[np.int32]) -> KeyStats:
        index = self._pending.index
        rows = index.rows[entries]

        def by_blocks(
            figure: Callable[[Sequence[NDArray[Any]]], NDArray[Any]], dtype: type
        ) -> NDArray[Any]:
            """Compute a figure from the vectors by slab, a block at a time; 0 without a row."""
            figures: NDArray[Any] = np.zeros(len(rows), dtype)
            for start in range(0, len(rows), _BLOCK):
                block = slice(start, start + _BLOCK)
                figures[block] = figure([slab.vectors(rows[block]) for slab in self.slabs.values()])
            figures[rows == 0] = 0
            return figures

        def are_zero(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.bool_]:
            nonzero: NDArray[np.bool_] = np.logical_or.reduce([v.any(axis=1) for v in vectors])
            return ~nonzero

        def norms(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
            squares: NDArray[np.float32] = np.sum(
                [np.square(v).sum(axis=1) for v in vectors], axis=0
            )
            return np.sqrt(squares)

        return KeyStats(
            has_row=rows > 0,
            counts=index.counts[entries],
            last_seen=index.last_seen[entries],
            step=self.step,
            days=self._state.days,
            zero=lambda: by_blocks(are_zero, np.bool_),
            norms=lambda: by_blocks(norms, np.float32),
        )

    def _only_slab(self) -> str:
        if len(self.slabs) > 1:
            raise InputError(f"the table has slabs {sorted(self.slabs)}: say which")
        return next(iter(self.slabs))

    def _slab(self, name: str | None) -> Slab:
        name = self._only_slab() if name is None else name
        if name not in self.slabs:
            raise InputError(f"no slab {name!r}: the table has {sorted(self.slabs)}")
        return self.slabs[name]


def slab_seed(seed: int, name: str) -> int:
    """Return the seed of a slab; with the same seed, slabs of a table would start correlated."""
    return seed ^ zlib.crc32(name.encode()) << 32
