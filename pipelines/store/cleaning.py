"""Freeing disk space: deletes old versions, but none that a kept version was made from."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from features.files import folder_bytes
from features.partition import day_of, partition_of
from pipelines.stages.registry import artifacts
from pipelines.stages.report import days_with_artifacts
from pipelines.store.artifacts import COMMIT, FOLDERS, LEFT, POINTER, Store, Version
from pipelines.store.lease import IN_USE, LEASE, unused
from pipelines.store.lineage import champions, inputs_of
from pipelines.tracking.champion import kept_exports


@dataclass(frozen=True)
class Freed:
    """What a clean-up removed."""

    versions: int
    bytes: int


def clean(store: Store, keep_days: int) -> Freed:
    """Delete every version except those that are kept.

    Kept are the current versions of the latest `keep_days` days that have a checkpoint, of the days
    after them, and of their hours; the champion and the one before it; and what all of these were
    made from. Of a chain of warm starts, only the direct parent is kept. What killed runs of days
    before left behind is deleted too. A partition that a running stage writes to or reads from is
    left alone.
    """
    partitions = list(days_with_artifacts(store))
    # Days that were ingested and not trained yet must not push the last checkpoints out.
    trained = sorted({day_of(p) for p in store.days("checkpoint") or partitions})
    first = trained[-keep_days:][0] if trained else date.min
    recent = [partition for partition in partitions if day_of(partition) >= first]
    roots = [store.current(artifact, day) for day in recent for artifact in artifacts()]
    roots += [*itertools.islice(champions(store), 2), *kept_exports(store)]
    kept: set[Path] = set()
    seen: set[Path] = set()
    for version in filter(None, roots):
        _keep(store, version, kept, seen)

    # Only folders with a commit file are versions; staging folders belong to running stages.
    patterns = [f"{artifact}/{f}/v-*/{COMMIT}" for artifact in artifacts() for f in FOLDERS]
    found = {path.parent for pattern in patterns for path in store.workspace.glob(pattern)}
    versions = size = 0
    for path in sorted(found - kept):
        with unused(path.parent) as free:
            if free:
                versions, size = versions + 1, size + folder_bytes(path)
                _remove(path)
                _remove_empty(path)
    # What killed runs of days before left behind. A rerun would continue from it, until now.
    left = [f"{artifact}/{f}/{name}*" for artifact in artifacts() for f in FOLDERS for name in LEFT]
    for path in sorted(path for pattern in left for path in store.workspace.glob(pattern)):
        with unused(path.parent) as free:
            home = store.workspace / path.relative_to(store.workspace).parts[0]
            if free and day_of(partition_of(path.parent.relative_to(home))) < first:
                size += folder_bytes(path)
                shutil.rmtree(path)
                _remove_empty(path)
    return Freed(versions, size)


def _keep(store: Store, version: Version, kept: set[Path], seen: set[Path]) -> None:
    """Add a version and what it was made from to `kept`; `seen` are those done completely."""
    kept.add(version.path)
    if version.path in seen:
        return
    seen.add(version.path)
    for parent in filter(None, inputs_of(store, version).values()):
        if parent.artifact == version.artifact == "checkpoint":
            kept.add(parent.path)
        else:
            _keep(store, parent, kept, seen)


def _remove(path: Path) -> None:
    # The commit file goes first, so that a reader never finds a half-removed version.
    (path / COMMIT).unlink()
    shutil.rmtree(path)
    for verified in path.parent.glob(f".verified-{path.name[2:]}-*"):
        verified.unlink()
    pointer = path.parent / POINTER
    if pointer.is_file() and f"v-{pointer.read_text(encoding='utf-8').strip()}" == path.name:
        pointer.unlink()


def _remove_empty(path: Path) -> None:
    """Remove the folder of the hour, if it is one, and that of the day, if nothing is left."""
    for folder in path.parents[: 2 if path.parent.name.startswith("hm=") else 1]:
        left = list(folder.iterdir())
        if all(file.name.startswith((LEASE, IN_USE, ".verified-")) for file in left):
            for file in left:
                file.unlink()
            folder.rmdir()
