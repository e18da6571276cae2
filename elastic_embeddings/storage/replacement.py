"""A folder that is replaced as a whole: a reader finds the old one or the new one, never a mixture, whenever we are killed.

For a folder `table` the new content is written into its sibling `.table.saving` and synced. Then `table` is renamed to
`.table.replaced`, `.table.saving` to `table`, and the old one is deleted. So at every moment `table` is whole or, between
the two renames, missing while `.table.replaced` is whole: readers go through `whole`, which then gives that one, and the
next save puts it back first. Leftovers of a killed save are ignored by readers and removed by the next save.

One writer to a folder at a time; a reader must not outlive two saves.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

_SYNCS_AT_ONCE = 4


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it takes the place of `folder` when the block ends without an error.

    Args:
        folder: whose parents are made if missing; it holds files alone, no folders.
    """
    folder = folder.absolute()
    staged = _sibling(folder, "saving")
    _tidy(folder)
    staged.mkdir(parents=True)
    try:
        yield staged
        _sync_files(staged)
        _swap(staged, folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def whole(folder: Path) -> Path:
    """Return the folder to read: itself, or the old one where a save was killed between its two renames."""
    replaced = _sibling(folder.absolute(), "replaced")
    return replaced if not folder.exists() and replaced.exists() else folder


def _tidy(folder: Path) -> None:
    """Undo what a killed save left."""
    shutil.rmtree(_sibling(folder, "saving"), ignore_errors=True)
    replaced = _sibling(folder, "replaced")
    if replaced.exists() and folder.exists():
        shutil.rmtree(replaced)
    elif replaced.exists():
        replaced.rename(folder)


def _swap(staged: Path, folder: Path) -> None:
    replaced = _sibling(folder, "replaced")
    if folder.exists():
        folder.rename(replaced)
    staged.rename(folder)
    sync_path(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _sibling(folder: Path, role: str) -> Path:
    return folder.with_name(f".{folder.name}.{role}")


def _sync_files(folder: Path) -> None:
    """Make a folder's files survive a power cut; side by side, since the disk takes many at hardly the price of one."""
    with ThreadPoolExecutor(_SYNCS_AT_ONCE) as pool:
        for _ in pool.map(sync_path, folder.iterdir()):
            pass
    sync_path(folder)


def sync_path(path: Path) -> None:
    """Sync a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
