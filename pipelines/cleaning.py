"""Freeing disk space: old versions go, never one that something kept refers to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pipelines.artifacts import COMMIT, POINTER, Store, Version
from pipelines.lineage import champion
from pipelines.report import ARTIFACTS, days_with_artifacts


@dataclass(frozen=True)
class Freed:
    """What a clean-up removed."""

    versions: int
    bytes: int


def clean(store: Store, keep_days: int) -> Freed:
    """Remove every version but those that are current on the latest `keep_days` days, the champion, and their direct inputs."""
    kept = {version.path for version in _kept(store, keep_days)}
    doomed = [path for path in _all_versions(store) if path not in kept]
    size = sum(f.stat().st_size for path in doomed for f in path.rglob("*") if f.is_file())
    for path in doomed:
        _remove(path)
    return Freed(len(doomed), size)


def _kept(store: Store, keep_days: int) -> Iterator[Version]:
    for day in list(days_with_artifacts(store))[-keep_days:]:
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
        found = store.find(entry["artifact"], date.fromisoformat(entry["day"]), entry["hash"])
        if found:
            yield found


def _all_versions(store: Store) -> list[Path]:
    return sorted(p.parent for artifact in ARTIFACTS for p in store.workspace.glob(f"{artifact}/dt=*/v-*/{COMMIT}"))


def _remove(path: Path) -> None:
    """Unseal first, so that a reader never sees a version half removed; drop a pointer that named it."""
    (path / COMMIT).unlink()
    shutil.rmtree(path)
    pointer = path.parent / POINTER
    if pointer.is_file() and f"v-{pointer.read_text(encoding='utf-8').strip()}" == path.name:
        pointer.unlink()
    if not any(path.parent.iterdir()):
        path.parent.rmdir()
