"""Tables of embeddings and dense weights in a graph, in their stored form.

Rows are gathered first and converted to float32 then, so a lookup converts only what it reads.
Row 0 of every slab is zero, and unknown keys map to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from compression.delta.content import dense_name, matrix_names
from training.packed.dense import DenseWeights
from training.packed.matrix import Form, Matrix
from training.packed.pq import Product
from training.packed.rows import Band, PackedRows, PackedSlab

TableForm = Literal["rows", "vectors"]
"""Hash tables of row numbers with slabs in their stored form, or of float32 vectors."""

_MIN_BLOCK_ROWS = 1024
_BLOCK_SHARE = 8
"""A slab grows by at least one eighth of its rows, which makes growing (a copy) rare."""


class RowIndex(tf.Module):
    """Maps int64 keys to row numbers, 0 for unknown keys; TensorFlow's own hash table."""

    def __init__(self, keys: NDArray[np.int64]) -> None:
        super().__init__()
        self._table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int32, default_value=0)
        self.replace(keys)

    def replace(self, keys: NDArray[np.int64]) -> None:
        """Map these keys to rows 1 to N, and no others."""
        # The table has no operation that clears it.
        self._table.remove(self._table.export()[0])
        self._table.insert(tf.constant(keys, tf.int64), tf.range(1, len(keys) + 1, dtype=tf.int32))

    def __call__(self, keys: tf.Tensor) -> tf.Tensor:
        """Return the rows of keys, int32 in their shape."""
        return self._table.lookup(keys)

    def assign(self, keys: tf.Tensor, rows: tf.Tensor) -> Any:
        """Map keys int64 [n], new or known, to rows int32 [n]; return the operation."""
        return self._table.insert(keys, rows)

    def remove(self, keys: tf.Tensor) -> Any:
        """Make keys int64 [m] unknown; return the operation."""
        return self._table.remove(keys)

    def size(self) -> tf.Tensor:
        """Return the number of known keys, int64 []."""
        return self._table.size()


class StoredMatrix(tf.Module):
    """A `Matrix` in a graph.

    Args:
        matrix: what is stored.
        zero_row: whether a row 0 that reads as zero is put in front.
    """

    def __init__(self, matrix: Matrix, zero_row: bool = True) -> None:
        super().__init__()
        self._form, self._width = matrix.form, matrix.width
        # A slab may get more rows while it serves; dense weights keep their shape.
        rows = None if zero_row else len(matrix)
        arrays = with_zero_row(matrix) if zero_row else _stored_arrays(matrix)
        variables = [tf.Variable(a, trainable=False, shape=[rows, a.shape[1]]) for a in arrays]
        self._values, self._scales = variables if len(variables) == 2 else (*variables, None)

    def gather(self, rows: tf.Tensor) -> tf.Tensor:
        """Return float32 [m, width] of rows int [m]."""
        return self._decoded(*(tf.gather(variable, rows) for variable in self._variables()))

    def all(self) -> tf.Tensor:
        """Return float32 [N, width], all rows."""
        return self._decoded(*(variable.value() for variable in self._variables()))

    def write(self, rows: tf.Tensor, *stored: tf.Tensor) -> list[Any]:
        """Write stored arrays [n, …] to rows int32 [n]; return the operations."""
        return [
            variable.scatter_update(tf.IndexedSlices(new, rows))
            for variable, new in zip(self._variables(), stored, strict=True)
        ]

    def grow(self, count: tf.Tensor) -> None:
        """Append `count` int32 [] rows of zeros."""
        for variable in self._variables():
            zeros = tf.zeros([count, variable.shape[1]], variable.dtype)
            # The variable has no static number of rows, so it can be assigned a larger value.
            variable.assign(tf.concat([variable.read_value(), zeros], axis=0))

    def replace(self, *stored: tf.Tensor) -> list[Any]:
        """Replace values, and scales if the form has them, of all rows; return the operations."""
        return [old.assign(new) for old, new in zip(self._variables(), stored, strict=True)]

    def _variables(self) -> list[tf.Variable]:
        return [self._values] if self._scales is None else [self._values, self._scales]

    def _decoded(self, values: tf.Tensor, scales: tf.Tensor | None = None) -> tf.Tensor:
        if scales is None:
            return tf.cast(values, tf.float32)
        if self._form is Form.INT4:
            # Two values a byte, the first one in the low bits; an odd width leaves one over.
            low = tf.bitwise.bitwise_and(values, tf.constant(15, tf.uint8))
            high = tf.bitwise.right_shift(values, tf.constant(4, tf.uint8))
            shape = [tf.shape(values)[0], 2 * values.shape[1]]
            values = tf.reshape(tf.stack([low, high], axis=2), shape)[:, : self._width]
        scale, shift = tf.split(tf.cast(scales, tf.float32), 2, axis=1)
        return tf.cast(values, tf.float32) * scale + shift


