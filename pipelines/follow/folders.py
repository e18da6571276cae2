"""Numbered folders that appear as a whole: written beside, synced, renamed; a killed process leaves nothing that is read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elastic_embeddings.storage.replacement import sync_path

_DIGITS = 9


def numbered(parent: Path, number: int) -> Path:
    """Return the folder of a number, whose name sorts as the number does."""
    return parent / f"{number:0{_DIGITS}d}"


def numbers(parent: Path) -> list[int]:
    """Return the numbers of the complete folders in `parent`, ascending."""
    names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    return sorted(int(name) for name in names if len(name) == _DIGITS and name.isdigit())


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Give an empty folder to be filled, which then appears as `target`, in place of an earlier one."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    for path in partial.rglob("*"):
        sync_path(path)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    sync_path(target.parent)


def keep_latest(parent: Path, count: int) -> None:
    """Remove all complete folders of `parent` but the latest."""
    for number in numbers(parent)[:-count]:
        shutil.rmtree(numbered(parent, number))
