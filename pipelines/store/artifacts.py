"""The commit protocol: a version is staged, committed, renamed into place, then made current.

`<workspace>/<artifact>/dt=YYYY-MM-DD/v-<hash>/`, for an hour `dt=YYYY-MM-DD/hm=HH00/v-<hash>/`,
appears whole or not at all:

1. A stage fills `.staging-<hash>-<pid>`.
2. `_COMMIT.json` is written last and synced.
3. The folder is renamed to its final name.
4. The small file `CURRENT`, which names the version to read, is replaced.

A killed process leaves a staging folder, which the next run of the stage removes. A stage may run
more than once, but each version is published once.
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

from elastic_embeddings.core.sync import sync_path
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
"""Patterns of the folders of days and of hours below an artifact."""


@dataclass(frozen=True)
class Version:
    """One committed version of an artifact of a day or hour, and the content of its commit file."""

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
        """Check every file's checksum; raises InputError naming the first file that differs."""
        for name, entry in self.commit["files"].items():
            path = self.path / name
            if not path.is_file() or file_sha256(path) != entry["sha256"]:
                raise InputError(
                    f"{path}: damaged or missing since it was committed; "
                    f"delete {self.path} and run the stage again"
                )


@dataclass(frozen=True)
class Store:
    """The artifacts below a workspace."""

    workspace: Path

    def current(self, artifact: str, day: Partition) -> Version | None:
        """Return the current version of the day or hour, or None."""
        pointer = self._folder(artifact, day) / POINTER
        if not pointer.is_file():
            return None
        return self.find(artifact, day, pointer.read_text(encoding="utf-8").strip())

    def find(self, artifact: str, day: Partition, version_hash: str) -> Version | None:
        """Return a committed version by its hash, or None."""
        path = self._folder(artifact, day) / f"v-{version_hash}"
        commit = path / COMMIT
        if not commit.is_file():
            return None
        try:
            document = json.loads(commit.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise InputError(
                f"{commit}: not readable ({error}); delete {path} and run the stage again"
            ) from error
        return Version(artifact, day, version_hash, path, document)

    def days(self, artifact: str) -> list[Partition]:
        """Return the days and hours with a current version, in order."""
        home = self.workspace / artifact
        pointers = (pointer for pattern in FOLDERS for pointer in home.glob(f"{pattern}/{POINTER}"))
        return in_order(partition_of(pointer.parent.relative_to(home)) for pointer in pointers)

    def before(self, artifact: str, day: Partition) -> Iterator[Version]:
        """Yield the current versions of days and hours that ended before `day`, latest first."""
        earlier = [d for d in self.days(artifact) if is_before(d, day)]
        # A day and its last hour end together; the one of the kind of `day` counts as later.
        for found in sorted(earlier, key=lambda d: (end_h(d), same_kind(d, day)), reverse=True):
            version = self.current(artifact, found)
            if version is not None:
                yield version

    def latest_before(
        self, artifact: str, day: Partition, accept: Callable[[Version], bool] = lambda _: True
    ) -> Version | None:
        """Return the latest acceptable version that ended before `day`, or None."""
        return next((v for v in self.before(artifact, day) if accept(v)), None)

    def window(self, artifact: str, day: Partition, hours: int) -> list[Version]:
        """Return the versions that lie completely in the `hours` before `day`.

        Where a day exists both as a whole and as hours, the hours are left out.
        """
        found = [v for v in self.before(artifact, day) if start_h(v.day) >= start_h(day) - hours]
        once = disjoint([v.day for v in found])
        return [v for v in found if v.day in once]

    @contextmanager
    def staging(self, artifact: str, day: Partition, version_hash: str) -> Iterator[Path]:
        """Give an empty staging folder; it is removed at the end unless `publish` renamed it."""
        folder = self._folder(artifact, day)
        # The name ends with the process id: folders of running processes are left alone.
        for left in folder.glob(".staging-*"):
            if not psutil.pid_exists(int(left.name.rsplit("-", 1)[1])):
                shutil.rmtree(left, ignore_errors=True)
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
        """Commit a staged folder, rename it into place and make it current."""
        final = self._folder(artifact, day) / f"v-{version_hash}"
        # If another process published the same version meanwhile, its version is kept: a reader may
        # have it open already.
        if not (final / COMMIT).is_file():
            # The commit file is on the disk before the rename makes the folder visible: a folder
            # with a final name is complete, also after a power failure.
            about = {"artifact": artifact, "day": day.isoformat(), "hash": version_hash}
            _write_commit(staged, {**about, **facts})
            # Without a commit file the folder is what `clean` left when it was killed.
            shutil.rmtree(final, ignore_errors=True)
            staged.rename(final)
            # The new name is on the disk before the pointer names it.
            sync_path(final.parent)
        self.point(artifact, day, version_hash)
        version = self.find(artifact, day, version_hash)
        assert version is not None
        return version

    def point(self, artifact: str, day: Partition, version_hash: str) -> None:
        """Make a committed version the current one of its day or hour."""
        folder = self._folder(artifact, day)
        # Readers see the old or the new name, never a partly written file.
        temporary = folder / f".{POINTER}-{os.getpid()}"
        _write_synced(temporary, version_hash + "\n")
        temporary.replace(folder / POINTER)

    def _folder(self, artifact: str, day: Partition) -> Path:
        return self.workspace / artifact / folder_of(day)


def _write_commit(staged: Path, facts: Mapping[str, Any]) -> None:
    files = {
        str(path.relative_to(staged)): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in files_of(staged)
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
