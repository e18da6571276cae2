"""Stored rows and weights in a graph: gathered first, made float32 after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from compression.delta.changes import dense_name, matrix_names
from compression.export.coded import StoredCodes
from training.packed.dense import DenseWeights
from training.packed.matrix import Form, Matrix
from training.packed.product import Product
from training.packed.slab import Band, PackedSlab


class RowIndex(tf.Module):
    """int64 keys to rows of arrays whose row 0 is for unknown keys; TensorFlow's own hash table, saved with the model."""

    def __init__(self, keys: NDArray[np.int64]) -> None:
        super().__init__()
        self._table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int32, default_value=0)
        self.replace(keys)

    def replace(self, keys: NDArray[np.int64]) -> None:
        """Let these keys lead to rows 1 … N, and no others to any."""
        self._table.remove(self._table.export()[0])
        self._table.insert(tf.constant(keys, tf.int64), tf.range(1, len(keys) + 1, dtype=tf.int32))

    def __call__(self, keys: tf.Tensor) -> tf.Tensor:
        """Return the rows of keys, int32 in their shape."""
        return self._table.lookup(keys)

    def point(self, keys: tf.Tensor, rows: tf.Tensor) -> Any:
        """Let keys int64 [n], new or known, lead to rows int32 [n] from now on; return the operation."""
        return self._table.insert(keys, rows)

    def forget(self, keys: tf.Tensor) -> Any:
        """Let keys int64 [m] lead to row 0, as unknown ones do; return the operation."""
        return self._table.remove(keys)

    def size(self) -> tf.Tensor:
        """Return how many keys are known, int64 []."""
        return self._table.size()


class StoredMatrix(tf.Module):
    """A `Matrix` in a graph, behind a row 0 that reads as zero.

    Args:
        matrix: what is stored.
        zero_row: whether a row 0 is put before it.
    """

    def __init__(self, matrix: Matrix, zero_row: bool = True) -> None:
        super().__init__()
        self._form, self._width = matrix.form, matrix.width
        first, rows = (
            int(zero_row),
            None if zero_row else len(matrix),
        )  # a slab may get more rows while it serves
        self._values = _variable(_behind_zeros(matrix.values, first), rows)
        self._scales = (
            _variable(_behind_zeros(matrix.scales, first), rows) if matrix.scales.shape[1] else None
        )

    def gather(self, rows: tf.Tensor) -> tf.Tensor:
        """Return float32 [m, width] of rows int [m]."""
        scales = None if self._scales is None else tf.gather(self._scales, rows)
        return self._decoded(tf.gather(self._values, rows), scales)

    def all(self) -> tf.Tensor:
        """Return float32 [N, width], all rows."""
        return self._decoded(self._values.value(), self._scales)

    def write(self, rows: tf.Tensor, *stored: tf.Tensor) -> list[Any]:
        """Write values, and scales if it has them, [n, …] as stored, to rows int32 [n]; return the operations."""
        return [
            v.scatter_update(tf.IndexedSlices(new, rows))
            for v, new in zip(self._variables(), stored, strict=True)
        ]

    def grow(self, count: tf.Tensor) -> None:
        """Add rows of zeros, int32 [] of them."""
        for variable in self._variables():
            zeros = tf.zeros([count, variable.shape[1]], variable.dtype)
            variable.assign(tf.concat([variable.read_value(), zeros], axis=0))

    def replace(self, *stored: tf.Tensor) -> list[Any]:
        """Write values, and scales if it has them, of all rows; return the operations."""
        return [
            variable.assign(new) for variable, new in zip(self._variables(), stored, strict=True)
        ]

    def _variables(self) -> list[tf.Variable]:
        return [self._values] if self._scales is None else [self._values, self._scales]

    def _decoded(self, values: tf.Tensor, scales: Any) -> tf.Tensor:
        if scales is None:
            return tf.cast(values, tf.float32)
        codes = _one_a_byte(values, self._width) if self._form is Form.INT4 else values
        scale, shift = tf.split(tf.cast(scales, tf.float32), 2, axis=1)
        return tf.cast(codes, tf.float32) * scale + shift


