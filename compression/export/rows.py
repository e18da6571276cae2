"""A table of embeddings in a graph: native hash table to row number to stored row, or native hash table to vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from compression.export.stored import RowIndex, StoredSlab, behind_zero_row
from training.packed.rows import PackedRows

TableForm = Literal["rows", "vectors"]
"""`rows`: a hash table of row numbers and slabs in their stored form. `vectors`: a hash table of float32 vectors."""


_LEAST_BLOCK_ROWS = 1024
_BLOCK_SHARE = (
    8  # a block is at least this part of the rows that there are, so that growing is rare
)


class RowTable(tf.Module):
    """Keys to rows, rows to vectors. While it serves, keys may come, change and go."""

    def __init__(self, rows: PackedRows) -> None:
        super().__init__()
        self._index = RowIndex(rows.keys)
        self._slabs = {name: StoredSlab(slab) for name, slab in rows.slabs.items()}
        self._rows = tf.Variable(
            len(rows.keys) + 1, trainable=False, dtype=tf.int32
        )  # of every slab, the zero row among them
        self._free = tf.Variable(tf.zeros([0], tf.int32), trainable=False, shape=[None])

    def __call__(self, keys: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return vectors float32 [m, width] by slab of keys int64 [m]; zeros for unknown keys."""
        rows = self._index(keys)
        rows.set_shape([None])  # which a lookup forgets, and with it the vectors their width
        return {name: slab(rows) for name, slab in self._slabs.items()}

    def change(
        self, keys: tf.Tensor, tombstones: tf.Tensor, stored: Mapping[str, Sequence[tf.Tensor]]
    ) -> Any:
        """Give keys their new rows and let others go; return the last operation. Only slabs whose `only_matrix` there is.

        Rows are written where no key leads to, and only then do the keys lead there: a request meanwhile reads a key's old
        row or its new one, never a mixture. What was left behind is free for the changes after these, not before.

        Args:
            keys: int64 [n], distinct, new or known.
            tombstones: int64 [m], none of `keys`; unknown ones change nothing.
            stored: by slab values [n, …] and, of quantized rows, scales [n, 2], in stored form.
        """
        left = tf.ensure_shape(self._index(tf.concat([keys, tombstones], axis=0)), [None])
        with tf.control_dependencies([left, self._make_room(tf.size(keys))]):
            rows, others = tf.split(self._free.read_value(), [tf.size(keys), -1])
        written = [
            write
            for name, arrays in stored.items()
            for write in self._slabs[name].only_matrix().write(rows, *arrays)
        ]
        with tf.control_dependencies(written):
            pointed = [self._index.point(keys, rows), self._index.forget(tombstones)]
        with tf.control_dependencies(pointed):
            return self._free.assign(
                tf.concat([others, tf.unique(tf.boolean_mask(left, left > 0))[0]], axis=0)
            )

    def replace(self, rows: PackedRows) -> None:
        """Hold other rows, of the same slabs and forms, in place of all that there are."""
        self._index.replace(rows.keys)
        for name, slab in rows.slabs.items():
            self._slabs[name].only_matrix().replace(*behind_zero_row(slab.only_matrix()))
        self._rows.assign(len(rows.keys) + 1)
        self._free.assign(tf.zeros([0], tf.int32))

    def size(self) -> tf.Tensor:
        """Return how many keys have a row, int64 []."""
        return self._index.size()

    def _make_room(self, wanted: tf.Tensor) -> tf.Tensor:
        """See to `wanted` free rows; return how many there are."""
        lacking = wanted - tf.size(self._free.read_value())
        return tf.cond(
            lacking > 0, lambda: self._grow(lacking), lambda: tf.size(self._free.read_value())
        )

    def _grow(self, least: tf.Tensor) -> tf.Tensor:
        rows = self._rows.read_value()
        more = tf.reduce_max([least, _LEAST_BLOCK_ROWS, rows // _BLOCK_SHARE])
        for slab in self._slabs.values():
            slab.only_matrix().grow(more)
        free = self._free.assign(
            tf.concat([self._free.read_value(), tf.range(rows, rows + more)], axis=0),
            read_value=True,
        )
        self._rows.assign(rows + more)
        return tf.size(free)


class VectorTable(tf.Module):
    """Keys to the vectors of all slabs, one after the other."""

    def __init__(self, rows: PackedRows) -> None:
        super().__init__()
        self._widths = {name: slab.width for name, slab in rows.slabs.items()}
        together = np.concatenate(list(rows.vectors().values()), axis=1)
        self._table = tf.lookup.experimental.MutableHashTable(
            tf.int64, tf.float32, tf.zeros(together.shape[1])
        )
        self._table.insert(tf.constant(rows.keys, tf.int64), tf.constant(together))

    def __call__(self, keys: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return vectors float32 [m, width] by slab of keys int64 [m]; zeros for unknown keys."""
        together = tf.ensure_shape(self._table.lookup(keys), [None, sum(self._widths.values())])
        return dict(
            zip(self._widths, tf.split(together, list(self._widths.values()), axis=1), strict=True)
        )


def table_of(rows: PackedRows, form: TableForm) -> RowTable | VectorTable:
    """Return a table in a form; without slabs there is nothing to put into vectors."""
    return VectorTable(rows) if form == "vectors" and rows.slabs else RowTable(rows)
