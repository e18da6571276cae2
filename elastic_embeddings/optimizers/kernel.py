"""The update of rows in host memory, fused: sum of gradients, rule, proximal step, write. One compiled loop per rule.

A block of rows at a time is copied into scratch memory that fits the first cache, worked on in flat loops, and copied
back, while the next block's rows are on their way from memory. Rows take no notice of their neighbours, so the result
does not depend on how a batch is cut into ranges for threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import literally
from numpy.typing import NDArray

from elastic_embeddings.core.native import compiled, prefetch
from elastic_embeddings.core.row_vectors import add_vector, lanes_of
from elastic_embeddings.errors import InputError
from elastic_embeddings.optimizers.elementwise import inlined
from elastic_embeddings.optimizers.proximal import (
    divide,
    frequency_factor,
    missed_steps,
    shrink_closed,
    shrink_exact,
    soften,
)
from elastic_embeddings.optimizers.rounding import Storage, row_stream
from elastic_embeddings.optimizers.row_block import AREA, CURVATURE, LINEAR, SLOTS, Block
from elastic_embeddings.optimizers.row_storage import ROW_STORAGE

_LINE = 16  # float32 in a cache line
_AHEAD = 48  # gradients on their way from memory

RowKernel = Callable[..., None]
Stored = NDArray[Any]


class Penalties(NamedTuple):
    """Strengths of one step, float32: l1, 2 l2, l21 √dim, C and N of `DynamicL1` (C = 0: l1 as it is), decay and its step."""

    l1: np.float32
    twice_l2: np.float32
    threshold: np.float32
    multiple: np.float32
    min_count: np.float32
    decay: np.float32
    decay_steps: np.float32
    step: np.float32


@dataclass(frozen=True)
class Layout:
    """What a kernel is compiled for.

    Attributes:
        advance: the rule on a block, of `elastic_embeddings.optimizers.row_block`.
        slots: how many areas of state there are.
        width: elements of each in a row: `dim`, or 1.
        dim: width of the vectors.
        exact: the exact proximal step, or the closed form.
        storage: of weights and state.
    """

    advance: Callable[..., None]
    slots: int
    width: int
    dim: int
    exact: bool
    storage: Storage

    def __post_init__(self) -> None:
        if not 1 <= self.dim <= AREA:
            raise InputError(
                f"the row kernels serve widths of 1 to {AREA}, not {self.dim}: split the vector over several slabs"
            )


@lru_cache
def update_kernel(layout: Layout) -> RowKernel:
    """Return the compiled update of rows.

    Its arguments: the rule's numbers, `Penalties`, the salt of stochastic rounding uint64, then weights [N, dim],
    state [N, slots · width], rows int32 [U], order int32 [n], offsets int32 [U + 1], gradients float32 [n, dim],
    counts int32 [U] (read only if C > 0 or decay > 0), and the range lo, hi of U to update.
    """
    advance, (read, write), shrink = (
        layout.advance,
        ROW_STORAGE[layout.storage],
        shrink_exact if layout.exact else shrink_closed,
    )
    dim, lanes, slots, width = layout.dim, lanes_of(layout.dim), layout.slots, layout.width
    slot_lanes, a_block = lanes_of(width), AREA // dim

    @compiled
    def update(
        numbers: Any,
        penalties: Penalties,
        salt: np.uint64,
        weights: Stored,
        state: Stored,
        rows: NDArray[np.int32],
        order: NDArray[np.int32],
        offsets: NDArray[np.int32],
        gradients: NDArray[np.float32],
        counts: NDArray[np.int32],
        lo: int,
        hi: int,
    ) -> None:
        """Update places lo … hi - 1."""
        b = np.zeros(SLOTS + slots * AREA, np.float32)
        vectors, states, flat_gradients = (
            weights.reshape(-1),
            state.reshape(-1),
            gradients.reshape(-1),
        )
        for first in range(lo, hi, a_block):
            last = min(first + a_block, hi)
            _load(b, 0, vectors, rows, first, last, 1, dim, lanes, read)
            _load(b, SLOTS, states, rows, first, last, slots, width, slot_lanes, read)
            _decay(b, penalties, counts, first, last, dim)
            for u in range(first, last):
                # a row of the next block at a time: a core waits when it has asked for two dozen cache lines at once
                _ask(vectors, rows[min(u + a_block, hi - 1)], dim)
                _ask(states, rows[min(u + a_block, hi - 1)], slots * width)
                _sum_gradients(
                    b,
                    LINEAR + (u - first) * dim,
                    flat_gradients,
                    rows,
                    order,
                    offsets,
                    u,
                    dim,
                    lanes,
                )
            advance(numbers, b, last - first, dim)
            _penalise(b, penalties, counts, first, last, dim)
            for r in range(last - first):
                shrink(b, r * dim, dim, lanes, penalties.threshold)
            divide(b, (last - first) * dim)
            _save(vectors, b, 0, rows, first, last, 1, dim, lanes, write, salt, 0)
            _save(states, b, SLOTS, rows, first, last, slots, width, slot_lanes, write, salt, dim)

    return update


@inlined
def _ask(stored: Stored, row: np.int32, width: int) -> None:
    """Prefetch a row of `width` numbers."""
    for c in range(0, width, _LINE):
        prefetch(stored, np.int64(row) * width + c)


@inlined
def _load(
    b: Block,
    area: int,
    stored: Stored,
    rows: NDArray[np.int32],
    first: int,
    last: int,
    slots: int,
    width: int,
    lanes: int,
    read: Callable[..., None],
) -> None:
    """Spread stored rows of `slots` · `width` numbers over the areas from `area` on."""
    for u in range(first, last):
        start, at = np.int64(rows[u]) * slots * width, area + (u - first) * width
        for s in range(slots):
            read(b, at + s * AREA, stored, start + s * width, width, lanes)


@inlined
def _save(
    stored: Stored,
    b: Block,
    area: int,
    rows: NDArray[np.int32],
    first: int,
    last: int,
    slots: int,
    width: int,
    lanes: int,
    write: Callable[..., None],
    salt: np.uint64,
    column: int,
) -> None:
    """Write back what `_load` read, but for row 0; `column` is where these numbers' draws begin."""
    for u in range(first, last):
        row, at = np.int64(rows[u]), area + (u - first) * width
        if row > 0:
            stream = row_stream(salt, row)
            for s in range(slots):
                write(
                    stored,
                    (row * slots + s) * width,
                    b,
                    at + s * AREA,
                    width,
                    lanes,
                    stream,
                    column + s * width,
                )


