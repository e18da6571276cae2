"""A slab in host memory: one pass over the touched rows a step, in compiled kernels over disjoint ranges of rows.

The same work in TensorFlow's own CPU kernels (gather, segment sum, a dozen elementwise operations, scatter) takes several
times as long: docs/measurements.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import psutil
from numba import literally
from numpy.typing import NDArray

from elastic_embeddings.batch import Batch
from elastic_embeddings.core.native import compiled, prefetch, release, reserved, split_rows
from elastic_embeddings.core.row_vectors import copy_vector, lanes_of
from elastic_embeddings.core.scratch import scratch
from elastic_embeddings.optimizers.rounding import decode, encode, storage_dtype
from elastic_embeddings.slabs.slab import SlabSpec, initial_vectors, state_width

_MAX_ROWS = 2**31 - 1
_ROWS_A_THREAD = 2048
_AHEAD = 48  # rows on their way from memory


class HostSlab:
    """Rows in NumPy arrays over reserved memory: address space for as many rows as the machine's memory could hold.

    Pages are committed when a row is first written, so growth copies nothing and costs no stop.

    Attributes:
        spec: what the slab is made of.
    """

    def __init__(self, spec: SlabSpec) -> None:
        self.spec = spec
        dtype, state = storage_dtype(spec.dtype), state_width(spec)
        rows = min(
            psutil.virtual_memory().total // ((spec.dim + state) * dtype.itemsize), _MAX_ROWS
        )
        self._weights = reserved((rows, spec.dim), dtype)
        self._state = reserved((rows, state), dtype)
        self._weights[0] = encode(np.full(spec.dim, spec.fallback, np.float32), spec.dtype)

    def ensure(self, rows: int) -> None:
        """Make room for rows up to and including `rows`.

        Raises:
            MemoryError: they are more than the machine's memory can hold.
        """
        if rows >= len(self._weights):
            raise MemoryError(
                f"{rows} rows of width {self.spec.dim} are more than this machine's memory holds: evict, or shard"
            )

    def initialise(self, rows: NDArray[np.int32], keys: NDArray[np.int64], seed: int) -> None:
        """Write the initial vectors of rows int32 [k], which depend on keys int64 [k] and the seed alone, and fresh state."""
        vectors = initial_vectors(keys, self.spec, seed)
        self._weights[rows] = encode(vectors, self.spec.dtype)
        self._state[rows] = encode(self.spec.optimizer.initial_state(vectors), self.spec.dtype)

    def gather(self, batch: Batch) -> NDArray[np.float32]:
        """Return the vectors float32 [n, dim] of a batch's keys; zeros where a key has no row."""
        return self._gathered(batch.rows, batch.inverse)

    def vectors(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the vectors float32 [k, dim] of rows int32 [k]."""
        return self._gathered(rows, np.arange(len(rows), dtype=np.int32))

    def apply(self, batch: Batch, gradients: Any, step: int) -> None:
        """Take one optimizer step on the batch's rows; gradients float32 [n, dim] of repeated keys add up."""
        kernel = self.spec.optimizer.row_kernel(self.spec.dim, step, self.spec.dtype)
        summed = np.ascontiguousarray(gradients, np.float32).reshape(len(batch), self.spec.dim)
        arrays = (
            self._weights,
            self._state,
            batch.rows,
            batch.order,
            batch.offsets,
            summed,
            batch.counts,
        )
        split_rows(
            lambda low, high: kernel(*arrays, low, high), len(batch.rows), at_least=_ROWS_A_THREAD
        )

    def read_weights(self, rows: NDArray[np.int32]) -> NDArray[Any]:
        """Return weights [k, dim] of rows int32 [k], as stored (bfloat16 as uint16 bits)."""
        return self._weights[rows]

    def read_state(self, rows: NDArray[np.int32], columns: slice) -> NDArray[Any]:
        """Return columns of the packed state [k, c] of rows int32 [k], as stored."""
        return self._state[rows, columns]

    def write(self, rows: NDArray[np.int32], weights: NDArray[Any], state: NDArray[Any]) -> None:
        """Write weights [k, dim] and packed state [k, S] of rows int32 [k], as stored."""
        self._weights[rows], self._state[rows] = weights, state

    def compact(self, old_rows: NDArray[np.int32]) -> None:
        """Move row `old_rows[i]` to row i + 1, for ascending int32 [k], and give the memory behind row k back."""
        for array in (self._weights, self._state):
            for start in range(0, len(old_rows), _BLOCK):
                block = old_rows[start : start + _BLOCK]
                array[start + 1 : start + 1 + len(block)] = array[block]
            release(array, len(old_rows) + 1)

    def nbytes(self, rows: int) -> tuple[int, int]:
        """Return the bytes of weights and of optimizer state that `rows` rows hold."""
        return (rows + 1) * self._weights[:1].nbytes, (rows + 1) * self._state[:1].nbytes

    def _gathered(self, rows: NDArray[np.int32], inverse: NDArray[np.int32]) -> NDArray[np.float32]:
        out = scratch((len(inverse), self.spec.dim), self._weights.dtype)
        kernel, arrays = (
            _gather(self.spec.dim),
            (self._weights.reshape(-1), rows, inverse, out.reshape(-1)),
        )
        split_rows(
            lambda low, high: kernel(*arrays, low, high), len(inverse), at_least=4 * _ROWS_A_THREAD
        )
        return decode(out, self.spec.dtype)


_BLOCK = 1 << 16
"""Rows that are moved at once."""


@lru_cache
def _gather(width: int) -> Callable[..., None]:
    """Return the compiled copy of rows of this width: a constant, or the inner loop is scalar and four times slower."""
    lanes = lanes_of(width)

    @compiled
    def gather(
        flat: NDArray[Any],
        rows: NDArray[np.int32],
        inverse: NDArray[np.int32],
        out: NDArray[Any],
        low: int,
        high: int,
    ) -> None:
        """Copy the rows of places inverse[low:high] to `out`, all flat."""
        for i in range(low, high):
            if i + _AHEAD < high:
                prefetch(flat, np.int64(rows[inverse[i + _AHEAD]]) * width)
            start = np.int64(rows[inverse[i]]) * width
            for j in range(0, width, lanes):
                copy_vector(out, i * width + j, flat, start + j, literally(lanes))

    return gather
