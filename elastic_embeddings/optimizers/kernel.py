"""The update of rows in host memory, fused into one compiled loop per rule.

A block of rows at a time is copied into scratch memory that fits the first-level cache, updated
there in flat loops, and copied back. The rows of the next block are prefetched meanwhile.
A row's result does not depend on its neighbours, so a batch can be split over threads anywhere.

The scratch memory is one flat float32 array of areas of `AREA` elements: weights, linear terms,
curvatures, then one area per slot of the state. Element j of the block's r-th row is at
r · dim + j of each area. All offsets are constants, so the compiler knows that areas do not
overlap and vectorises every loop over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import literally
from numpy.typing import NDArray

from elastic_embeddings.core.native import (
    add_vector,
    compiled,
    inlined,
    lanes_of,
    prefetch,
    sum_of_squares,
)
from elastic_embeddings.optimizers import formulas
from elastic_embeddings.optimizers.formulas import (
    AdamConstants,
    FtrlConstants,
    RowwiseConstants,
    Value,
)
from elastic_embeddings.optimizers.proximal import NEWTON_STEPS
from elastic_embeddings.optimizers.row_storage import (
    ROW_STORAGE,
    Block,
    Storage,
    Stored,
    key_stream,
)

# 2 KiB. The seven areas of AMSGrad, the rule with the most slots, take 14 KiB.
AREA = 512
WEIGHTS_AT = 0
LINEAR_AT = AREA
CURVATURE_AT = 2 * AREA
STATE_AT = 3 * AREA
_SLOT_0_AT, _SLOT_1_AT, _SLOT_2_AT, _SLOT_3_AT = (STATE_AT + slot * AREA for slot in range(4))

_LINE = 16  # float32 in a cache line
_GRADIENTS_AHEAD = 48  # gradients that are prefetched
_CONVERGED = np.float32(1e-4)  # relative size of the last Newton step; its square is the error

BlockRule = Callable[..., None]
RowKernel = Callable[..., None]
Copy = Callable[..., None]  # of `RowStorage`
Int32s = NDArray[np.int32]


class Penalties(NamedTuple):
    """The penalties of one step, float32.

    Attributes:
        l1, twice_l2: strengths of ‖x‖₁, and of ‖x‖₂² times 2.
        threshold: l21 √dim.
        multiple, min_count: C and N of `DynamicL1`; C = 0: l1 is the same for all rows.
        decay, decay_steps: as in `Optimizer`; decay = 0: none.
        step: 1 at the first step.
    """

    l1: np.float32
    twice_l2: np.float32
    threshold: np.float32
    multiple: np.float32
    min_count: np.float32
    decay: np.float32
    decay_steps: np.float32
    step: np.float32


@lru_cache
def update_kernel(
    block_rule: BlockRule, slots: int, width: int, dim: int, exact: bool, storage: Storage
) -> RowKernel:
    """Return the compiled update of rows.

    Its arguments are the rule's constants, `Penalties`, the salt of stochastic rounding (uint64),
    and those of the result of `Optimizer.row_kernel`. Counts are read only if C > 0 or decay > 0.

    Args:
        block_rule: the rule on a block, such as `adam_block`.
        slots: number of slots of the state.
        width: elements of a row's slot: `dim` or 1.
        dim: width of the vectors, at most `AREA`.
        exact: the exact proximal step, or the closed form.
        storage: of weights and state.
    """
    read, write = ROW_STORAGE[storage]
    # Chosen outside of the loop: each kernel is compiled with one of the two.
    shrink = (shrink_closed, shrink_exact)[exact]
    lanes, slot_lanes, rows_per_block = lanes_of(dim), lanes_of(width), AREA // dim

    @compiled
    def update(
        constants: Any,
        penalties: Penalties,
        salt: np.uint64,
        weights: Stored,
        state: Stored,
        rows: Int32s,
        keys: NDArray[np.int64],
        order: Int32s,
        offsets: Int32s,
        gradients: NDArray[np.float32],
        counts: Int32s,
        begin: int,
        end: int,
    ) -> None:
        scratch = np.zeros(STATE_AT + slots * AREA, np.float32)
        weights, state, gradients = weights.reshape(-1), state.reshape(-1), gradients.reshape(-1)
        for first in range(begin, end, rows_per_block):
            last = min(first + rows_per_block, end)

            # 1. Load the rows. Row 0 is loaded like any other, but never written back.
            for i in range(first, last):
                at, slot_at = WEIGHTS_AT + (i - first) * dim, STATE_AT + (i - first) * width
                _load(scratch, at, weights, rows[i], 1, dim, lanes, read)
                _load(scratch, slot_at, state, rows[i], slots, width, slot_lanes, read)

            # 2. Linear terms: weight decay, then the gradients of the row's occurrences. One row of
            #    the next block is prefetched at a time: a core stalls when it has requested some
            #    two dozen cache lines at once.
            _start_linear_terms(scratch, penalties, counts, first, last, dim)
            for i in range(first, last):
                next_row = rows[min(i + rows_per_block, end - 1)]
                _prefetch_row(weights, next_row, dim)
                _prefetch_row(state, next_row, slots * width)
                # Row 0 may have most of the occurrences, and is not trained: skip them.
                stop = offsets[i + 1] if rows[i] > 0 else offsets[i]
                at = LINEAR_AT + (i - first) * dim
                _add_gradients(scratch, at, gradients, order, offsets[i], stop, dim, lanes)

            # 3. The rule, which leaves linear terms and curvatures.
            block_rule(constants, scratch, last - first, dim)

            # 4. The proximal step: L2, soft threshold, group shrinkage, division by the curvature.
            _penalise(scratch, penalties, counts, first, last, dim)
            for row in range(last - first):
                shrink(scratch, row * dim, dim, lanes, penalties.threshold)
            divide(scratch, (last - first) * dim)

            # 5. Write back. The random bits of the state's columns follow those of the weights.
            for i in range(first, last):
                at, slot_at = WEIGHTS_AT + (i - first) * dim, STATE_AT + (i - first) * width
                # By the key, which a row keeps for life: its number changes at a restore.
                stream = key_stream(salt, keys[order[offsets[i]]])
                _save(weights, rows[i], scratch, at, 1, dim, lanes, write, stream, 0)
                _save(
                    state, rows[i], scratch, slot_at, slots, width, slot_lanes, write, stream, dim
                )

    return update


@inlined
def _prefetch_row(stored: Stored, row: int, width: int) -> None:
    for column in range(0, width, _LINE):
        prefetch(stored, np.int64(row) * width + column)


@inlined
def _load(
    scratch: Block, at: int, slab: Stored, row: int, slots: int, width: int, lanes: int, read: Copy
) -> None:
    """Spread the `slots` · `width` numbers of a stored row over as many areas."""
    for slot in range(slots):
        start = (np.int64(row) * slots + slot) * width
        read(scratch, at + slot * AREA, slab, start, width, lanes)


@inlined
def _save(
    slab: Stored,
    row: int,
    scratch: Block,
    at: int,
    slots: int,
    width: int,
    lanes: int,
    write: Copy,
    stream: np.uint64,
    draw: int,
) -> None:
    """Write back what `_load` read; `draw` is the first column of the random bits."""
    if row > 0:  # row 0 is the fallback of keys without a row: it is never trained
        for slot in range(slots):
            start, column = (np.int64(row) * slots + slot) * width, draw + slot * width
            write(slab, start, scratch, at + slot * AREA, width, lanes, stream, column)


@inlined
def _add_gradients(
    scratch: Block,
    at: int,
    gradients: Block,
    order: Int32s,
    start: int,
    end: int,
    dim: int,
    lanes: int,
) -> None:
    """Add the gradients of the occurrences order[start:end], in this order, from `at` on."""
    for i in range(start, end):
        _prefetch_row(gradients, order[min(i + _GRADIENTS_AHEAD, len(order) - 1)], dim)
        for column in range(0, dim, lanes):
            source = np.int64(order[i]) * dim + column
            add_vector(scratch, at + column, gradients, source, literally(lanes))


@inlined
def _start_linear_terms(
    scratch: Block, penalties: Penalties, counts: Int32s, first: int, last: int, dim: int
) -> None:
    """Set the linear terms to decay · x; the gradients are added to them."""
    if penalties.decay == 0:
        scratch[LINEAR_AT : LINEAR_AT + (last - first) * dim] = 0
        return
    for row in range(last - first):
        count, one = np.float32(counts[first + row]), np.float32(1)
        multiple = formulas.decay_multiple(penalties.step, count, penalties.decay_steps, one)
        for i in range(row * dim, (row + 1) * dim):
            scratch[LINEAR_AT + i] = penalties.decay * np.float32(multiple) * scratch[i]


@inlined
def _penalise(
    scratch: Block, penalties: Penalties, counts: Int32s, first: int, last: int, dim: int
) -> None:
    """Add 2 l2 to the curvatures, and apply l1 to the linear terms."""
    for i in range((last - first) * dim):
        scratch[CURVATURE_AT + i] += penalties.twice_l2
    if penalties.multiple == 0:
        soft_threshold(scratch, 0, (last - first) * dim, penalties.l1)
        return
    for row in range(last - first):
        count = np.float32(counts[first + row])
        factor = formulas.frequency_factor(count, penalties.multiple, penalties.min_count)
        soft_threshold(scratch, row * dim, (row + 1) * dim, penalties.l1 * np.float32(factor))


# The rules on a block of rows. The linear terms are the gradients before, and z after.


@inlined
def adam_block(k: AdamConstants, scratch: Block, rows: int, dim: int) -> None:
    """Group Adam up to the proximal step; slots z, m, v."""
    for i in range(rows * dim):
        x, g, z = scratch[i], scratch[LINEAR_AT + i], scratch[_SLOT_0_AT + i]
        a, z, m, v = formulas.adam(k, x, g, z, scratch[_SLOT_1_AT + i], scratch[_SLOT_2_AT + i])
        scratch[CURVATURE_AT + i], scratch[LINEAR_AT + i] = a, z
        scratch[_SLOT_0_AT + i], scratch[_SLOT_1_AT + i], scratch[_SLOT_2_AT + i] = z, m, v


@inlined
def amsgrad_block(k: AdamConstants, scratch: Block, rows: int, dim: int) -> None:
    """Group AMSGrad up to the proximal step; slots z, m, v, v_max."""
    for i in range(rows * dim):
        x, g, z = scratch[i], scratch[LINEAR_AT + i], scratch[_SLOT_0_AT + i]
        m, v, v_max = scratch[_SLOT_1_AT + i], scratch[_SLOT_2_AT + i], scratch[_SLOT_3_AT + i]
        a, z, m, v, v_max = formulas.amsgrad(k, x, g, z, m, v, v_max)
        scratch[CURVATURE_AT + i], scratch[LINEAR_AT + i] = a, z
        scratch[_SLOT_0_AT + i], scratch[_SLOT_1_AT + i] = z, m
        scratch[_SLOT_2_AT + i], scratch[_SLOT_3_AT + i] = v, v_max


@inlined
def ftrl_block(k: FtrlConstants, scratch: Block, rows: int, dim: int) -> None:
    """FTRL-Proximal up to the proximal step; slots z, n."""
    for i in range(rows * dim):
        x, g, z = scratch[i], scratch[LINEAR_AT + i], scratch[_SLOT_0_AT + i]
        a, z, n = formulas.ftrl(k, x, g, z, scratch[_SLOT_1_AT + i])
        scratch[CURVATURE_AT + i], scratch[LINEAR_AT + i] = a, z
        scratch[_SLOT_0_AT + i], scratch[_SLOT_1_AT + i] = z, n


@inlined
def rowwise_block(k: RowwiseConstants, scratch: Block, rows: int, dim: int) -> None:
    """Row-wise Adagrad up to the proximal step; one slot of one element per row, at r."""
    for row in range(rows):
        largest = np.float32(0)
        for i in range(row * dim, (row + 1) * dim):
            square = scratch[LINEAR_AT + i] * scratch[LINEAR_AT + i]
            # A NaN stays the largest.
            largest = largest if largest > square or largest != largest else square
        curvature, scratch[_SLOT_0_AT + row] = formulas.rowwise(
            k, largest, scratch[_SLOT_0_AT + row]
        )
        for i in range(row * dim, (row + 1) * dim):
            scratch[LINEAR_AT + i] -= curvature * scratch[i]
            scratch[CURVATURE_AT + i] = curvature


# The proximal step on a block; its definition is in `elastic_embeddings.optimizers.proximal`.


@inlined
def soft_threshold(scratch: Block, start: int, end: int, l1: Value) -> None:
    """Replace the linear terms z of elements start to end - 1 by s = clip(z, -l1, l1) - z."""
    for i in range(start, end):
        z = scratch[LINEAR_AT + i]
        clipped = z if z > -l1 else -l1
        scratch[LINEAR_AT + i] = (clipped if clipped < l1 else l1) - z


@inlined
def shrink_closed(scratch: Block, start: int, dim: int, lanes: int, c: Value) -> None:
    """Shrink s of one row by the closed form. `lanes` is `lanes_of(dim)`."""
    norm = _norm(scratch, start, dim, lanes)
    if c == 0:
        return  # no group: a column of NaN leaves the others alone
    # Not `norm > c`: a norm of NaN makes the row NaN.
    factor = np.float32(0) if norm <= c else np.float32(1) - c / norm
    for i in range(start, start + dim):
        scratch[LINEAR_AT + i] *= factor


@inlined
def shrink_exact(scratch: Block, start: int, dim: int, lanes: int, c: Value) -> None:
    """Add c / r to the curvatures of one row, or set its s to 0. `lanes` is `lanes_of(dim)`."""
    norm = _norm(scratch, start, dim, lanes)
    if norm <= c:
        for i in range(start, start + dim):
            scratch[LINEAR_AT + i] = 0
    elif c > 0:
        added = c / _root(scratch, start, dim, c, norm)
        for i in range(start, start + dim):
            scratch[CURVATURE_AT + i] += added


@inlined
def divide(scratch: Block, count: int) -> None:
    """Write the new weights s / A of the block's first `count` elements."""
    for i in range(count):
        # Adding 0 turns -0 into +0, so that equal tables have equal bytes on all devices.
        scratch[i] = scratch[LINEAR_AT + i] / scratch[CURVATURE_AT + i] + np.float32(0)


