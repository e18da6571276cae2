"""The fixed hashed table: one table of a number of rows that is set beforehand, in which ids of all fields share rows.

An id's row is splitmix64(key) modulo the number of rows. Such a table needs no index, counts or stamps, so its bytes are those
of its rows: weights and optimizer state of every slab. The elastic table's are what its process holds: rows, index of keys
(slots, counts, stamps, fields) and, where ids wait for admission, those of the waiting ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.hashing import mix64
from elastic_embeddings.table import ElasticTable
from training.data.inputs import Inputs


@dataclass(frozen=True)
class Size:
    """How large a table is.

    Attributes:
        rows: with a vector of their own.
        bytes: of rows with their optimizer state, and of the index where there is one.
    """

    rows: int
    bytes: int

    @classmethod
    def of(cls, table: ElasticTable) -> Self:
        """Measure a table as it is, spare rows that evictions left included."""
        return cls(len(table), table.memory_bytes())

    def grown(self, other: Size) -> Size:
        """Return the larger of both, in rows and in bytes."""
        return Size(max(self.rows, other.rows), max(self.bytes, other.bytes))


def row_bytes(table: ElasticTable) -> int:
    """Return the bytes of one row: weights and optimizer state of all slabs."""
    return sum(sum(slab.nbytes(1)) - sum(slab.nbytes(0)) for slab in table.slabs.values())


def rows_within(budget_bytes: int, table: ElasticTable) -> int:
    """Return how many rows like the table's fit into a number of bytes when there is no index."""
    return max(1, budget_bytes // row_bytes(table))


def hashed(inputs: Inputs, rows: int) -> Inputs:
    """Return the inputs with their single-valued ids sent to one of so many rows."""
    return replace(inputs, keys=hashed_keys(inputs.keys, rows))


def hashed_keys(keys: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Return the row of each key int64 [n, S], 0 … rows - 1, in the same shape."""
    return (mix64(keys.view(np.uint64)) % np.uint64(rows)).astype(np.int64)
