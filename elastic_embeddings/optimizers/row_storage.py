"""A row between its slab and scratch memory, in compiled code: as it is, or through 16 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import literally
from numpy.typing import NDArray

from elastic_embeddings.core.row_vectors import copy_vector
from elastic_embeddings.optimizers.elementwise import inlined
from elastic_embeddings.optimizers.rounding import (
    Storage,
    draw,
    narrow_bfloat16,
    narrow_float16,
    widen_bfloat16,
    widen_float16,
)

Scratch = NDArray[np.float32]
Bits = NDArray[np.uint16]


class RowStorage(NamedTuple):
    """How a run of `width` numbers is read and written.

    Attributes:
        read: (scratch, i, stored, j, width, lanes): fill scratch from i with what is stored from j on.
        write: (stored, j, scratch, i, width, lanes, stream, column): the reverse; draws are those of `column` on.
    """

    read: Callable[..., None]
    write: Callable[..., None]


@inlined
def _read_float32(
    scratch: Scratch, i: int, stored: Scratch, j: int, width: int, lanes: int
) -> None:
    for c in range(0, width, lanes):
        copy_vector(scratch, i + c, stored, j + c, literally(lanes))


@inlined
def _write_float32(
    stored: Scratch,
    j: int,
    scratch: Scratch,
    i: int,
    width: int,
    lanes: int,
    stream: np.uint64,
    column: int,
) -> None:
    for c in range(0, width, lanes):
        copy_vector(stored, j + c, scratch, i + c, literally(lanes))


@inlined
def _read_bfloat16(scratch: Scratch, i: int, stored: Bits, j: int, width: int, lanes: int) -> None:
    for c in range(width):
        scratch[i + c] = widen_bfloat16(stored[j + c])


@inlined
def _write_bfloat16(
    stored: Bits,
    j: int,
    scratch: Scratch,
    i: int,
    width: int,
    lanes: int,
    stream: np.uint64,
    column: int,
) -> None:
    for c in range(width):
        stored[j + c] = narrow_bfloat16(scratch[i + c], draw(stream, column + c))


@inlined
def _read_float16(scratch: Scratch, i: int, stored: Bits, j: int, width: int, lanes: int) -> None:
    for c in range(width):
        scratch[i + c] = widen_float16(stored[j + c])


@inlined
def _write_float16(
    stored: Bits,
    j: int,
    scratch: Scratch,
    i: int,
    width: int,
    lanes: int,
    stream: np.uint64,
    column: int,
) -> None:
    for c in range(width):
        stored[j + c] = narrow_float16(scratch[i + c], draw(stream, column + c))


ROW_STORAGE: dict[Storage, RowStorage] = {
    "float32": RowStorage(_read_float32, _write_float32),
    "bfloat16": RowStorage(_read_bfloat16, _write_bfloat16),
    "float16": RowStorage(_read_float16, _write_float16),
}
