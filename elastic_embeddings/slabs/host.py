"""A slab in host memory: one pass over a step's rows, in compiled kernels over ranges of rows.

TensorFlow's own CPU kernels (gather, segment sum, a dozen elementwise operations, scatter) take
several times as long: docs/results/elastic-table.md.
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
from elastic_embeddings.core.memory import release, reserved, scratch_array
from elastic_embeddings.core.native import compiled, copy_vector, lanes_of, prefetch
from elastic_embeddings.core.threads import split_rows
from elastic_embeddings.optimizers.row_storage import decode, encode, storage_dtype
from elastic_embeddings.slabs.slab import SlabSpec, initial_vectors, state_width

_MAX_ROWS = 2**31 - 1
_ROWS_PER_THREAD = 2048
_ROWS_AHEAD = 48  # rows that are prefetched
_ROWS_PER_MOVE = 1 << 16  # of compaction, to bound the memory of its copy


class HostSlab:
    """Rows in NumPy arrays over reserved address space for as many rows as the machine can hold.

    Memory is committed when a row is first written, so growth copies nothing.

    Attributes:
        spec: specification of the slab.
    """

    def __init__(self, spec: SlabSpec) -> None:
        self.spec = spec
        dtype, state = storage_dtype(spec.dtype), state_width(spec)
        row_bytes = (spec.dim + state) * dtype.itemsize
        rows = min(psutil.virtual_memory().total // row_bytes, _MAX_ROWS)
        self._weights = reserved((rows, spec.dim), dtype)
        self._state = reserved((rows, state), dtype)
        self._weights[0] = encode(np.full(spec.dim, spec.fallback, np.float32), spec.dtype)

    def ensure(self, rows: int) -> None:
        """Check that the slab can hold rows up to and including `rows`.

        Raises:
            MemoryError: they are more than the machine's memory can hold.
        """
        if rows >= len(self._weights):
            raise MemoryError(
                f"{rows} rows of width {self.spec.dim} are more than this machine's memory holds: "
                "evict, or shard"
            )

    def initialise(self, rows: NDArray[np.int32], keys: NDArray[np.int64], seed: int) -> None:
        """Write the initial vectors and state of rows int32 [k] with keys int64 [k]."""
        vectors = initial_vectors(keys, self.spec, seed)
        self._weights[rows] = encode(vectors, self.spec.dtype)
        self._state[rows] = encode(self.spec.optimizer.initial_state(vectors), self.spec.dtype)

    def gather(self, batch: Batch) -> NDArray[np.float32]:
        """Return the vectors float32 [n, dim] of a batch's keys."""
        return self._gather(batch.rows, batch.inverse)

    def vectors(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the vectors float32 [k, dim] of rows int32 [k]."""
        return self._gather(rows, np.arange(len(rows), dtype=np.int32))

    def apply(self, batch: Batch, gradients: Any, step: int, seed: int) -> None:
        """Run one optimizer step on the batch's rows; see `Slab.apply`."""
        kernel = self.spec.optimizer.row_kernel(self.spec.dim, step, self.spec.dtype, seed)
        summed = np.ascontiguousarray(gradients, np.float32).reshape(len(batch), self.spec.dim)
        occurrences = (batch.rows, batch.keys, batch.order, batch.offsets, summed, batch.counts)
        arrays = (self._weights, self._state, *occurrences)
        # The rows are distinct, so several threads can update ranges of them.
        split_rows(kernel, len(batch.rows), *arrays, at_least=_ROWS_PER_THREAD)

    def read_weights(self, rows: NDArray[np.int32]) -> NDArray[Any]:
        """Return weights [k, dim] of rows int32 [k], as stored (16-bit types as uint16 bits)."""
        return self._weights[rows]

    def read_state(self, rows: NDArray[np.int32], columns: slice) -> NDArray[Any]:
        """Return columns of the packed state [k, c] of rows int32 [k], as stored."""
        return self._state[rows, columns]

    def write(self, rows: NDArray[np.int32], weights: NDArray[Any], state: NDArray[Any]) -> None:
        """Write weights [k, dim] and packed state [k, S] of rows int32 [k], as stored."""
        self._weights[rows], self._state[rows] = weights, state

    def compact(self, old_rows: NDArray[np.int32]) -> None:
        """Move row `old_rows[i]` to row i + 1 and free the rows above k; ascending int32 [k]."""
        for array in (self._weights, self._state):
            # Rows only move down, so no block overwrites rows that a later block reads.
            for start in range(0, len(old_rows), _ROWS_PER_MOVE):
                block = old_rows[start : start + _ROWS_PER_MOVE]
                array[start + 1 : start + 1 + len(block)] = array[block]
            release(array, len(old_rows) + 1)

    def nbytes(self, rows: int) -> tuple[int, int]:
        """Return the bytes of weights and of optimizer state of a slab with `rows` rows."""
        # One more: row 0, the fallback.
        return (rows + 1) * self._weights[:1].nbytes, (rows + 1) * self._state[:1].nbytes

    def _gather(self, rows: NDArray[np.int32], inverse: NDArray[np.int32]) -> NDArray[np.float32]:
        out = scratch_array((len(inverse), self.spec.dim), self._weights.dtype)
        kernel = _gather_kernel(self.spec.dim)
        arrays = (self._weights.reshape(-1), rows, inverse, out.reshape(-1))
        split_rows(kernel, len(inverse), *arrays, at_least=4 * _ROWS_PER_THREAD)
        return decode(out, self.spec.dtype)


@lru_cache
def _gather_kernel(width: int) -> Callable[..., None]:
    """Return the compiled gather of rows of one width."""
    # The width is a constant of the kernel; with a variable one the inner loop would be scalar and
    # four times slower.
    lanes = lanes_of(width)

    @compiled
    def gather(
        flat: NDArray[Any],
        rows: NDArray[np.int32],
        inverse: NDArray[np.int32],
        out: NDArray[Any],
        begin: int,
        end: int,
    ) -> None:
        for i in range(begin, end):
            if i + _ROWS_AHEAD < end:
                prefetch(flat, np.int64(rows[inverse[i + _ROWS_AHEAD]]) * width)
            start = np.int64(rows[inverse[i]]) * width
            for column in range(0, width, lanes):
                copy_vector(out, i * width + column, flat, start + column, literally(lanes))

    return gather
