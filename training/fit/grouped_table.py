"""One table per group of fields, behind the interface of a single table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.batch import Batch
from elastic_embeddings.eviction import Eviction
from elastic_embeddings.statistics import TableStatistics, merge_statistics
from elastic_embeddings.table import ElasticTable
from training.data.layout import DEFAULT_GROUP, FieldLayout, Group, slab_of, split_slab


class StepRows(Protocol):
    """What a step needs of a table: `ElasticTable`, `GroupedTable` and `FrozenRows`.

    See `ElasticTable` for each method.
    """

    @property
    def step(self) -> int:
        """Optimizer steps so far."""

    def prepare(
        self,
        keys: NDArray[np.int64],
        fields: NDArray[np.int16] | None = None,
        *,
        ahead: bool = False,
    ) -> Any:
        """Count the keys of one training batch, admit, and give rows."""

    def begin(self, batch: Any) -> Any:
        """Return a prepared batch with its current rows."""

    def gather_all(self, batch: Any) -> dict[str, Any]:
        """Return the vectors float32 [n, width] of a begun batch, by slab."""

    def apply(self, batch: Any, gradients: Mapping[str, Any]) -> None:
        """Take one optimizer step."""

    def lookup_all(
        self, keys: NDArray[np.int64], fields: NDArray[np.int16] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Return the vectors float32 [n, width] of keys, by slab; zeros for a key without a row."""


class Rows(StepRows, Protocol):
    """What training by days needs of a table: `ElasticTable` and `GroupedTable`."""

    @property
    def eviction(self) -> Eviction | None:
        """Which keys are evicted, and how often."""

    def start_day(self) -> None:
        """Begin a new day."""

    def evict(self) -> int:
        """Evict keys; return how many."""

    def statistics(self) -> TableStatistics:
        """Return statistics of the trained rows, in total and by field."""


@dataclass(frozen=True)
class Routing:
    """Which group each field of a batch belongs to.

    Attributes:
        names: of the groups.
        owner: int16 [F], by field code, the position of the field's group in `names`.
        place: int16 [F], by field code, the field's code within its group.
    """

    names: tuple[str, ...]
    owner: NDArray[np.int16]
    place: NDArray[np.int16]

    @classmethod
    def of(cls, layout: FieldLayout, groups: Sequence[Group]) -> Routing:
        """Return the routing of a model whose field codes are positions in `layout.keyed`."""
        at = {
            name: (number, place)
            for number, group in enumerate(groups)
            for place, name in enumerate(group.layout.keyed)
        }
        # The shape is explicit for a model without id fields.
        owner, place = np.array([at[name] for name in layout.keyed], np.int16).reshape(-1, 2).T
        return cls(tuple(group.name for group in groups), owner, place)

    def split(
        self, keys: NDArray[np.int64], fields: NDArray[np.int16] | None
    ) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.int16]]]:
        """Yield each group's name, its keys int64 [m] in their order, and their codes int16 [m].

        Args:
            keys: int64 [n], as of `Inputs.flat_keys`.
            fields: int16 [n], as of `Inputs.flat_fields`; required.
        """
        # Optional only because a single table does not need them.
        assert fields is not None
        owner = self.owner[fields]
        # Every group takes part, also one without a key here: all tables count the same steps.
        for number, name in enumerate(self.names):
            chosen = owner == number
            yield name, keys[chosen], self.place[fields[chosen]]


GroupedBatch = Mapping[str, Batch]
"""The batches of the groups, made from one batch of keys."""


class GroupedTable:
    """An elastic table per group of fields: a row has the widths of its group only.

    Slabs are named `group/slab` (`training.data.layout.slab_of`). The vectors of a slab are
    those of its group's keys, in the order of these among all keys. Admission, its sketches and
    eviction work in each table separately; a `max_rows` holds for each.

    Args:
        tables: by the group's name; each table's `fields` are the group's.
        routing: which field belongs to which group.
    """

    def __init__(self, tables: Mapping[str, ElasticTable], routing: Routing) -> None:
        self.tables = dict(tables)
        self._routing = routing

    @property
    def step(self) -> int:
        """Optimizer steps so far; a group that was added later has fewer."""
        return max(table.step for table in self.tables.values())

    @property
    def eviction(self) -> Eviction | None:
        """Which keys are evicted, the same in every table."""
        return next(iter(self.tables.values())).eviction

    def prepare(
        self,
        keys: NDArray[np.int64],
        fields: NDArray[np.int16] | None = None,
        *,
        ahead: bool = False,
    ) -> GroupedBatch:
        """Prepare the keys of one training batch in their groups' tables.

        Args:
            keys: int64 [n].
            fields: int16 [n], positions of their fields in the model's layout.
            ahead: other batches are trained on before this one.
        """
        routed = self._routing.split(keys, fields)
        return {name: self.tables[name].prepare(k, f, ahead=ahead) for name, k, f in routed}

    def begin(self, batch: GroupedBatch) -> GroupedBatch:
        """Return a prepared batch with its current rows."""
        return {name: self.tables[name].begin(part) for name, part in batch.items()}

    def gather_all(self, batch: GroupedBatch) -> dict[str, Any]:
        """Return the vectors float32 [m, width] of a begun batch's m keys of a group, by slab."""
        return _by_slab({name: self.tables[name].gather_all(part) for name, part in batch.items()})

    def apply(self, batch: GroupedBatch, gradients: Mapping[str, Any]) -> None:
        """Take one optimizer step in every table, with gradients shaped as `gather_all` returns."""
        by_group: dict[str, dict[str, Any]] = {name: {} for name in batch}
        for slab, values in gradients.items():
            name, own = split_slab(slab)
            by_group[name][own] = values
        for name, part in batch.items():
            self.tables[name].apply(part, by_group[name])

    def lookup_all(
        self, keys: NDArray[np.int64], fields: NDArray[np.int16] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Return the vectors float32 [m, width] of keys, by slab; zeros for a key without a row."""
        routed = self._routing.split(keys, fields)
        return _by_slab({name: self.tables[name].lookup_all(k) for name, k, _ in routed})

    def start_day(self) -> None:
        """Begin a new day in every table."""
        for table in self.tables.values():
            table.start_day()

    def evict(self) -> int:
        """Evict keys of every table; return how many."""
        return sum(table.evict() for table in self.tables.values())

    def statistics(self) -> TableStatistics:
        """Return the statistics of all tables together; norms by slab, `group/slab`."""
        return merge_statistics({name: table.statistics() for name, table in self.tables.items()})

    def __len__(self) -> int:
        """Return how many keys have a row."""
        return sum(len(table) for table in self.tables.values())


def tables_of(rows: Rows) -> dict[str, ElasticTable]:
    """Return the tables of a learner by group; a single table is that of `DEFAULT_GROUP`."""
    if isinstance(rows, GroupedTable):
        return rows.tables
    assert isinstance(rows, ElasticTable)
    return {DEFAULT_GROUP: rows}


def _by_slab(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for group, slabs in values.items():
        named |= {slab_of(group, slab): each for slab, each in slabs.items()}
    return named
