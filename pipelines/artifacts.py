"""The commit protocol: versions are staged, sealed, renamed into place, and pointed at.

`<workspace>/<artifact>/dt=YYYY-MM-DD/v-<hash>/` appears whole or not at all: a stage fills `.staging-<hash>-<pid>`,
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
from datetime import date
from pathlib import Path
from typing import Any

import psutil

from features.errors import InputError
from pipelines.digests import content_digest, file_sha256, files_of

COMMIT = "_COMMIT.json"
POINTER = "CURRENT"


@dataclass(frozen=True)
class Version:
    """One committed version of an artifact: where it lies and what its commit file says."""

    artifact: str
    day: date
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
                raise InputError(f"{path}: damaged or missing since it was committed; delete {self.path} and run the stage again")


@dataclass(frozen=True)
class Store:
    """The artifacts below a workspace."""

    workspace: Path

    def current(self, artifact: str, day: date) -> Version | None:
        """Return the version that the day's pointer names, or None."""
        pointer = self._day_folder(artifact, day) / POINTER
        if not pointer.is_file():
            return None
        return self.find(artifact, day, pointer.read_text(encoding="utf-8").strip())

    def find(self, artifact: str, day: date, version_hash: str) -> Version | None:
        """Return a committed version by its hash, or None."""
        path = self._day_folder(artifact, day) / f"v-{version_hash}"
        commit = path / COMMIT
        if not commit.is_file():
            return None
        try:
            return Version(artifact, day, version_hash, path, json.loads(commit.read_text(encoding="utf-8")))
        except json.JSONDecodeError as error:
            raise InputError(f"{commit}: not readable ({error}); delete {path} and run the stage again") from error

    def days(self, artifact: str) -> list[date]:
        """Return the days with a current version, ascending."""
        folders = self.workspace.joinpath(artifact).glob(f"dt=*/{POINTER}")
        return sorted(date.fromisoformat(f.parent.name.removeprefix("dt=")) for f in folders)

    def before(self, artifact: str, day: date) -> Iterator[Version]:
        """Yield the current versions of days strictly before `day`, the latest first."""
        for earlier in reversed([d for d in self.days(artifact) if d < day]):
            version = self.current(artifact, earlier)
            if version is not None:
                yield version

    def latest_before(self, artifact: str, day: date, accept: Callable[[Version], bool] = lambda _: True) -> Version | None:
        """Return the latest acceptable version strictly before `day`, or None."""
        return next((v for v in self.before(artifact, day) if accept(v)), None)

    @contextmanager
    def staging(self, artifact: str, day: date, version_hash: str) -> Iterator[Path]:
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

    def publish(self, staged: Path, artifact: str, day: date, version_hash: str, facts: Mapping[str, Any]) -> Version:
        """Seal a staged folder, rename it into place and point at it. A version that won the race is kept."""
        final = self._day_folder(artifact, day) / f"v-{version_hash}"
        if not (final / COMMIT).is_file():
            _seal(staged, {"artifact": artifact, "day": day.isoformat(), "hash": version_hash, **facts})
            shutil.rmtree(final, ignore_errors=True)
            staged.rename(final)
            _sync_folder(final.parent)
        self.point(artifact, day, version_hash)
        version = self.find(artifact, day, version_hash)
        assert version is not None
        return version

    def point(self, artifact: str, day: date, version_hash: str) -> None:
        """Make a committed version the day's current one."""
        folder = self._day_folder(artifact, day)
        temporary = folder / f".{POINTER}-{os.getpid()}"
        _write_synced(temporary, version_hash + "\n")
        temporary.replace(folder / POINTER)

    def _day_folder(self, artifact: str, day: date) -> Path:
        return self.workspace / artifact / f"dt={day.isoformat()}"


def _seal(staged: Path, facts: dict[str, Any]) -> None:
    files = {str(p.relative_to(staged)): {"bytes": p.stat().st_size, "sha256": file_sha256(p)} for p in files_of(staged)}
    commit = {**facts, "content_digest": content_digest(staged), "files": files, "committed_at_s": int(time.time())}
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
