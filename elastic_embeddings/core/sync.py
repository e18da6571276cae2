"""Writing files to the disk. Light: processes that must not load NumPy import it."""

from __future__ import annotations

import os
from pathlib import Path


def sync_path(path: Path) -> None:
    """Write a file, or the names in a folder, from the system's memory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
