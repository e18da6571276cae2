"""How many threads a process may use: its CPU affinity, its control group's quota, or what the environment says."""

from __future__ import annotations

import math
import os
from pathlib import Path

from elastic_embeddings.errors import InputError

VARIABLE = "ELASTIC_CTR_THREADS"
"""Environment variable: the most threads that learning and scoring use at once; unset: as many as there are CPUs for them."""

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def available_threads() -> int:
    """Return `ELASTIC_CTR_THREADS` if it is set, else how many CPUs this process may use, at least 1.

    Raises:
        InputError: the variable is set to what is no whole number above 0.
    """
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return available_cpus()
    if not wanted.isdecimal() or int(wanted) < 1:
        raise InputError(
            f"{VARIABLE} is {wanted!r}: set it to a whole number above 0, or unset it to use all available CPUs"
        )
    return int(wanted)


def available_cpus(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> int:
    """Return how many CPUs this process may use: those of its affinity, and no more than its control groups' quotas allow.

    Args:
        cgroups: where the control groups are mounted.
        own: lists the groups of this process, as `/proc/self/cgroup` does.
    """
    affinity = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min([affinity, *(math.ceil(quota) for quota in _quotas(cgroups, own))]))


def _quotas(cgroups: Path, own: Path) -> list[float]:
    """CPUs that each group above this process allows: `cpu.max` of version 2, `cpu.cfs_*` of version 1."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux, or /proc is hidden
        return []
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / "cpu" if controllers else cgroups
        group = root / path.lstrip("/")
        # In a container the path may be the host's, which is not mounted here: then the root is the process's own group.
        for folder in (group, *group.parents) if group.is_dir() else (root,):
            quotas += _quota(folder)
            if folder == root:
                break
    return quotas


def _quota(folder: Path) -> list[float]:
    """The quota that a group sets itself, in CPUs; none where it sets none."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8").strip()
                for name in ("quota", "period")
            )
    except (OSError, ValueError):
        return []
    return [] if quota in ("max", "-1") else [int(quota) / int(period)]
