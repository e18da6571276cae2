"""A table of embeddings in a graph: native hash table to row number to stored row, or native hash table to vector."""

from __future__ import annotations

from typing import Literal

import numpy as np
import tensorflow as tf

from compression.serving.stored import RowIndex, StoredSlab
from training.packed.rows import PackedRows

TableForm = Literal["rows", "vectors"]
"""`rows`: a hash table of row numbers and slabs in their stored form. `vectors`: a hash table of float32 vectors."""


class RowTable(tf.Module):
    """Keys to rows, rows to vectors."""

    def __init__(self, rows: PackedRows) -> None:
        super().__init__()
        self._index = RowIndex(rows.keys)
        self._slabs = {name: StoredSlab(slab) for name, slab in rows.slabs.items()}

    def __call__(self, keys: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return vectors float32 [m, width] by slab of keys int64 [m]; zeros for unknown keys."""
        rows = self._index(keys)
        rows.set_shape([None])  # which a lookup forgets, and with it the vectors their width
        return {name: slab(rows) for name, slab in self._slabs.items()}


class VectorTable(tf.Module):
    """Keys to the vectors of all slabs, one after the other."""

    def __init__(self, rows: PackedRows) -> None:
        super().__init__()
        self._widths = {name: slab.width for name, slab in rows.slabs.items()}
        together = np.concatenate(list(rows.vectors().values()), axis=1)
        self._table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, tf.zeros(together.shape[1]))
        self._table.insert(tf.constant(rows.keys, tf.int64), tf.constant(together))

    def __call__(self, keys: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return vectors float32 [m, width] by slab of keys int64 [m]; zeros for unknown keys."""
        together = tf.ensure_shape(self._table.lookup(keys), [None, sum(self._widths.values())])
        return dict(zip(self._widths, tf.split(together, list(self._widths.values()), axis=1), strict=True))


def table_of(rows: PackedRows, form: TableForm) -> RowTable | VectorTable:
    """Return a table in a form; without slabs there is nothing to put into vectors."""
    return VectorTable(rows) if form == "vectors" and rows.slabs else RowTable(rows)
