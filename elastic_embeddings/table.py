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
from elastic_embeddings.census.count import census
from elastic_embeddings.census.statistics import TableStatistics, summarise
from elastic_embeddings.errors import InputError
from elastic_embeddings.eviction import Eviction, Residents
from elastic_embeddings.holdings import Holdings
from elastic_embeddings.intake import Intake, Prepared
from elastic_embeddings.slabs.make import make_slab
from elastic_embeddings.slabs.slab import Device, Slab, SlabSpec
from elastic_embeddings.storage import restoring, saving

Gradients = ArrayLike | Mapping[str, ArrayLike]


class ElasticTable:
    """Vectors of int64 keys, of one or several widths, that grow as keys are admitted.

        batch = table.prepare(keys)              # counts, admits, gives rows
        vectors = table.lookup(keys)             # float32 [n, dim]
        table.apply_gradients(batch, gradients)  # one step: now the batch is learned

    A batch that is prepared and never learned leaves no trace: `len`, `keys`, `statistics` and `save` are those of the learned
    batches alone, and learning a later batch undoes the ones that were passed over.

    Two threads may share a table: one that only calls `prepare(keys, ahead=True)` and one that does all the rest.
    What that second one sees does not depend on how far ahead the first has run.

    Args:
        slabs: name → what the slab is made of, names being Python identifiers; one spec makes a slab named `vectors`.
        admission: which keys get a row; by field with `ByField`.
        seed: initial vectors and admission draws are functions of (key, seed).
        fields: names of the fields; their positions are the codes that `prepare` takes.
        eviction: which keys go, and how often.
        device: `host` memory, or TensorFlow variables on a `device`; None takes a GPU where there is one.

    Attributes:
        slabs: name → slab.

    Raises:
        InputError: no slab, a name that is not an identifier, or a policy for a field that is not in `fields`.
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
                f"slabs {sorted(specs)}: give at least one, each named by an identifier such as 'deep'"
            )
        self.slabs: dict[str, Slab] = {
            name: make_slab(spec, device) for name, spec in specs.items()
        }
        self.seed = seed
        self.eviction = eviction
        self._intake = Intake(admission or AlwaysAdmit(), tuple(fields), seed)
        self._parts = Holdings(self._intake, self.slabs, tuple(fields), seed)
        self._lock = threading.RLock()

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields, by code; those of a restored table that were not given come last."""
        return self._parts.fields

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self._intake.step

    def prepare(
        self,
        keys: NDArray[np.int64],
        fields: NDArray[np.int16] | None = None,
        *,
        ahead: bool = False,
    ) -> Batch:
        """Count the keys of one training batch, admit, and give rows. Host only; touches no slab.

        Args:
            keys: int64 [n], any values, repeated or not.
            fields: int16 [n], each key's place in the table's `fields`; None where there is one.
            ahead: the batch is learned later, after others: lookups see its new rows from `begin` on only.

        Raises:
            InputError: keys or fields are not as said.
        """
        if (
            fields is not None
            and len(fields)
            and not 0 <= int(np.min(fields)) <= int(np.max(fields)) < len(self.fields)
        ):
            raise InputError(
                f"field codes {np.min(fields)} … {np.max(fields)}: the table's fields are {list(self.fields)}"
            )
        with self._lock:
            return self._intake.prepare(keys, fields, visible=not ahead)

    def begin(self, batch: Batch) -> Batch:
        """Return a prepared batch with the rows it has now, its new rows' vectors written.

        Batches prepared before it and not learned are undone for good.

        Raises:
            InputError: the batch was learned, passed over or discarded.
        """
        prepared = self._intake.oldest(
            batch
        )  # without the lock, which `prepare` may hold in the other thread
        if prepared is None:
            with self._lock:
                prepared = self._intake.begin(batch)
        prepared.visible = True
        self._write(prepared)
        return prepared.batch

    def gather(self, batch: Batch, slab: str | None = None) -> Any:
        """Return the vectors float32 [n, dim] of a begun batch, an array (host) or a tensor (device)."""
        return self._slab(slab).gather(batch)

    def gather_all(self, batch: Batch) -> dict[str, Any]:
        """Return what `gather` returns, by slab."""
        return {name: slab.gather(batch) for name, slab in self.slabs.items()}

    def apply(self, batch: Batch, gradients: Mapping[str, Any]) -> None:
        """Take one optimizer step with the gradients float32 [n, dim] by slab; the batch is learned."""
        slabs = {name: self._slab(name) for name in gradients}
        current = self.begin(batch)
        for name, slab in slabs.items():
            slab.apply(current, gradients[name], self.step + 1)
        self._intake.learned()
        if self.eviction and self.eviction.due(self.step):
            self.evict()

    def apply_gradients(self, batch: Batch, gradients: Gradients) -> None:
        """Take one optimizer step on the rows of a prepared batch.

        Args:
            batch: from `prepare(keys)`.
            gradients: float32 [n, dim], shaped as `lookup(keys)`; those of repeated keys add up. By slab name where
                there are several slabs.

        Raises:
            InputError: the batch was learned, passed over or discarded; the gradients have another shape; or a slab is
                not one of the table's.
        """
        by_name = gradients if isinstance(gradients, Mapping) else {self._only_slab(): gradients}
        arrays = {name: np.asarray(values, np.float32) for name, values in by_name.items()}
        for name, values in arrays.items():
            expected = (len(batch), self._slab(name).spec.dim)
            if values.shape != expected:
                raise InputError(
                    f"gradients of slab {name!r} have shape {values.shape}: give {expected}, shaped as lookup(keys)"
                )
        self.apply(batch, arrays)

    def discard(self) -> None:
        """Undo every batch that is prepared and not learned."""
        with self._lock:
            self._intake.discard()

    def find(self, keys: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the rows int32 [n] of keys int64 [n]; 0 where unknown, unadmitted or prepared ahead. Never inserts."""
        with self._lock:
            for prepared in self._intake.waiting():
                if prepared.visible:
                    self._write(prepared)
            rows = self._intake.index.find_rows(keys)
            hidden = self._intake.hidden_rows()
        if len(hidden):
            rows[np.isin(rows, hidden)] = 0
        return rows

    def lookup(self, keys: NDArray[np.int64], slab: str | None = None) -> NDArray[np.float32]:
        """Return the vectors float32 [n, dim] of keys int64 [n]; the slab's fallback where `find` gives 0. Never inserts.

        Args:
            keys: int64 [n].
            slab: which slab; may be left out when there is one.
        """
        return self._slab(slab).vectors(self.find(keys))

    def lookup_all(
        self, keys: NDArray[np.int64], fields: NDArray[np.int16] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Return what `lookup` returns, by slab, with one pass over the index; a key has one row, whatever its field."""
        rows = self.find(keys)
        return {name: slab.vectors(rows) for name, slab in self.slabs.items()}

    def evict(self, eviction: Eviction | None = None) -> int:
        """Let keys go, their rows free for others; return how many. Keys of a batch that is being learned stay.

        Args:
            eviction: what goes; None takes the table's own.

        Raises:
            InputError: there is no policy.
        """
        eviction = eviction or self.eviction
        if eviction is None:
            raise InputError(
                "evict: the table has no eviction, give one such as Eviction((ZeroRows(),))"
            )
        with self._lock:
            held = [p.batch.keys for p in self._intake.waiting() if p.visible]
            with self._intake.settled():
                entries = self._intake.index.live()
                chosen = eviction.select(self._residents(entries))
                chosen[
                    np.isin(
                        entries,
                        self._intake.index.find(np.concatenate([np.zeros(0, np.int64), *held])),
                    )
                ] = False
                self._parts.forget(entries[chosen])
                return int(np.count_nonzero(chosen))

    def compact(self) -> None:
        """Number keys and rows anew without holes, and give the memory of those that went back to the system."""
        with self._lock, self._intake.settled():
            self._intake.index.squeeze()
            old_rows = self._intake.index.compact_rows()
            for slab in self.slabs.values():
                slab.compact(old_rows)

    def save(self, folder: Path) -> None:
        """Write the table as `elastic_embeddings.storage.checkpoint` describes; the same table gives the same bytes.

        The folder is replaced as a whole when everything is on the disk. Memory beyond the table: a few MiB, and 16 bytes a key.
        """
        with self._lock, self._intake.settled():
            saving.save(Path(folder), self._parts)

    def restore(self, folder: Path) -> ElasticTable:
        """Replace the content by a saved table's and return self; learning goes on as if it had never stopped.

        Admission, eviction, seed, storage and optimizers are this table's own, so that a new day may change them. Another
        rule's state starts anew, which is logged; another learning rate's is restated so that the vectors stay. Keys of
        fields that this table has not stay until an eviction takes them. Prepared batches are discarded.

        Raises:
            InputError: a file is missing or damaged, the folder holds a delta, or the slabs' names or widths differ; the
                table is then what it was.
        """
        with self._lock:
            self._intake.discard()
            restoring.restore(Path(folder), self._parts)
        return self

    def save_delta(self, folder: Path, since: int) -> None:
        """Write what was learned after step `since`, and tombstones of the keys that went since then.

        Raises:
            InputError: `since` is later than the table's step.
        """
        with self._lock, self._intake.settled():
            saving.save_delta(Path(folder), self._parts, since)

    def apply_delta(self, folder: Path) -> ElasticTable:
        """Go from the step that a delta starts at to the one it ends at, deletions included; return self.

        Raises:
            InputError: a file is missing or damaged, or the delta starts at another step; the table is then what it was.
        """
        with self._lock:
            self._intake.discard()
            restoring.apply_delta(Path(folder), self._parts)
        return self

    def start_day(self) -> None:
        """Say that a day begins; `Idle(days=…)` counts them."""
        self._parts.days.append(self.step)

    def __len__(self) -> int:
        """Return how many keys have a row."""
        with self._lock:
            return self._intake.index.row_count - sum(
                len(p.batch.new_rows) for p in self._intake.waiting()
            )

    @property
    def keys_seen(self) -> int:
        """How many keys are counted, admitted or not."""
        with self._lock:
            return len(self._intake.index) - sum(
                len(p.assigned.new) for p in self._intake.waiting()
            )

    def keys(self) -> NDArray[np.int64]:
        """Return the admitted keys int64 [len], in the order of first occurrence."""
        with self._lock, self._intake.settled():
            index = self._intake.index
            entries = index.live()
            return index.keys[entries[index.rows[entries] > 0]]

    def statistics(self) -> TableStatistics:
        """Return rows, hits, norms, frequencies and bytes of the learned batches, as a whole and by field."""
        with self._lock, self._intake.settled():
            return summarise(census(self._parts))

    def memory_bytes(self) -> int:
        """Return the bytes that index, sketches, vectors and optimizer state hold."""
        rows = self._intake.index.row_limit
        slabs = sum(sum(slab.nbytes(rows)) for slab in self.slabs.values())
        return slabs + self._intake.nbytes()

    def _write(self, prepared: Prepared) -> None:
        """Write the vectors of a batch's new rows, once."""
        if prepared.written:
            return
        prepared.written = True
        if len(prepared.batch.new_rows):
            for name, slab in self.slabs.items():
                slab.ensure(int(prepared.batch.new_rows.max()))
                slab.initialise(
                    prepared.batch.new_rows, prepared.batch.new_keys, slab_seed(self.seed, name)
                )

    def _residents(self, entries: NDArray[np.int32]) -> Residents:
        index = self._intake.index
        rows = index.rows[entries]
        return Residents(
            has_row=rows > 0,
            counts=index.counts[entries],
            last_seen=index.last_seen[entries],
            step=self.step,
            days=self._parts.days,
            zero=lambda: self._by_blocks(rows, _are_zero, np.bool_),
            norms=lambda: self._by_blocks(rows, _norms, np.float32),
        )

    def _by_blocks(
        self, rows: NDArray[np.int32], figure: Callable[[Sequence[NDArray]], NDArray], kind: type
    ) -> NDArray:
        """Return a figure of rows int32 [k] (0: none, gives 0) from their vectors by slab, a block at a time."""
        figures: NDArray[Any] = np.zeros(len(rows), kind)
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            figures[start : start + _BLOCK] = figure(
                [slab.vectors(block) for slab in self.slabs.values()]
            )
        figures[rows == 0] = 0
        return figures

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
    """Return a slab's own seed, or slabs of one table would start correlated."""
    return seed ^ zlib.crc32(name.encode()) << 32


def _are_zero(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.bool_]:
    return ~np.logical_or.reduce([part.any(axis=1) for part in vectors])


def _norms(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.sqrt(np.sum([np.square(part).sum(axis=1) for part in vectors], axis=0))


_BLOCK = 1 << 18
"""Rows whose vectors are looked at together."""
