"""The elastic table: one index of keys over several slabs of vectors."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from features.errors import InputError
from training.elastic.admission import Admission, AlwaysAdmit
from training.elastic.batch import Batch, Statistics
from training.elastic.checkpoint import INDEX_ARRAYS, SlabHeader, TableHeader, array_name, read_arrays, read_header, write_table
from training.elastic.key_index import KeyIndex
from training.elastic.slab import Slab, SlabSpec
from training.settings import OptimizerSettings

Gradients = ArrayLike | Mapping[str, ArrayLike]


class ElasticTable:
    """Vectors of int64 keys, of one or several widths, that grow as keys are admitted.

    Two threads may share a table: one that only calls `prepare`, ahead of the step, and one that does all the rest.
    What `lookup` and `find` return depends on the second thread alone: a row exists for them once it is materialised.

    Inside a training step use `slabs[name].gather(rows)`, the gradient with respect to what it returned, and
    `slabs[name].apply(rows, gradient, table.step)` after `table.step.assign_add(1)`; none of it retraces as rows grow.

    Args:
        slabs: name → what the slab is made of; names are Python identifiers.
        admission: which keys get a row.
        seed: initial vectors are a function of (key, seed).

    Attributes:
        slabs: name → `Slab`.
        step: optimizer steps taken, a scalar int64 variable.

    Raises:
        InputError: no slab, or a name that is not an identifier.
    """

    def __init__(self, slabs: Mapping[str, SlabSpec], admission: Admission | None = None, seed: int = 0) -> None:
        if not slabs or not all(name.isidentifier() for name in slabs):
            raise InputError(f"slabs {sorted(slabs)}: give at least one, each named by an identifier such as 'deep'")
        self.slabs = {name: Slab(spec, name) for name, spec in slabs.items()}
        self.admission = admission or AlwaysAdmit()
        self.seed = seed
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self._index = KeyIndex()
        self._batches = 0
        self._materialised = 0
        self._lock = threading.Lock()

    def prepare(self, keys: NDArray[np.int64]) -> Batch:
        """Count the keys of one training batch, admit, and return its rows. Host only; touches no slab.

        Args:
            keys: int64 [n], any values, repeated or not.
        """
        with self._lock:
            self._batches += 1
            assigned = self._index.assign(keys, self._batches)
            fresh = self._admitted(assigned.entries)
            new_rows = self._index.give_rows(fresh)
            rows = self._index.rows[assigned.entries]
            return _batch(rows, assigned.inverse, new_rows, self._index.keys[fresh])

    def materialise(self, batch: Batch) -> None:
        """Make room for a prepared batch's new rows and write their initial vectors. Batches come in prepared order.

        Raises:
            InputError: an earlier batch with new rows was left out.
        """
        last = self._materialised + len(batch.new_rows)
        if len(batch.new_rows) == 0 or batch.new_rows[-1] <= self._materialised:
            return
        if batch.new_rows[-1] != last:
            raise InputError(f"row {self._materialised + 1} has no vector yet: materialise batches in the order of prepare")
        for name, slab in self.slabs.items():
            slab.ensure(last)
            slab.initialise(batch.new_rows, batch.new_keys, self._slab_seed(name))
        self._materialised = last

    def find(self, keys: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the rows int32 [n] of keys int64 [n]; 0 where unknown, unadmitted or not materialised. Never inserts."""
        with self._lock:
            rows = self._index.find_rows(keys)
        rows[rows > self._materialised] = 0
        return rows

    def lookup(self, keys: NDArray[np.int64], slab: str | None = None) -> NDArray[np.float32]:
        """Return the vectors float32 [n, dim] of keys int64 [n]; zeros where `find` gives 0. Never inserts.

        Args:
            keys: int64 [n].
            slab: which slab; may be left out when there is one.
        """
        return self._slab(slab).gather(tf.constant(self.find(keys))).numpy()

    def apply_gradients(self, batch: Batch, gradients: Gradients) -> None:
        """Take one optimizer step on the rows of a prepared and materialised batch.

        Args:
            batch: from `prepare(keys)`.
            gradients: float32 [n, dim], shaped as `lookup(keys)`; those of repeated keys add up. By slab name where
                there are several slabs.

        Raises:
            InputError: the batch was not materialised, or a slab is not one of the table's.
        """
        if len(batch.new_rows) and batch.new_rows[-1] > self._materialised:
            raise InputError("the batch has rows without a vector: call materialise(batch) before looking up and learning")
        by_name = gradients if isinstance(gradients, Mapping) else {self._only_slab(): gradients}
        slabs = {name: self._slab(name) for name in by_name}
        self.step.assign_add(1)
        for name, slab in slabs.items():
            summed = tf.math.unsorted_segment_sum(tf.cast(by_name[name], tf.float32), batch.inverse, len(batch.rows))
            slab.apply(tf.constant(batch.rows), summed, self.step)

    def __len__(self) -> int:
        """Return how many keys have a row."""
        return self._index.row_count

    @property
    def keys_seen(self) -> int:
        """How many keys were counted, admitted or not."""
        return len(self._index)

    def keys(self) -> NDArray[np.int64]:
        """Return the admitted keys int64 [len]; the i-th has row i + 1."""
        with self._lock:
            return self._index.keys_by_row()

    def memory_bytes(self) -> int:
        """Return the allocated bytes of index, vectors and optimizer state."""
        return self._index.nbytes() + sum(slab.nbytes() * (1 + len(slab.slots)) for slab in self.slabs.values())

    def statistics(self) -> Statistics:
        """Return rows, keys, zero rows and bytes as they are now."""
        zero = np.logical_and.reduce([slab.zero_rows(self._materialised) for slab in self.slabs.values()])
        return Statistics(
            rows=len(self),
            keys_seen=self.keys_seen,
            zero_rows=int(np.count_nonzero(zero)),
            index_bytes=self._index.nbytes(),
            weight_bytes=sum(slab.nbytes() for slab in self.slabs.values()),
            slot_bytes=sum(slab.nbytes() * len(slab.slots) for slab in self.slabs.values()),
        )

    def save(self, folder: Path) -> None:
        """Write the table as `training.elastic.checkpoint` describes; the same table gives the same bytes.

        Raises:
            InputError: a batch was prepared but not materialised.
        """
        with self._lock:
            pending = self._index.row_count - self._materialised
            if pending:
                raise InputError(f"{folder}: {pending} rows of prepared batches have no vector yet, learn those batches first")
            write_table(Path(folder), self._header(), self._arrays())

    def restore(self, folder: Path) -> ElasticTable:
        """Replace the content by a saved table's and return self; learning goes on as if it had never stopped.

        Admission, seed and optimizer strengths are this table's own, so that a new day may change them.

        Raises:
            InputError: a file is missing or damaged, or the slabs' names, widths or slots differ.
        """
        folder = Path(folder)
        header = read_header(folder)
        self._refuse_other_slabs(folder, header)
        arrays = dict(read_arrays(folder, header, header.arrays))  # all of them, so that an error leaves this table as it was
        with self._lock:
            self._index = KeyIndex.from_arrays(*(arrays[name] for name in INDEX_ARRAYS))
            for name, slab in self.slabs.items():
                slab.load({variable: arrays[array_name(name, variable)] for variable, _ in slab.variables()})
            self._batches, self._materialised = header.batches, self._index.row_count
            self.step.assign(header.step)
        return self

    def _admitted(self, entries: NDArray[np.int32]) -> NDArray[np.int32]:
        """Of a batch's entries those that have no row and deserve one."""
        waiting = entries[self._index.rows[entries] == 0]
        return waiting[self.admission.admit(self._index.counts[waiting])]

    def _only_slab(self) -> str:
        if len(self.slabs) > 1:
            raise InputError(f"the table has slabs {sorted(self.slabs)}: say which")
        return next(iter(self.slabs))

    def _slab(self, name: str | None) -> Slab:
        name = self._only_slab() if name is None else name
        if name not in self.slabs:
            raise InputError(f"no slab {name!r}: the table has {sorted(self.slabs)}")
        return self.slabs[name]

    def _slab_seed(self, name: str) -> int:
        return self.seed ^ zlib.crc32(name.encode()) << 32  # or slabs of one table would start correlated

    def _header(self) -> TableHeader:
        slabs = {name: _slab_header(slab) for name, slab in self.slabs.items()}
        return TableHeader(step=int(self.step.numpy()), batches=self._batches, seed=self.seed, slabs=slabs)

    def _arrays(self) -> Iterator[tuple[str, NDArray]]:
        for name in INDEX_ARRAYS:
            yield name, getattr(self._index, name)
        for name, slab in self.slabs.items():
            for variable, _ in slab.variables():
                yield array_name(name, variable), slab.read(variable, self._index.row_count)

    def _refuse_other_slabs(self, folder: Path, header: TableHeader) -> None:
        saved = {name: (slab.dim, slab.slots) for name, slab in header.slabs.items()}
        here = {name: (slab.spec.dim, tuple(slab.slots)) for name, slab in self.slabs.items()}
        if saved != here:
            raise InputError(f"{folder} holds slabs {saved}, this table has {here}: give the saved widths or start a new table")


def _slab_header(slab: Slab) -> SlabHeader:
    optimizer = OptimizerSettings(**asdict(slab.spec.optimizer))
    return SlabHeader(dim=slab.spec.dim, init_scale=slab.spec.init_scale, optimizer=optimizer, slots=tuple(slab.slots))


def _batch(
    rows: NDArray[np.int32], inverse: NDArray[np.int32], new_rows: NDArray[np.int32], new_keys: NDArray[np.int64]
) -> Batch:
    """A batch of distinct entries' rows, in which all entries without a row share one row 0 at the end."""
    has_row = rows > 0
    if has_row.all():
        return Batch(rows, inverse, new_rows, new_keys)
    places = np.where(has_row, np.cumsum(has_row) - 1, np.count_nonzero(has_row)).astype(np.int32)
    return Batch(np.append(rows[has_row], np.int32(0)), places[inverse], new_rows, new_keys)
