"""Large arrays whose memory is used again. A fresh one costs a page fault for every 4 KiB, more than filling it does."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections import defaultdict
from functools import cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_SMALL_BYTES = 1 << 18  # below this the system's allocator keeps the pages itself
_LINE_BYTES = 64
_UNIT_BYTES = 1 << 20
_MOST_KEPT = 3

_free: defaultdict[int, list[mmap.mmap]] = defaultdict(list)


def scratch(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray:
    """Return an array of arbitrary content, aligned to cache lines, or to pages if it is large.

    The memory of a large one goes to a later call once nothing refers to it.

    Args:
        shape: of the array.
        dtype: of the array.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    if size < _SMALL_BYTES:
        return _aligned(shape, dtype, size)
    size = -(-size // _UNIT_BYTES) * _UNIT_BYTES
    try:
        memory = _free[size].pop()
    except IndexError:
        memory = mmap.mmap(-1, size)
    loan = _loan_class(size).from_buffer(memory)
    weakref.finalize(loan, _give_back, size, memory)
    return np.ndarray(shape, dtype, buffer=loan)


def _aligned(shape: tuple[int, ...], dtype: DTypeLike, size: int) -> NDArray:
    """A new array at a multiple of a cache line, where TensorFlow takes it without a copy."""
    memory = np.empty(size + _LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % _LINE_BYTES
    return memory[start : start + size].view(dtype).reshape(shape)


@cache
def _loan_class(size: int) -> Any:
    """A ctypes array of so many bytes; a subclass, as plain ones cannot be watched by weak references."""
    return type("Loan", (ctypes.c_char * size,), {})


def _give_back(size: int, memory: mmap.mmap) -> None:
    if len(_free[size]) < _MOST_KEPT:
        _free[size].append(memory)
