"""The commit protocol: a version is staged, committed, renamed into place, then made current.

`<workspace>/<artifact>/dt=YYYY-MM-DD/v-<hash>/`, for an hour `dt=YYYY-MM-DD/hm=HH00/v-<hash>/`,
appears whole or not at all:

1. A stage takes the lease of the partition and fills `.staging-<hash>-<host>-<uuid>`.
2. Every file is synced; `_COMMIT.json` is written last and synced.
3. The folder is renamed to its final name.
4. The small file `CURRENT`, which names the version to read, is replaced.

A killed process leaves a staging folder, which the next holder of the lease removes, and perhaps
`.states-<hash>`, from which the next run of the same version continues. A stage may
run more than once, but each version is published once, and a committed one is never removed by a
publisher. A version whose files differ from its checksums is set aside as `.damaged-…`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elastic_embeddings.core.sync import sync_path
from features.errors import InputError
from features.files import write_atomically
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
from pipelines.store.lease import lease

log = logging.getLogger(__name__)

COMMIT = "_COMMIT.json"
POINTER = "CURRENT"
FOLDERS = ("dt=*", "dt=*/hm=*")
"""Patterns of the folders of days and of hours below an artifact."""

DAMAGED, STATES, STAGING = ".damaged-", ".states-", ".staging-"
"""Beginnings of the names of a damaged version, of saved states and of a version in the making."""
LEFT = (STATES, STAGING)
"""Beginnings of the names of what a killed run leaves behind."""

_NAME = re.compile(rb"[ -.0-~]{1,128}")


class DamagedError(InputError):
    """A committed version has other content than when it was committed."""

    def __init__(self, version: Version, message: str) -> None:
        super().__init__(message)
        self.version = version


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
        """Check every file; raises DamagedError naming the first one that differs."""
        # Sizes and times are compared always, checksums once for each state of the files on this
        # machine: a day's inputs would otherwise be read twice by every stage.
        state = self._state()
        if self._verified.is_file() and self._verified.read_text(encoding="utf-8") == state:
            return
        for name, entry in self.commit["files"].items():
            path = self.path / name
            sound = path.is_file() and path.stat().st_size == entry["bytes"]
            if not sound or file_sha256(path) != entry["sha256"]:
                raise DamagedError(self, f"{path}: damaged or missing since it was committed")
        self.remember_verified(state)

    def remember_verified(self, state: str | None = None) -> None:
        """Note that the files have their checksums, for this state of them."""
        try:
            write_atomically(self._verified, state or self._state())
        except OSError:
            # A workspace that may only be read is verified again by the next reader.
            return

    def set_aside(self) -> Path:
        """Rename a damaged version so that no reader finds it; return the new path."""
        aside = self.path.with_name(f"{DAMAGED}{self.path.name[2:]}-{time.time_ns()}")
        self.path.rename(aside)
        return aside

    @property
    def _verified(self) -> Path:
        return self.path.with_name(f".verified-{self.hash}-{socket.gethostname()}")

    def _state(self) -> str:
        """Return a digest of sizes, times and inode numbers; it changes when a file does."""
        digest = hashlib.sha256(self.manifest.read_bytes())
        for name in self.commit["files"]:
            try:
                found = (self.path / name).stat()
            except FileNotFoundError:
                digest.update(f"{name} is missing".encode())
                continue
            facts = (name, found.st_size, found.st_mtime_ns, found.st_ino)
            digest.update(repr(facts).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Store:
    """The artifacts below a workspace."""

    workspace: Path

    def current(self, artifact: str, day: Partition) -> Version | None:
        """Return the current version of the day or hour, or None."""
        pointer = self._folder(artifact, day) / POINTER
        if not pointer.is_file():
            return None
        name = pointer.read_bytes().strip()
        if not _NAME.fullmatch(name):
            raise InputError(
                f"{pointer}: does not name a version; delete it and run the stage again, which "
                "finds the committed version"
            )
        return self.find(artifact, day, name.decode())

    def find(self, artifact: str, day: Partition, version_hash: str) -> Version | None:
        """Return a committed version by its hash, or None."""
        path = self._folder(artifact, day) / f"v-{version_hash}"
        commit = path / COMMIT
        if not commit.is_file():
            return None
        try:
            document = json.loads(commit.read_bytes())
            missing = {"files", "content_digest", "inputs", "metrics"} - set(document)
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{commit}: not readable ({error}); delete {path} and run the stage again"
            ) from error
        if missing:
            raise InputError(
                f"{commit}: without {', '.join(sorted(missing))}; delete {path} and run the stage "
                "again"
            )
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
            try:
                version = self.current(artifact, found)
            except InputError as error:
                # An unreadable version of one day must not stop the days after it.
                log.warning("%s", error)
                continue
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

    def damaged(self) -> list[Path]:
        """Return the versions that were set aside because they were damaged."""
        return sorted(path for f in FOLDERS for path in self.workspace.glob(f"*/{f}/{DAMAGED}*"))

    @contextmanager
    def staging(
        self,
        artifact: str,
        day: Partition,
        version_hash: str,
        report: Callable[[str], None] | None = None,
    ) -> Iterator[Path]:
        """Give an empty staging folder; it is removed at the end unless `publish` renamed it.

        The partition's lease is held during the block: another process that stages the same
        partition waits, and `report` gets a line about it.
        """
        folder = self._folder(artifact, day)
        with lease(folder, report=report):
            # Whoever staged here before no longer holds the lease, so it has ended.
            states = self.states(artifact, day, version_hash)
            for left in (path for name in LEFT for path in folder.glob(f"{name}*")):
                if left != states:
                    shutil.rmtree(left, ignore_errors=True)
            path = folder / f"{STAGING}{version_hash}-{socket.gethostname()}-{uuid.uuid4().hex}"
            path.mkdir()
            try:
                yield path
            finally:
                shutil.rmtree(path, ignore_errors=True)
            shutil.rmtree(states, ignore_errors=True)

    def states(self, artifact: str, day: Partition, version_hash: str) -> Path:
        """Return the folder, possibly missing, in which a long run saves its states."""
        return self._folder(artifact, day) / f"{STATES}{version_hash}"

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
        # Everything is on the disk before the rename makes the folder visible: a folder with a
        # final name is complete, also after a power failure.
        about = {"artifact": artifact, "day": day.isoformat(), "hash": version_hash}
        _write_commit(staged, {**about, **facts})
        if final.exists() and not (final / COMMIT).is_file():
            # What `clean` left when it was killed; moved, since a removal can be interrupted too.
            final.rename(final.with_name(f"{STAGING}left-{uuid.uuid4().hex}"))
        try:
            staged.rename(final)
        except OSError:
            # A folder with files is never replaced by a rename. Where the lease did not hold, a
            # version that another process published is kept: a reader may have it open already.
            if not (final / COMMIT).is_file():
                raise
        # The new name is on the disk before the pointer names it.
        sync_path(final.parent)
        self.point(artifact, day, version_hash)
        version = self.find(artifact, day, version_hash)
        assert version is not None
        version.remember_verified()
        return version

    def point(self, artifact: str, day: Partition, version_hash: str) -> None:
        """Make a committed version the current one of its day or hour."""
        write_atomically(self._folder(artifact, day) / POINTER, version_hash + "\n")

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
    # Files before the folders that name them, and all of them before the commit file.
    for path in sorted(staged.rglob("*"), key=lambda p: p.is_dir()):
        sync_path(path)
    text = json.dumps(commit, indent=1, sort_keys=True, default=str)
    write_atomically(staged / COMMIT, text)