@inlined
def _sum_gradients(
    b: Block,
    at: int,
    gradients: NDArray[np.float32],
    rows: NDArray[np.int32],
    order: NDArray[np.int32],
    offsets: NDArray[np.int32],
    u: int,
    dim: int,
    lanes: int,
) -> None:
    """Add the gradients of a row's occurrences to the block from `at` on, in their order; row 0 may have many, and needs none."""
    end = offsets[u + 1] if rows[u] > 0 else offsets[u]
    for i in range(offsets[u], end):
        ahead = np.int64(order[min(i + _AHEAD, len(order) - 1)]) * dim
        for c in range(0, dim, _LINE):
            prefetch(gradients, ahead + c)
        for c in range(0, dim, lanes):
            add_vector(b, at + c, gradients, np.int64(order[i]) * dim + c, literally(lanes))


@inlined
def _decay(
    b: Block, penalties: Penalties, counts: NDArray[np.int32], first: int, last: int, dim: int
) -> None:
    """Let the linear terms, to which the gradients are added next, begin at decay · x."""
    if penalties.decay == 0:
        b[LINEAR : LINEAR + (last - first) * dim] = 0
        return
    for u in range(first, last):
        steps = missed_steps(
            penalties.step, np.float32(counts[u]), penalties.decay_steps, np.float32(1)
        )
        for i in range((u - first) * dim, (u - first + 1) * dim):
            b[LINEAR + i] = penalties.decay * np.float32(steps) * b[i]


@inlined
def _penalise(
    b: Block, penalties: Penalties, counts: NDArray[np.int32], first: int, last: int, dim: int
) -> None:
    """Add 2 l2 to the curvatures, and soft-threshold the linear terms."""
    for i in range((last - first) * dim):
        b[CURVATURE + i] += penalties.twice_l2
    if penalties.multiple == 0:
        soften(b, 0, (last - first) * dim, penalties.l1)
        return
    for u in range(first, last):
        factor = frequency_factor(np.float32(counts[u]), penalties.multiple, penalties.min_count)
        soften(b, (u - first) * dim, (u - first + 1) * dim, penalties.l1 * np.float32(factor))
