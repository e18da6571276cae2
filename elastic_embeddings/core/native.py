"""Compilation of loops with numba, and the vector instructions that they use."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from math import gcd
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.extending import register_jitable

from elastic_embeddings.foreign import numba_cache_folder, prefetch_intrinsic, vector_intrinsics

Function = TypeVar("Function", bound=Callable[..., Any])

MAX_LANES = 16  # float32 of a cache line

prefetch = prefetch_intrinsic()
copy_vector, add_vector, sum_of_squares = vector_intrinsics()


def inlined(function: Function) -> Function:
    """Mark a function that compiled code calls and contains; Python calls it unchanged."""
    return cast(Function, register_jitable(forceinline=True)(function))


def compiled(function: Function) -> Function:
    """Compile with numba, without the GIL.

    The machine code is cached on disk, for later processes, if there is a folder to write to.
    """
    try:
        with numba_cache_folder(_cache_folder()):
            return cast(Function, numba.njit(nogil=True, cache=True, error_model="numpy")(function))
    except RuntimeError:  # numba found no writable folder: every process compiles for itself
        return cast(Function, numba.njit(nogil=True, error_model="numpy")(function))


@functools.cache
def _cache_folder() -> str:
    # The folder is named after the content of the whole package: numba itself compares only the
    # date of the function's own file, so it would miss a change in a kernel that is called.
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for source in sorted(package.rglob("*.py")):
        digest.update(source.read_bytes())
    return str(package / "__pycache__" / f"kernels-{digest.hexdigest()[:16]}")


def lanes_of(width: int) -> int:
    """Return the elements per vector for rows of `width`: the largest power of two up to 16."""
    return gcd(width, MAX_LANES)