class StoredCodes(tf.Module):
    """A `Product` in a graph. Row 0 reads as zero, because entry 0 of every codebook is zero."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        pieces, entries, columns = product.codebook.shape
        self._width, self._padded_width = product.width, pieces * columns
        # The codebooks of all pieces are one list of entries; this is where each of them starts.
        self._first = (np.arange(pieces) * entries).astype(np.int32)
        self._codes = tf.Variable(np.pad(product.codes, ((1, 0), (0, 0))), trainable=False)
        self._entries = tf.Variable(product.codebook.reshape(-1, columns), trainable=False)

    def gather(self, rows: tf.Tensor) -> tf.Tensor:
        """Return float32 [n, width] of rows int [n]."""
        entries = tf.cast(tf.gather(self._codes, rows), tf.int32) + self._first
        padded = tf.reshape(tf.gather(self._entries, entries), [-1, self._padded_width])
        return tf.cast(padded[:, : self._width], tf.float32)


class StoredBand(tf.Module):
    """A `Band` in a graph."""

    def __init__(self, band: Band) -> None:
        super().__init__()
        matrix, projection = band.matrix, band.projection
        self.matrix = StoredCodes(matrix) if isinstance(matrix, Product) else StoredMatrix(matrix)
        self._projection = None if projection is None else tf.Variable(projection, trainable=False)

    def __call__(self, rows: tf.Tensor) -> tf.Tensor:
        """Return float32 [m, width] of the band's rows int32 [m]."""
        stored = self.matrix.gather(rows)
        return stored if self._projection is None else tf.matmul(stored, self._projection)


class StoredSlab(tf.Module):
    """A `PackedSlab` in a graph: rows 1 to N are its rows, row 0 is zero."""

    def __init__(self, slab: PackedSlab) -> None:
        super().__init__()
        self._bands = [StoredBand(band) for band in slab.bands]
        self._ends = np.cumsum([0, *(len(band.matrix) for band in slab.bands)]).tolist()

    def __call__(self, rows: tf.Tensor) -> tf.Tensor:
        """Return float32 [m, width] of rows int32 [m]."""
        if len(self._bands) == 1:
            return self._bands[0](rows)
        # Every band reads all rows, those of other bands as its own row 0, which is zero: the sum
        # selects without a branch.
        vectors = []
        for band, first, end in zip(self._bands, self._ends, self._ends[1:], strict=False):
            vectors.append(band(tf.where((rows > first) & (rows <= end), rows - first, 0)))
        return tf.add_n(vectors)

    def only_matrix(self) -> StoredMatrix:
        """Return the matrix of a slab of one band without projection and codebook."""
        (band,) = self._bands
        assert isinstance(band.matrix, StoredMatrix)
        return band.matrix


class StoredWeights(tf.Module):
    """Dense weights in a graph."""

    def __init__(self, weights: DenseWeights) -> None:
        super().__init__()
        self._plain, self._packed = {}, {}
        for name, weight in weights.items():
            if isinstance(weight, Matrix):
                self._packed[name] = StoredMatrix(weight, zero_row=False)
            else:
                variable_name = name.replace("/", "_")
                self._plain[name] = tf.Variable(weight, trainable=False, name=variable_name)

    def __call__(self) -> dict[str, Any]:
        """Return float32 weights by name."""
        return dict(self._plain) | {name: matrix.all() for name, matrix in self._packed.items()}

    def replace(self, arrays: Mapping[str, tf.Tensor]) -> list[Any]:
        """Set all weights from arrays named by `dense_name`; return the operations."""
        # Every weight is an input of a delta, so none keeps a value of the earlier content.
        operations = [
            variable.assign(arrays[dense_name(name)]) for name, variable in self._plain.items()
        ]
        for name, matrix in self._packed.items():
            operations += matrix.replace(*arrays_of(arrays, dense_name(name)))
        return operations


