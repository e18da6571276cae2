"""The state of a table, as save, restore and statistics use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.pending import PendingBatches, count_by_field
from elastic_embeddings.slabs.slab import Slab


@dataclass
class Tombstones:
    """Deleted keys, and for each the first step that no longer finds it.

    Attributes:
        keys: int64 [t] by deletion.
        steps: the step of each deletion.
        floor: deletions up to this step are forgotten; no delta can start before it.
    """

    keys: list[NDArray[np.int64]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    floor: int = 0

    def add(self, keys: NDArray[np.int64], step: int) -> None:
        """Add keys int64 [k]; `step` is the first that no longer finds them."""
        if len(keys):
            self.keys.append(keys)
            self.steps.append(step)

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return all keys int64 [t] and their steps int32 [t]."""
        lengths = [len(keys) for keys in self.keys]
        steps = np.repeat(np.array(self.steps, np.int32), lengths)
        return np.concatenate([np.zeros(0, np.int64), *self.keys]), steps

    def drop_after(self, step: int) -> None:
        """Drop the deletions of later steps, which are loaded again."""
        self._keep([deleted <= step for deleted in self.steps])

    def forget(self, step: int) -> None:
        """Forget the deletions up to a step."""
        self._keep([deleted > step for deleted in self.steps])
        self.floor = max(self.floor, step)

    def nbytes(self) -> int:
        """Return the bytes of the keys and their steps."""
        return sum(keys.nbytes + 4 for keys in self.keys)

    def _keep(self, kept: Sequence[bool]) -> None:
        self.keys = list(compress(self.keys, kept))
        self.steps = list(compress(self.steps, kept))


@dataclass
class TableState:
    """Everything that a table owns.

    Attributes:
        pending: index, admission, counters and pending batches; saved while these are rolled back.
        slabs: by name.
        fields: names, by code.
        seed: of vectors and admission.
        days: steps at the start of each day.
        tombstones: deleted keys.
        zero_keys: int64 [k], keys whose rows were zero at the last statistics.
    """

    pending: PendingBatches
    slabs: dict[str, Slab]
    fields: tuple[str, ...]
    seed: int
    days: list[int] = field(default_factory=lambda: [0])
    tombstones: Tombstones = field(default_factory=Tombstones)
    zero_keys: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def add_fields(self, names: Sequence[str]) -> None:
        """Append the names that are not yet fields."""
        new = tuple(name for name in names if name not in self.fields)
        if new:
            self.fields += new
            self.pending.set_fields(self.fields)

    def delete(self, entries: NDArray[np.int32]) -> None:
        """Delete keys by entry, int32 [k]; their rows become free."""
        index = self.pending.index
        with_row = entries[index.rows[entries] > 0]
        evicted = count_by_field(index.fields[with_row], len(self.fields))
        self.pending.counters.evicted[:] += evicted
        self.tombstones.add(index.keys[entries], self.pending.step + 1)
        index.remove(entries)
        # Renumber the entries once the holes outnumber the keys, which bounds the memory.
        if index.holes > len(index):
            index.squeeze()
