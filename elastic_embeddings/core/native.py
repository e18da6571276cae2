"""Compiled loops and the memory and threads they run on: nothing here knows of keys or vectors."""

from __future__ import annotations

import functools
import hashlib
import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import DTypeLike, NDArray

from elastic_embeddings.core.threads import available_threads

_POLICY = Path(
    "/proc/sys/vm/overcommit_memory"
)  # 2: the system refuses to set aside more than it has
LAZY_MEMORY = (
    _POLICY.exists() and _POLICY.read_text().strip() != "2"
)  # pages are committed at first touch, and given back
_NO_RESERVE = 0x4000  # Linux' MAP_NORESERVE, which Python 3.11 does not name
_HUGE_BYTES = 2 * 2**20
_SMALL_PAGES_BYTES = (
    8 * 2**20
)  # so much of an array lies on small pages, or small tables would pay for whole huge ones
_MOST_THREADS = 8


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba, without the GIL; on disk from the second process on, where a cache can be written."""
    before = numba.config.CACHE_DIR
    try:
        numba.config.CACHE_DIR = _cache_folder()
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # numba found no writable cache folder: compile in each process instead
        return numba.njit(nogil=True, error_model="numpy")(function)
    finally:
        numba.config.CACHE_DIR = before


@functools.cache
def _cache_folder() -> str:
    """A folder by the content of this package: numba itself looks at one file's date, not at the kernels it calls."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for source in sorted(package.rglob("*.py")):
        digest.update(source.read_bytes())
    return str(package / "__pycache__" / f"kernels-{digest.hexdigest()[:16]}")


@intrinsic
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of `array[index]`, in compiled code; `array` is one-dimensional, `index` may be out of it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        """Emit the instruction."""
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        offset = context.cast(builder, arguments[1], signature.args[1], types.intp)
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        shape = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        ask = cgutils.get_or_insert_function(builder.module, shape, "llvm.prefetch.p0i8")
        flags = [
            ir.Constant(flag, value) for value in (0, 3, 1)
        ]  # to read, keep in every cache level, data
        builder.call(ask, [builder.bitcast(builder.gep(data, [offset]), byte), *flags])
        return context.get_dummy_value()

    return types.void(array, index), generate


def reserved(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray:
    """Return an array of zeros whose memory is committed page by page, at the first touch, so that a large one is free.

    On Linux, unless it is set to forbid overcommitting, it lies on an anonymous private mapping that asks for huge pages
    past its first 8 MiB; elsewhere it is `np.zeros`, which most systems commit at the first touch too.

    Args:
        shape: of the array, first axis the one to grow along.
        dtype: of the array.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    if not LAZY_MEMORY or size == 0:
        return np.zeros(shape, dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    if size > _SMALL_PAGES_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        _advise_huge(memory, size)
    return np.ndarray(shape, dtype, buffer=memory)


def release(array: NDArray, first_row: int) -> None:
    """Zero the rows from `first_row` on and give their whole pages back to the system.

    Args:
        array: as `reserved` returned it, not a slice. Where it is `np.zeros`, the memory stays.
        first_row: the first row that is not needed any more.
    """
    if not isinstance(array.base, mmap.mmap):
        array[first_row:] = 0
        return
    start = first_row * array[:1].nbytes
    page = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    end = min(page, array.nbytes)
    np.ndarray(end - start, np.uint8, buffer=array.base, offset=start)[:] = 0
    if page < array.nbytes:
        array.base.madvise(mmap.MADV_DONTNEED, page, array.nbytes - page)


def committed_bytes(array: NDArray, rows: int) -> int:
    """Return the bytes of memory that the first `rows` rows of an array from `reserved` take, in whole pages."""
    used = rows * array[:1].nbytes
    page = mmap.PAGESIZE if used <= _SMALL_PAGES_BYTES else _HUGE_BYTES
    return min(-(-used // page) * page, array.nbytes) if LAZY_MEMORY else array.nbytes


class _Pool:
    """Threads made at their first use in a process: a fork inherits the object but none of its threads."""

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads
        self._process = 0
        self._executor: ThreadPoolExecutor | None = None

    @property
    def threads(self) -> int:
        """How many work at once, the caller's among them; by default as many as there are CPUs for them."""
        if self._threads is None:
            self._threads = min(available_threads(), _MOST_THREADS)
        return self._threads

    def executor(self) -> ThreadPoolExecutor:
        """Return the threads of this process."""
        if self._executor is None or self._process != os.getpid():
            self._executor = ThreadPoolExecutor(max(1, self.threads - 1), "elastic")
            self._process = os.getpid()
        return self._executor


_pool = _Pool()


def set_threads(threads: int) -> None:
    """Let `split_rows` use so many threads, at least 1, in this process. Results never depend on it."""
    global _pool
    _pool = _Pool(max(1, threads))


def split_rows(kernel: Callable[[int, int], object], n: int, *, at_least: int) -> None:
    """Run `kernel(lo, hi)` over disjoint ranges that make up 0 … n, on several threads, and wait for all.

    Args:
        kernel: a function that releases the GIL and whose result does not depend on how the rows are cut; must not call
            `split_rows`.
        n: how many rows there are.
        at_least: no range is shorter, so below twice as many rows the caller's thread does it all.

    Raises:
        Exception: whatever `kernel` raised.
    """
    pool = _pool
    parts = max(1, min(pool.threads, n // max(1, at_least)))
    if parts == 1:
        kernel(0, n)
        return
    bounds = [n * part // parts for part in range(parts + 1)]
    others = [pool.executor().submit(kernel, lo, hi) for lo, hi in pairwise(bounds[1:])]
    try:
        kernel(0, bounds[1])
    finally:
        failures = [other.exception() for other in others]
    for failure in failures:
        if failure is not None:
            raise failure


def _advise_huge(memory: mmap.mmap, size: int) -> None:
    try:
        memory.madvise(mmap.MADV_HUGEPAGE, _SMALL_PAGES_BYTES, size - _SMALL_PAGES_BYTES)
    except OSError:  # a kernel built without huge pages: small ones do as well, only slower
        return