class StoredSlab(tf.Module):
    """A `PackedSlab` in a graph: rows 1 … N are its rows, row 0 is zero."""

    def __init__(self, slab: PackedSlab) -> None:
        super().__init__()
        self._bands = [StoredBand(band) for band in slab.bands]
        self._ends = np.cumsum([0, *(len(band.matrix) for band in slab.bands)]).tolist()

    def __call__(self, rows: tf.Tensor) -> tf.Tensor:
        """Return float32 [m, width] of rows int32 [m]."""
        if len(self._bands) == 1:
            return self._bands[0](rows)
        return tf.add_n(
            [band(self._within(rows, number)) for number, band in enumerate(self._bands)]
        )

    def only_matrix(self) -> StoredMatrix:
        """Return what a slab of one band without projection and codebook is stored in."""
        (band,) = self._bands
        assert isinstance(band.matrix, StoredMatrix)
        return band.matrix

    def _within(self, rows: tf.Tensor, number: int) -> tf.Tensor:
        """Rows int32 [m] as those of one band; its row 0, which is zero, for the other bands' rows."""
        first, end = self._ends[number], self._ends[number + 1]
        return tf.where((rows > first) & (rows <= end), rows - first, 0)


class StoredBand(tf.Module):
    """A `Band` in a graph."""

    def __init__(self, band: Band) -> None:
        super().__init__()
        self.matrix = (
            StoredCodes(band.matrix)
            if isinstance(band.matrix, Product)
            else StoredMatrix(band.matrix)
        )
        self._projection = (
            None if band.projection is None else tf.Variable(band.projection, trainable=False)
        )

    def __call__(self, rows: tf.Tensor) -> tf.Tensor:
        """Return float32 [m, width] of the band's rows int32 [m]."""
        stored = self.matrix.gather(rows)
        return stored if self._projection is None else tf.matmul(stored, self._projection)


class StoredWeights(tf.Module):
    """Dense weights in a graph."""

    def __init__(self, weights: DenseWeights) -> None:
        super().__init__()
        self._plain = {
            n: tf.Variable(w, trainable=False, name=_named(n)) for n, w in _plain(weights).items()
        }
        self._packed = {
            n: StoredMatrix(w, zero_row=False) for n, w in weights.items() if isinstance(w, Matrix)
        }

    def __call__(self) -> dict[str, Any]:
        """Return float32 weights by name."""
        return dict(self._plain) | {name: matrix.all() for name, matrix in self._packed.items()}

    def replace(self, arrays: Mapping[str, tf.Tensor]) -> list[Any]:
        """Set all weights from arrays named as in `compression.delta.changes`; return the operations."""
        plain = [
            variable.assign(arrays[dense_name(name)]) for name, variable in self._plain.items()
        ]
        packed = [
            matrix.replace(*arrays_of(arrays, dense_name(name)))
            for name, matrix in self._packed.items()
        ]
        return [*plain, *(operation for operations in packed for operation in operations)]


def arrays_of(arrays: Mapping[str, tf.Tensor], matrix: str) -> list[tf.Tensor]:
    """Return the arrays of a matrix, values first, out of named ones; only quantized rows have scales."""
    return [arrays[name] for name in matrix_names(matrix) if name in arrays]


def behind_zero_row(matrix: Matrix) -> list[NDArray[Any]]:
    """Return values, and scales if it has them, of a matrix behind a row that reads as zero."""
    return [_behind_zeros(array, 1) for array in (matrix.values, matrix.scales) if array.shape[1]]


def _variable(values: NDArray[Any], rows: int | None) -> tf.Variable:
    return tf.Variable(values, trainable=False, shape=[rows, values.shape[1]])


def _plain(weights: DenseWeights) -> dict[str, NDArray[Any]]:
    return {name: weight for name, weight in weights.items() if not isinstance(weight, Matrix)}


def _named(weight: str) -> str:
    return weight.replace("/", "_")


def _one_a_byte(packed: tf.Tensor, width: int) -> tf.Tensor:
    pairs = tf.stack(
        [
            tf.bitwise.bitwise_and(packed, tf.constant(15, tf.uint8)),
            tf.bitwise.right_shift(packed, tf.constant(4, tf.uint8)),
        ],
        axis=2,
    )
    return tf.reshape(pairs, [tf.shape(packed)[0], 2 * packed.shape[1]])[:, :width]


def _behind_zeros(rows: NDArray[Any], count: int) -> NDArray[Any]:
    return np.concatenate([np.zeros((count, rows.shape[1]), rows.dtype), rows])
