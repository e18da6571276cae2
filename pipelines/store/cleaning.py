"""Freeing disk space: deletes old versions, but none that a kept version was made from."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from features.files import folder_bytes
from features.partition import day_of
from pipelines.stages.registry import artifacts
from pipelines.stages.report import days_with_artifacts
from pipelines.store.artifacts import COMMIT, FOLDERS, POINTER, Store
from pipelines.store.lineage import champion, inputs_of


@dataclass(frozen=True)
class Freed:
    """What a clean-up removed."""

    versions: int
    bytes: int


def clean(store: Store, keep_days: int) -> Freed:
    """Delete every version except those that are kept.

    Kept are the current versions of the latest `keep_days` days and of their hours, the champion,
    and the inputs of all of these.
    """
    partitions = list(days_with_artifacts(store))
    days = sorted({day_of(partition) for partition in partitions})[-keep_days:]
    recent = [partition for partition in partitions if day_of(partition) in days]
    roots = [store.current(artifact, day) for day in recent for artifact in artifacts()]
    roots.append(champion(store))
    kept = set()
    for version in filter(None, roots):
        parents = inputs_of(store, version).values()
        kept |= {version.path, *(parent.path for parent in parents if parent)}

    # Only folders with a commit file are versions; staging folders belong to running stages.
    patterns = [f"{artifact}/{f}/v-*/{COMMIT}" for artifact in artifacts() for f in FOLDERS]
    found = {path.parent for pattern in patterns for path in store.workspace.glob(pattern)}
    unused = sorted(found - kept)
    size = sum(folder_bytes(path) for path in unused)
    for path in unused:
        _remove(path)
    return Freed(len(unused), size)


def _remove(path: Path) -> None:
    # The commit file goes first, so that a reader never finds a half-removed version.
    (path / COMMIT).unlink()
    shutil.rmtree(path)
    pointer = path.parent / POINTER
    if pointer.is_file() and f"v-{pointer.read_text(encoding='utf-8').strip()}" == path.name:
        pointer.unlink()
    # The folder of the hour, if it is one, and that of the day.
    for folder in path.parents[: 2 if path.parent.name.startswith("hm=") else 1]:
        if not any(folder.iterdir()):
            folder.rmdir()
