"""The rows of a trained model that no step changes: what scoring reads, and what dense weights alone are learned over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.field_groups import own_slab
from training.fit.checkpoints import TrainedModel
from training.fit.routing import Routing
from training.models.cross_input import key_positions

Vectors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Places:
    """Where keys lie in tables that do not change.

    Attributes:
        keys: int64 [N], ascending, by group.
        routing: which field belongs to which group.
    """

    keys: Mapping[str, NDArray[np.int64]]
    routing: Routing

    def of(
        self, keys: NDArray[np.int64], fields: NDArray[np.int16] | None
    ) -> dict[str, NDArray[np.int32]]:
        """Return rows int32 of keys int64 [n] of fields int16 [n], by group, from 1 on; 0 for a key that has none."""
        assert fields is not None
        return {
            name: key_positions(self.keys[name], own)
            for name, own, _ in self.routing.split(keys, fields)
        }


class FrozenRows:
    """A model's rows behind the interface of a table that learns; a key without a row is the zero vector and stays so.

    Args:
        trained: whose rows are read.
        routing: which field belongs to which group.
    """

    def __init__(self, trained: TrainedModel, routing: Routing) -> None:
        self.step = 0
        self._places = Places({name: rows.keys for name, rows in trained.tables().items()}, routing)
        self._slabs = {name: with_zero_row(rows) for name, rows in trained.slabs().items()}

    def lookup_all(
        self, keys: NDArray[np.int64], fields: NDArray[np.int16] | None = None
    ) -> Vectors:
        """Return the vectors float32 [m, width] of keys int64 [n] of fields int16 [n], by slab; m are those of its group."""
        rows = self._places.of(keys, fields)
        return {name: slab[rows[own_slab(name)[0]]] for name, slab in self._slabs.items()}

    def prepare(
        self,
        keys: NDArray[np.int64],
        fields: NDArray[np.int16] | None = None,
        *,
        ahead: bool = False,
    ) -> Vectors:
        """Return the vectors of a batch, as `lookup_all` does; nothing is counted, so `ahead` makes no difference."""
        return self.lookup_all(keys, fields)

    def begin(self, batch: Vectors) -> Vectors:
        """Return a prepared batch as it is."""
        return batch

    def gather_all(self, batch: Vectors) -> Vectors:
        """Return the vectors of a batch, by slab."""
        return batch

    def apply(self, batch: Vectors, gradients: Mapping[str, Any]) -> None:
        """Count the step; the rows stay."""
        self.step += 1


def with_zero_row(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows float32 [N + 1, d] behind a zero row, for keys that have none."""
    return np.concatenate([np.zeros((1, rows.shape[1]), np.float32), rows])
