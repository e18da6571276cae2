"""Atomic writes of files and folders: a reader finds the old content or the new, never half."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elastic_embeddings.core.sync import sync_path


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file that replaces an earlier one in one step and survives a power cut.

    Several processes may write the same path: the last one wins.
    """
    # The name holds the process, so that two writers never share a temporary file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    # Synced before the rename: otherwise a power cut may leave the new name on an empty file.
    sync_path(temporary)
    temporary.replace(path)
    sync_path(path.parent)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `target` when the block ends without an error."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    for path in partial.rglob("*"):
        sync_path(path)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    # The rename itself is an entry of the parent folder.
    sync_path(target.parent)
