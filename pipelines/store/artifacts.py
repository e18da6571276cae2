"""The commit protocol: versions are staged, sealed, renamed into place, and pointed at.

`<workspace>/<artifact>/dt=YYYY-MM-DD/v-<hash>/`, of an hour `dt=YYYY-MM-DD/hm=HH00/v-<hash>/`, appears whole or not at
all: a stage fills `.staging-<hash>-<pid>`,
`_COMMIT.json` is written last and synced, the folder is renamed, then the small file `CURRENT` is replaced. A killed
process leaves a staging folder behind, which the next run of the same stage removes. Execution is at least once,
publication exactly once.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from features.errors import InputError
from features.partition import (
    Partition,
    disjoint,
    end_h,
    folder_of,
    in_order,
    is_before,
    partition_of,
    same_kind,
    start_h,
)
from pipelines.store.digests import content_digest, file_sha256, files_of

COMMIT = "_COMMIT.json"
POINTER = "CURRENT"
FOLDERS = ("dt=*", "dt=*/hm=*")
"""Where the folders of days and of hours lie below an artifact."""


@dataclass(frozen=True)
class Version:
    """One committed version of an artifact of a day or an hour: where it lies and what its commit file says."""

    artifact: str
    day: Partition
    hash: str
    path: Path
    commit: Mapping[str, Any] = field(repr=False)

    @property
    def manifest(self) -> Path:
        """The path of `_COMMIT.json`."""
        return self.path / COMMIT

    @property
    def digest(self) -> str:
        """The digest of the content, equal for equal data."""
        return str(self.commit["content_digest"])

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Counts and figures that the stage returned."""
        return self.commit["metrics"]

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(entry["bytes"] for entry in self.commit["files"].values())

    def verify(self) -> None:
        """Check every file against its recorded checksum; raises InputError naming the first that differs."""
        for name, entry in self.commit["files"].items():
            path = self.path / name
            if not path.is_file() or file_sha256(path) != entry["sha256"]:
                raise InputError(
                    f"{path}: damaged or missing since it was committed; delete {self.path} and run the stage again"
                )


@dataclass(frozen=True)
class Store:
    """The artifacts below a workspace."""

    workspace: Path

    def current(self, artifact: str, day: Partition) -> Version | None:
        """Return the version that the pointer of the day or hour names, or None."""
        pointer = self._day_folder(artifact, day) / POINTER
        if not pointer.is_file():
            return None
        return self.find(artifact, day, pointer.read_text(encoding="utf-8").strip())

    def find(self, artifact: str, day: Partition, version_hash: str) -> Version | None:
        """Return a committed version by its hash, or None."""
        path = self._day_folder(artifact, day) / f"v-{version_hash}"
        commit = path / COMMIT
        if not commit.is_file():
            return None
        try:
            return Version(
                artifact, day, version_hash, path, json.loads(commit.read_text(encoding="utf-8"))
            )
        except json.JSONDecodeError as error:
            raise InputError(
                f"{commit}: not readable ({error}); delete {path} and run the stage again"
            ) from error

    def days(self, artifact: str) -> list[Partition]:
        """Return the days and hours with a current version, in order."""
        home = self.workspace / artifact
        pointers = (pointer for pattern in FOLDERS for pointer in home.glob(f"{pattern}/{POINTER}"))
        return in_order(partition_of(pointer.parent.relative_to(home)) for pointer in pointers)

    def before(self, artifact: str, day: Partition) -> Iterator[Version]:
        """Yield the current versions of days and hours that have ended when `day` begins, the latest first.

        Of a day and its last hour, which end together, the one of the kind of `day` counts as the later.
        """
        earlier = [d for d in self.days(artifact) if is_before(d, day)]
        for found in sorted(earlier, key=lambda d: (end_h(d), same_kind(d, day)), reverse=True):
            version = self.current(artifact, found)
            if version is not None:
                yield version

    def latest_before(
        self, artifact: str, day: Partition, accept: Callable[[Version], bool] = lambda _: True
    ) -> Version | None:
        """Return the latest acceptable version strictly before `day`, or None."""
        return next((v for v in self.before(artifact, day) if accept(v)), None)

    def window(self, artifact: str, day: Partition, hours: int) -> list[Version]:
        """Return the current versions before `day` that lie whole in the hours before it; a day and its hours count once."""
        found = [v for v in self.before(artifact, day) if start_h(v.day) >= start_h(day) - hours]
        once = disjoint([v.day for v in found])
        return [v for v in found if v.day in once]

    @contextmanager
    def staging(self, artifact: str, day: Partition, version_hash: str) -> Iterator[Path]:
        """Give an empty staging folder; it is removed again unless `publish` renamed it."""
        folder = self._day_folder(artifact, day)
        _sweep(folder)
        path = folder / f".staging-{version_hash}-{os.getpid()}"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def publish(
        self,
        staged: Path,
        artifact: str,
        day: Partition,
        version_hash: str,
        facts: Mapping[str, Any],
    ) -> Version:
        """Seal a staged folder, rename it into place and point at it. A version that won the race is kept."""
        final = self._day_folder(artifact, day) / f"v-{version_hash}"
        if not (final / COMMIT).is_file():
            _seal(
                staged,
                {"artifact": artifact, "day": day.isoformat(), "hash": version_hash, **facts},
            )
            shutil.rmtree(final, ignore_errors=True)
            staged.rename(final)
            _sync_folder(final.parent)
        self.point(artifact, day, version_hash)
        version = self.find(artifact, day, version_hash)
        assert version is not None
        return version

    def point(self, artifact: str, day: Partition, version_hash: str) -> None:
        """Make a committed version the current one of its day or hour."""
        folder = self._day_folder(artifact, day)
        temporary = folder / f".{POINTER}-{os.getpid()}"
        _write_synced(temporary, version_hash + "\n")
        temporary.replace(folder / POINTER)

    def _day_folder(self, artifact: str, day: Partition) -> Path:
        return self.workspace / artifact / folder_of(day)


def _seal(staged: Path, facts: dict[str, Any]) -> None:
    files = {
        str(p.relative_to(staged)): {"bytes": p.stat().st_size, "sha256": file_sha256(p)}
        for p in files_of(staged)
    }
    commit = {
        **facts,
        "content_digest": content_digest(staged),
        "files": files,
        "committed_at_s": int(time.time()),
    }
    _write_synced(staged / COMMIT, json.dumps(commit, indent=1, sort_keys=True, default=str))


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove staging folders of processes that are gone."""
    for path in folder.glob(".staging-*"):
        if not psutil.pid_exists(int(path.name.rsplit("-", 1)[1])):
            shutil.rmtree(path, ignore_errors=True)