@inlined
def _norm(scratch: Block, start: int, dim: int, lanes: int) -> Value:
    squares = np.float32(0)
    for i in range(start, start + dim, lanes):
        squares += sum_of_squares(scratch, LINEAR_AT + i, literally(lanes))
    return np.float32(math.sqrt(squares))


@inlined
def _root(scratch: Block, start: int, dim: int, c: Value, norm: Value) -> Value:
    """Return r = ‖x‖₂ of one row by Newton's method on 1/q, from left of the root."""
    # With the largest A in place of every A the equation q(r) = 1 is solved by (‖s‖ - c) / A. The
    # root is not less, so Newton's method starts left of it.
    steepest = np.float32(0)
    for i in range(start, start + dim):
        steepest = max(steepest, scratch[CURVATURE_AT + i])
    r = (norm - c) / steepest
    for _ in range(NEWTON_STEPS):
        q2, slope = np.float32(0), np.float32(0)
        for i in range(start, start + dim):
            a = scratch[CURVATURE_AT + i]
            t = a * r + c
            square = (scratch[LINEAR_AT + i] / t) ** 2
            q2 += square
            slope += square * (a / t)
        step = (np.float32(math.sqrt(q2)) - np.float32(1)) * q2 / slope
        # Rounding can make a step negative or NaN: such a step is skipped.
        r += step if step > 0 else np.float32(0)
        # Written with `not`: a step of NaN ends the loop too.
        if not step > _CONVERGED * r:
            break
    return r
