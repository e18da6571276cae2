"""CPU seconds of a tree of processes, those that have ended included."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import psutil


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Return user and system seconds of processes and of their ended children.

    Args:
        processes: all of a tree that run now. What a child used counts in its parent as soon as it
            was waited for, so a sum over the running ones counts everything once.
    """
    total = 0.0
    for process in processes:
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def tree(root: psutil.Process) -> list[psutil.Process]:
    """Return a process and all that descend from it."""
    return [root, *root.children(recursive=True)]
