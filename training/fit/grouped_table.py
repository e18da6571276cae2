"""The tables of a model's groups behind the interface of one: what a learner prepares, gathers and learns as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.batch import Batch
from elastic_embeddings.census.merged import merged
from elastic_embeddings.census.statistics import TableStatistics
from elastic_embeddings.eviction import Eviction
from elastic_embeddings.table import ElasticTable
from training.data.field_groups import DEFAULT, own_slab
from training.fit.routing import Routing


class StepRows(Protocol):
    """What a step needs of a table; `ElasticTable`, `GroupedTable` and `FrozenRows` are ones. Each method is the first one's."""

    @property
    def step(self) -> int:
        """Optimizer steps taken."""

    def prepare(
        self,
        keys: NDArray[np.int64],
        fields: NDArray[np.int16] | None = None,
        *,
        ahead: bool = False,
    ) -> Any:
        """Count the keys of one training batch, admit, and give rows."""

    def begin(self, batch: Any) -> Any:
        """Return a prepared batch with the rows it has now."""

    def gather_all(self, batch: Any) -> dict[str, Any]:
        """Return the vectors float32 [n, width] of a begun batch, by slab."""

    def apply(self, batch: Any, gradients: Mapping[str, Any]) -> None:
        """Take one optimizer step."""

    def lookup_all(
        self, keys: NDArray[np.int64], fields: NDArray[np.int16] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Return the vectors float32 [n, width] of keys, by slab; zeros for a key without a row."""


class Rows(StepRows, Protocol):
    """What days of learning need of a table; `ElasticTable` and `GroupedTable` are ones."""

    @property
    def eviction(self) -> Eviction | None:
        """Which keys go, and how often."""

    def start_day(self) -> None:
        """Say that a day begins."""

    def evict(self) -> int:
        """Let keys go; return how many."""

    def statistics(self) -> TableStatistics:
        """Return what the learned rows are, as a whole and by field."""


@dataclass(frozen=True)
class GroupedBatch:
    """The batches that one batch of keys became, by group."""

    parts: Mapping[str, Batch]


class GroupedTable:
    """An elastic table for each group of fields: a row has its own group's widths and pays for no other's.

    Slabs go by `group/slab` (`training.data.field_groups.Group.slab`). Vectors of a slab are those of its group's keys alone, in the
    order in which these stand among all keys. Admission, its sketches and eviction work in each table by itself: a
    `max_rows` holds for each.

    Args:
        tables: by the group's name; each table's `fields` are the group's.
        routing: which field belongs to which group.
    """

    def __init__(self, tables: Mapping[str, ElasticTable], routing: Routing) -> None:
        self.tables = dict(tables)
        self._routing = routing

    @property
    def step(self) -> int:
        """Optimizer steps taken; a group that came later has taken fewer."""
        return max(table.step for table in self.tables.values())

    @property
    def eviction(self) -> Eviction | None:
        """Which keys go, the same in every table."""
        return next(iter(self.tables.values())).eviction

    def prepare(
        self,
        keys: NDArray[np.int64],
        fields: NDArray[np.int16] | None = None,
        *,
        ahead: bool = False,
    ) -> GroupedBatch:
        """Send the keys int64 [n] of one training batch to their groups' tables; see `ElasticTable.prepare`.

        Args:
            keys: int64 [n].
            fields: int16 [n], places of their fields in the model's layout.
            ahead: the batch is learned later, after others.
        """
        routed = self._routed(keys, fields)
        return GroupedBatch(
            {name: self.tables[name].prepare(k, f, ahead=ahead) for name, (k, f) in routed.items()}
        )

    def begin(self, batch: GroupedBatch) -> GroupedBatch:
        """Return a prepared batch with the rows it has now; see `ElasticTable.begin`."""
        return GroupedBatch(
            {name: self.tables[name].begin(part) for name, part in batch.parts.items()}
        )

    def gather_all(self, batch: GroupedBatch) -> dict[str, Any]:
        """Return the vectors float32 [m, width] of a begun batch, by slab; m are the keys of the slab's group."""
        return _by_slab(
            {name: self.tables[name].gather_all(part) for name, part in batch.parts.items()}
        )

    def apply(self, batch: GroupedBatch, gradients: Mapping[str, Any]) -> None:
        """Take one optimizer step in every table, with gradients shaped as `gather_all` gave the vectors."""
        for name, part in batch.parts.items():
            own = {
                own_slab(slab)[1]: values
                for slab, values in gradients.items()
                if own_slab(slab)[0] == name
            }
            self.tables[name].apply(part, own)

    def lookup_all(
        self, keys: NDArray[np.int64], fields: NDArray[np.int16] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Return the vectors float32 [m, width] of keys, by slab; zeros for a key without a row."""
        routed = self._routed(keys, fields)
        return _by_slab({name: self.tables[name].lookup_all(k) for name, (k, _) in routed.items()})

    def start_day(self) -> None:
        """Say to every table that a day begins."""
        for table in self.tables.values():
            table.start_day()

    def evict(self) -> int:
        """Let every table's keys go; return how many."""
        return sum(table.evict() for table in self.tables.values())

    def statistics(self) -> TableStatistics:
        """Return all tables' figures as those of one; norms by slab, `group/slab`."""
        return merged({name: table.statistics() for name, table in self.tables.items()})

    def __len__(self) -> int:
        """Return how many keys have a row."""
        return sum(len(table) for table in self.tables.values())

    def _routed(
        self, keys: NDArray[np.int64], fields: NDArray[np.int16] | None
    ) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int16]]]:
        assert fields is not None
        return {name: (k, f) for name, k, f in self._routing.split(keys, fields)}


def tables_of(rows: Rows) -> dict[str, ElasticTable]:
    """Return the tables behind a learner's, by group; one for all is that of `DEFAULT`."""
    if isinstance(rows, GroupedTable):
        return rows.tables
    assert isinstance(rows, ElasticTable)
    return {DEFAULT: rows}


def _by_slab(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        f"{group}/{slab}" if group else slab: found
        for group, slabs in values.items()
        for slab, found in slabs.items()
    }
