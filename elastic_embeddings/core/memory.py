"""Large arrays: address space that is committed when touched, and scratch memory to reuse."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections import defaultdict
from contextlib import suppress
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
# In mode 2 Linux refuses reservations beyond its memory, so nothing may be reserved ahead.
LAZY_MEMORY = _OVERCOMMIT.exists() and _OVERCOMMIT.read_text().strip() != "2"
_NO_RESERVE = 0x4000  # MAP_NORESERVE of Linux, which Python 3.11 does not export
_HUGE_PAGE_BYTES = 2 << 20
_SMALL_PAGES_BYTES = 8 << 20  # small pages up to here: a small table must not pay for huge ones

_SMALL_BYTES = 1 << 18  # the allocator itself reuses the pages of smaller arrays
_LINE_BYTES = 64
_SIZE_STEP = 1 << 20  # sizes of scratch memory are rounded up, so that similar batches share it
_MAX_FREE = 3

_free: defaultdict[int, list[mmap.mmap]] = defaultdict(list)


def reserved(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return an array of zeros whose memory is committed page by page when it is first touched.

    On Linux it is an anonymous private mapping, with huge pages after the first 8 MiB. Elsewhere,
    and where Linux forbids overcommitting, it is `np.zeros`.

    Args:
        shape: shape of the array; the first axis is the one that grows.
        dtype: dtype of the array.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    if not LAZY_MEMORY or size == 0:
        return np.zeros(shape, dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    if size > _SMALL_PAGES_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a Linux built without huge pages: small ones are only slower
            memory.madvise(mmap.MADV_HUGEPAGE, _SMALL_PAGES_BYTES, size - _SMALL_PAGES_BYTES)
    return np.ndarray(shape, dtype, buffer=memory)


def release(array: NDArray[Any], first_row: int) -> None:
    """Set the rows from `first_row` on to zero and return their whole pages to the system.

    Args:
        array: what `reserved` returned, not a slice of it.
        first_row: the first row to release.
    """
    if not isinstance(array.base, mmap.mmap):
        array[first_row:] = 0
        return
    start = first_row * array[:1].nbytes
    page = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    # The rows up to the next page border share their page with rows that stay.
    end = min(page, array.nbytes)
    np.ndarray(end - start, np.uint8, buffer=array.base, offset=start)[:] = 0
    if page < array.nbytes:
        array.base.madvise(mmap.MADV_DONTNEED, page, array.nbytes - page)


def committed_bytes(array: NDArray[Any], rows: int) -> int:
    """Return the memory of the first `rows` rows of a `reserved` array, in bytes of whole pages."""
    used = rows * array[:1].nbytes
    page = mmap.PAGESIZE if used <= _SMALL_PAGES_BYTES else _HUGE_PAGE_BYTES
    return min(-(-used // page) * page, array.nbytes) if LAZY_MEMORY else array.nbytes


def scratch_array(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return an uninitialised array, aligned to cache lines, or to pages if it is large.

    Once nothing refers to a large array, a later call uses its memory again: new memory costs a
    page fault for every 4 KiB, which takes longer than filling it.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    if size < _SMALL_BYTES:
        # TensorFlow shares only aligned memory; NumPy aligns to 16 bytes.
        small = np.empty(size + _LINE_BYTES, np.uint8)
        start = -small.ctypes.data % _LINE_BYTES
        return small[start : start + size].view(dtype).reshape(shape)
    size = -(-size // _SIZE_STEP) * _SIZE_STEP
    # Not `if _free[size]: pop`: another thread could take the last one in between.
    try:
        memory = _free[size].pop()
    except IndexError:
        memory = mmap.mmap(-1, size)
    owner = _owner_class(size).from_buffer(memory)
    weakref.finalize(owner, _return, size, memory)
    return np.ndarray(shape, dtype, buffer=owner)


@cache
def _owner_class(size: int) -> Any:  # ctypes types are made at run time
    # Every view of the array refers to its owner, so the owner's end is the end of the last view.
    # A subclass, because plain ctypes arrays do not support weak references.
    return type("Owner", (ctypes.c_char * size,), {})


def _return(size: int, memory: mmap.mmap) -> None:
    if len(_free[size]) < _MAX_FREE:
        _free[size].append(memory)
