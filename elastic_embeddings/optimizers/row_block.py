"""A block of rows in compiled code, spread out so that one flat loop serves all of them: what the rules do to it.

The block is one flat float32 array of areas of `AREA` elements: weights, linear terms (which come in as gradients),
curvatures, then one area per slot. Element j of the block's r-th row lies at r · dim + j of each area. All offsets are
constants, so the compiler knows that areas do not overlap, and every loop here becomes vector instructions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.optimizers.elementwise import inlined
from elastic_embeddings.optimizers.formulas import (
    AdamNumbers,
    FtrlNumbers,
    RowwiseNumbers,
    adam,
    amsgrad,
    ftrl,
    rowwise,
)

AREA = 512
LINEAR = AREA
CURVATURE = 2 * AREA
SLOTS = 3 * AREA

Block = NDArray[np.float32]

_FIRST, _SECOND, _THIRD, _FOURTH = (SLOTS + i * AREA for i in range(4))


@inlined
def advance_adam(k: AdamNumbers, b: Block, rows: int, dim: int) -> None:
    """Group Adam on a block's rows, up to the proximal step; slots z, m, v."""
    for i in range(rows * dim):
        z, m, v = b[_FIRST + i], b[_SECOND + i], b[_THIRD + i]
        b[CURVATURE + i], z, b[_SECOND + i], b[_THIRD + i] = adam(k, b[i], b[LINEAR + i], z, m, v)
        b[_FIRST + i], b[LINEAR + i] = z, z


@inlined
def advance_amsgrad(k: AdamNumbers, b: Block, rows: int, dim: int) -> None:
    """Group AMSGrad on a block's rows, up to the proximal step; slots z, m, v, v_max."""
    for i in range(rows * dim):
        z, m, v, highest = b[_FIRST + i], b[_SECOND + i], b[_THIRD + i], b[_FOURTH + i]
        b[CURVATURE + i], z, b[_SECOND + i], b[_THIRD + i], b[_FOURTH + i] = amsgrad(
            k, b[i], b[LINEAR + i], z, m, v, highest
        )
        b[_FIRST + i], b[LINEAR + i] = z, z


@inlined
def advance_ftrl(k: FtrlNumbers, b: Block, rows: int, dim: int) -> None:
    """FTRL-Proximal on a block's rows, up to the proximal step; slots z, n."""
    for i in range(rows * dim):
        b[CURVATURE + i], z, b[_SECOND + i] = ftrl(
            k, b[i], b[LINEAR + i], b[_FIRST + i], b[_SECOND + i]
        )
        b[_FIRST + i], b[LINEAR + i] = z, z


@inlined
def advance_rowwise(k: RowwiseNumbers, b: Block, rows: int, dim: int) -> None:
    """Row-wise Adagrad on a block's rows, up to the proximal step; one slot element a row, at r."""
    for r in range(rows):
        largest = np.float32(0)
        for i in range(r * dim, (r + 1) * dim):
            largest = max(largest, b[LINEAR + i] * b[LINEAR + i])
        curvature, b[_FIRST + r] = rowwise(k, largest, b[_FIRST + r])
        for i in range(r * dim, (r + 1) * dim):
            b[LINEAR + i] -= curvature * b[i]
            b[CURVATURE + i] = curvature
