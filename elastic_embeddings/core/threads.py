"""The threads of a process: how many it may use, and loops over rows that are split over them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path

from elastic_embeddings.errors import InputError

VARIABLE = "ELASTIC_CTR_THREADS"
"""Environment variable: number of threads for training and scoring; unset: all available CPUs."""

_CGROUPS = Path("/sys/fs/cgroup")
_PROCESS_CGROUPS = Path("/proc/self/cgroup")
_MAX_THREADS = 8


def available_threads() -> int:
    """Return `ELASTIC_CTR_THREADS` if it is set, else the number of available CPUs.

    Raises:
        InputError: the variable is not a whole number above 0.
    """
    threads = os.environ.get(VARIABLE)
    if threads is None:
        return available_cpus()
    if not threads.isdecimal() or int(threads) < 1:
        raise InputError(
            f"{VARIABLE} is {threads!r}: set it to a whole number above 0, "
            "or unset it to use all available CPUs"
        )
    return int(threads)


def available_cpus(cgroups: Path = _CGROUPS, process_cgroups: Path = _PROCESS_CGROUPS) -> int:
    """Return the CPUs of this process: its affinity, limited by the quotas of its control groups.

    Args:
        cgroups: mount point of the control groups.
        process_cgroups: list of the groups of this process, as in `/proc/self/cgroup`.
    """
    has_affinity = hasattr(os, "sched_getaffinity")  # Linux
    cpus = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, min([cpus, *(math.ceil(quota) for quota in _quotas(cgroups, process_cgroups))]))


def _quotas(cgroups: Path, process_cgroups: Path) -> list[float]:
    """Return the quotas, in CPUs, of all groups that contain this process."""
    try:
        lines = process_cgroups.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux, or /proc is hidden
        return []
    quotas = []
    for line in lines:
        # Version 2 has one line, without controllers; version 1 has one line per controller.
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / "cpu" if controllers else cgroups
        group = root / path.lstrip("/")
        # In a container the path may be the host's, which is not mounted. The mounted root is then
        # the group of the process.
        for folder in (group, *group.parents) if group.is_dir() else (root,):
            quotas += _quota(folder)
            if folder == root:
                break
    return quotas


def _quota(folder: Path) -> list[float]:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            files = (folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
            quota, period = (file.read_text(encoding="utf-8").strip() for file in files)
    except (OSError, ValueError):
        return []
    return [] if quota in ("max", "-1") else [int(quota) / int(period)]


_threads: int | None = None  # set by `set_threads`


def set_threads(threads: int) -> None:
    """Set the number of threads of `split_rows` in this process. Results do not depend on it."""
    global _threads
    _threads = max(1, threads)


@cache
def _default_threads() -> int:
    return min(available_threads(), _MAX_THREADS)


@lru_cache(maxsize=1)
def _executor(process: int, threads: int) -> ThreadPoolExecutor:
    # By process: a forked one inherits the executor, but none of its threads.
    return ThreadPoolExecutor(max(1, threads - 1), "elastic")


def split_rows(kernel: Callable[..., object], n: int, *arguments: object, at_least: int) -> None:
    """Run `kernel(*arguments, begin, end)` over ranges that cover range(n), on several threads.

    Args:
        kernel: releases the GIL; its result does not depend on the ranges; it must not call
            `split_rows`.
        n: number of rows.
        arguments: arguments of the kernel before the range.
        at_least: minimal length of a range.

    Raises:
        Exception: whatever `kernel` raised.
    """
    threads = _threads or _default_threads()
    parts = max(1, min(threads, n // max(1, at_least)))
    if parts == 1:
        kernel(*arguments, 0, n)
        return
    executor = _executor(os.getpid(), threads)
    bounds = [n * part // parts for part in range(parts + 1)]
    others = [executor.submit(kernel, *arguments, *bound) for bound in pairwise(bounds[1:])]
    try:
        kernel(*arguments, 0, bounds[1])
    finally:
        # Wait for all, even after an error: the caller may free the arrays they write to.
        failures = [other.exception() for other in others]
    for failure in failures:
        if failure is not None:
            raise failure
