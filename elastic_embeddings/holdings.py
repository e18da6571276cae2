"""What a table consists of, handed to whoever saves, restores or describes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.intake import Intake
from elastic_embeddings.slabs.slab import Slab
from elastic_embeddings.tally import by_field


@dataclass
class Tombstones:
    """Keys that were let go, and the first step that no longer met each.

    Attributes:
        keys: int64 [t] by deletion.
        steps: the step of each deletion.
        floor: what was deleted up to this step is forgotten; no delta can start before it.
    """

    keys: list[NDArray[np.int64]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    floor: int = 0

    def add(self, keys: NDArray[np.int64], step: int) -> None:
        """Note keys int64 [k] that `step` is the first to meet no more."""
        if len(keys):
            self.keys.append(keys)
            self.steps.append(step)

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return all keys int64 [t] and their steps int32 [t]."""
        lengths = [len(keys) for keys in self.keys]
        return np.concatenate([np.zeros(0, np.int64), *self.keys]), np.repeat(
            np.array(self.steps, np.int32), lengths
        )

    def drop_after(self, step: int) -> None:
        """Forget the deletions of later steps."""
        kept = [i for i, found in enumerate(self.steps) if found <= step]
        self.keys, self.steps = [self.keys[i] for i in kept], [self.steps[i] for i in kept]


@dataclass
class Holdings:
    """The parts of a table.

    Attributes:
        intake: index, sketches, counters, and what is prepared; saved when settled.
        slabs: by name.
        fields: names, by code.
        seed: of vectors and admission.
        days: steps taken when each day began.
        tombstones: keys that were let go.
        asleep: int64 [k], keys whose rows were zero at the last census.
    """

    intake: Intake
    slabs: dict[str, Slab]
    fields: tuple[str, ...]
    seed: int
    days: list[int] = field(default_factory=lambda: [0])
    tombstones: Tombstones = field(default_factory=Tombstones)
    asleep: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def add_fields(self, names: Sequence[str]) -> None:
        """Add the names that are not among the fields, at the end."""
        more = tuple(name for name in names if name not in self.fields)
        if more:
            self.fields += more
            self.intake.set_fields(self.fields)

    def forget(self, entries: NDArray[np.int32]) -> None:
        """Let keys go, by entry int32 [k]; their rows are free for others."""
        index = self.intake.index
        with_row = entries[index.rows[entries] > 0]
        self.intake.tally.evicted[:] += by_field(index.fields[with_row], len(self.fields))
        self.tombstones.add(index.keys[entries], self.intake.step + 1)
        index.forget(entries)
        if index.holes > len(index):
            index.squeeze()
