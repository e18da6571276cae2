"""Freeing disk space: old versions go, never one that something kept refers to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from features.partition import day_of, parse_partition
from pipelines.stages.report import ARTIFACTS, days_with_artifacts
from pipelines.store.artifacts import COMMIT, FOLDERS, POINTER, Store, Version
from pipelines.store.lineage import champion


@dataclass(frozen=True)
class Freed:
    """What a clean-up removed."""

    versions: int
    bytes: int


def clean(store: Store, keep_days: int) -> Freed:
    """Remove every version but those current on the latest `keep_days` days or in their hours, the champion, and their inputs."""
    kept = {version.path for version in _kept(store, keep_days)}
    doomed = [path for path in _all_versions(store) if path not in kept]
    size = sum(f.stat().st_size for path in doomed for f in path.rglob("*") if f.is_file())
    for path in doomed:
        _remove(path)
    return Freed(len(doomed), size)


def _kept(store: Store, keep_days: int) -> Iterator[Version]:
    partitions = list(days_with_artifacts(store))
    days = sorted({day_of(partition) for partition in partitions})[-keep_days:]
    for day in (partition for partition in partitions if day_of(partition) in days):
        for artifact in ARTIFACTS:
            version = store.current(artifact, day)
            if version:
                yield version
                yield from _inputs(store, version)
    serving = champion(store)
    if serving:
        yield serving
        yield from _inputs(store, serving)


def _inputs(store: Store, version: Version) -> Iterator[Version]:
    for entry in version.commit["inputs"].values():
        found = store.find(entry["artifact"], parse_partition(entry["day"]), entry["hash"])
        if found:
            yield found


def _all_versions(store: Store) -> list[Path]:
    patterns = (f"{artifact}/{folder}/v-*/{COMMIT}" for artifact in ARTIFACTS for folder in FOLDERS)
    return sorted(path.parent for pattern in patterns for path in store.workspace.glob(pattern))


def _remove(path: Path) -> None:
    """Unseal first, so that a reader never sees a version half removed; drop a pointer that named it."""
    (path / COMMIT).unlink()
    shutil.rmtree(path)
    pointer = path.parent / POINTER
    if pointer.is_file() and f"v-{pointer.read_text(encoding='utf-8').strip()}" == path.name:
        pointer.unlink()
    for folder in path.parents[: 2 if path.parent.name.startswith("hm=") else 1]:
        if not any(folder.iterdir()):
            folder.rmdir()