class RowTable(tf.Module):
    """Maps keys to rows, and rows to vectors; keys can change while it serves."""

    def __init__(self, rows: PackedRows) -> None:
        super().__init__()
        self._index = RowIndex(rows.keys)
        self._slabs = {name: StoredSlab(slab) for name, slab in rows.slabs.items()}
        # Rows of every slab, the zero row included, and which of them no key maps to.
        self._rows = tf.Variable(len(rows.keys) + 1, trainable=False, dtype=tf.int32)
        self._free = tf.Variable(tf.zeros([0], tf.int32), trainable=False, shape=[None])

    def __call__(self, keys: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return vectors float32 [m, width] by slab of keys int64 [m]; zeros for unknown keys."""
        rows = self._index(keys)
        # The lookup loses the static rank, and without it the vectors lose their width.
        rows.set_shape([None])
        return {name: slab(rows) for name, slab in self._slabs.items()}

    def change(
        self, keys: tf.Tensor, tombstones: tf.Tensor, stored: Mapping[str, Sequence[tf.Tensor]]
    ) -> Any:
        """Write new rows of keys and remove other keys; return the last operation.

        Works for slabs that have an `only_matrix`. A concurrent lookup reads a key's old row or
        its new one, never a mixture.

        Args:
            keys: int64 [n], distinct, new or known.
            tombstones: int64 [m], none of `keys`; unknown ones are ignored.
            stored: by slab values [n, …] and, for quantized rows, scales [n, 2], in stored form.
        """
        # 1. Remember the rows in use now, and take as many free rows as there are keys.
        old = tf.ensure_shape(self._index(tf.concat([keys, tombstones], axis=0)), [None])
        with tf.control_dependencies([old, self._reserve(tf.size(keys))]):
            rows, still_free = tf.split(self._free.read_value(), [tf.size(keys), -1])

        # 2. Write the free rows, which no key maps to.
        written = []
        for name, arrays in stored.items():
            written += self._slabs[name].only_matrix().write(rows, *arrays)

        # 3. Only now map the keys to them: a lookup never sees a row that is half written.
        with tf.control_dependencies(written):
            mapped = [self._index.assign(keys, rows), self._index.remove(tombstones)]

        # 4. The old rows become free for the next change. They must not be reused in this one,
        #    because a lookup that started before may still read them.
        with tf.control_dependencies(mapped):
            released = tf.unique(tf.boolean_mask(old, old > 0))[0]
            return self._free.assign(tf.concat([still_free, released], axis=0))

    def replace(self, rows: PackedRows) -> None:
        """Replace all keys and rows by others of the same slabs and forms."""
        self._index.replace(rows.keys)
        for name, slab in rows.slabs.items():
            self._slabs[name].only_matrix().replace(*with_zero_row(slab.only_matrix()))
        self._rows.assign(len(rows.keys) + 1)
        self._free.assign(tf.zeros([0], tf.int32))

    def size(self) -> tf.Tensor:
        """Return how many keys have a row, int64 []."""
        return self._index.size()

    def _reserve(self, wanted: tf.Tensor) -> tf.Tensor:
        """Make sure of `wanted` free rows; return how many there are."""
        missing = wanted - tf.size(self._free.read_value())
        return tf.cond(
            missing > 0, lambda: self._grow(missing), lambda: tf.size(self._free.read_value())
        )

    def _grow(self, least: tf.Tensor) -> tf.Tensor:
        rows = self._rows.read_value()
        # In blocks: growing copies the whole slab.
        more = tf.reduce_max([least, _MIN_BLOCK_ROWS, rows // _BLOCK_SHARE])
        for slab in self._slabs.values():
            slab.only_matrix().grow(more)
        free = tf.concat([self._free.read_value(), tf.range(rows, rows + more)], axis=0)
        assigned = self._free.assign(free, read_value=True)
        self._rows.assign(rows + more)
        return tf.size(assigned)


class VectorTable(tf.Module):
    """Maps keys to the concatenated float32 vectors of all slabs."""

    def __init__(self, rows: PackedRows) -> None:
        super().__init__()
        self._widths = {name: slab.width for name, slab in rows.slabs.items()}
        vectors = np.concatenate(list(rows.vectors().values()), axis=1)
        self._table = tf.lookup.experimental.MutableHashTable(
            tf.int64, tf.float32, tf.zeros(vectors.shape[1])
        )
        self._table.insert(tf.constant(rows.keys, tf.int64), tf.constant(vectors))

    def __call__(self, keys: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return vectors float32 [m, width] by slab of keys int64 [m]; zeros for unknown keys."""
        # The lookup loses the static width, which the model's first layers need.
        widths = list(self._widths.values())
        vectors = tf.ensure_shape(self._table.lookup(keys), [None, sum(widths)])
        return dict(zip(self._widths, tf.split(vectors, widths, axis=1), strict=True))


def table_of(rows: PackedRows, form: TableForm) -> RowTable | VectorTable:
    """Return a table in a form; a table without slabs has no vectors and is always `rows`."""
    return VectorTable(rows) if form == "vectors" and rows.slabs else RowTable(rows)


def arrays_of(arrays: Mapping[str, tf.Tensor], matrix: str) -> list[tf.Tensor]:
    """Return the named arrays of a matrix: values and, for quantized rows, scales."""
    return [arrays[name] for name in matrix_names(matrix) if name in arrays]


def with_zero_row(matrix: Matrix) -> list[NDArray[Any]]:
    """Return values, and scales if the form has them, behind a row that reads as zero."""
    arrays = _stored_arrays(matrix)
    return [np.concatenate([np.zeros((1, a.shape[1]), a.dtype), a]) for a in arrays]


def _stored_arrays(matrix: Matrix) -> list[NDArray[Any]]:
    return [matrix.values, matrix.scales] if matrix.scales.shape[1] else [matrix.values]
