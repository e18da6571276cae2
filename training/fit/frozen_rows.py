"""The rows of a trained model, which no step changes: for scoring and for dense weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.layout import split_slab
from training.fit.checkpoints import TrainedModel
from training.fit.grouped_table import Routing
from training.models.encoding_inputs import key_positions

Vectors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class FrozenIndex:
    """The rows of keys in tables that do not change.

    Attributes:
        keys: int64 [N], ascending, by group.
        routing: which field belongs to which group.
    """

    keys: Mapping[str, NDArray[np.int64]]
    routing: Routing

    def rows(
        self, keys: NDArray[np.int64], fields: NDArray[np.int16] | None
    ) -> dict[str, NDArray[np.int32]]:
        """Return rows int32 by group, from 1 on; 0 for a key without one.

        Args:
            keys: int64 [n].
            fields: int16 [n].
        """
        # A key without a row has position 0, that of the zero row (`with_zero_row`).
        routed = self.routing.split(keys, fields)
        return {name: key_positions(self.keys[name], own) for name, own, _ in routed}


class FrozenRows:
    """A model's rows behind the interface of a table.

    A key without a row is the zero vector and stays so.

    Args:
        trained: the model.
        routing: which field belongs to which group.
    """

    def __init__(self, trained: TrainedModel, routing: Routing) -> None:
        # Counted although no row changes: the optimizer of the dense weights reads the step.
        self.step = 0
        keys = {name: rows.keys for name, rows in trained.tables().items()}
        self._index = FrozenIndex(keys, routing)
        self._slabs = {name: with_zero_row(rows) for name, rows in trained.slabs().items()}

    def lookup_all(
        self, keys: NDArray[np.int64], fields: NDArray[np.int16] | None = None
    ) -> Vectors:
        """Return the vectors float32 [m, width] of the m keys of a slab's group, by slab.

        Args:
            keys: int64 [n].
            fields: int16 [n].
        """
        rows = self._index.rows(keys, fields)
        return {name: slab[rows[split_slab(name)[0]]] for name, slab in self._slabs.items()}

    def prepare(
        self,
        keys: NDArray[np.int64],
        fields: NDArray[np.int16] | None = None,
        *,
        ahead: bool = False,
    ) -> Vectors:
        """Return the vectors of a batch, as `lookup_all` does; `ahead` has no effect."""
        return self.lookup_all(keys, fields)

    def begin(self, batch: Vectors) -> Vectors:
        """Return the batch unchanged."""
        return batch

    def gather_all(self, batch: Vectors) -> Vectors:
        """Return the vectors of a batch, by slab."""
        return batch

    def apply(self, batch: Vectors, gradients: Mapping[str, Any]) -> None:
        """Count the step; the rows do not change."""
        self.step += 1


def with_zero_row(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows float32 [N + 1, d]: a zero row, for keys without a row, and the given ones."""
    return np.concatenate([np.zeros((1, rows.shape[1]), np.float32), rows])
