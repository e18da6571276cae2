"""Publish a model that changes: full exports, and the deltas between them, in one folder.

`full/<n>/` has `saved_model/`, `compressed/` (the same content, for the publisher itself) and
`manifest.json`. `deltas/<n>/` changes content n - 1 to content n (`compression.delta.write`). A
server loads the latest full export and applies the deltas after it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compression.delta.content import content_digest, graph_digest
from compression.delta.write import (
    MANIFEST,
    applied,
    delta_between,
    read_delta,
    read_sealed,
    sealed,
    write_delta,
)
from compression.export.write import SAVED_MODEL, Exporter
from compression.model import CompactModel, read_compact, write_compact
from features.errors import InputError, UnsoundError
from features.files import atomic_folder, folder_bytes
from pipelines.store.digests import file_sha256, files_of
from training.fit.checkpoints import DESCRIPTION, write_description

FULL, DELTAS, COMPRESSED = "full", "deltas", "compressed"
_KEPT_FULLS = 2
_DIGITS = 9


def nth_folder(parent: Path, number: int) -> Path:
    """Return the folder of a number. Its name has leading zeros, so that names sort as numbers."""
    return parent / f"{number:0{_DIGITS}d}"


def folder_numbers(parent: Path) -> list[int]:
    """Return the numbers of the complete folders in `parent`, ascending."""
    # Folders that are being written or were found damaged have other names.
    names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    return sorted(int(name) for name in names if len(name) == _DIGITS and name.isdigit())


def keep_latest_folders(parent: Path, count: int) -> None:
    """Delete all but the latest numbered folders of `parent`."""
    for number in folder_numbers(parent)[:-count]:
        shutil.rmtree(nth_folder(parent, number))


def set_aside(folder: Path) -> None:
    """Rename a damaged folder, so that it is no numbered one any more."""
    damaged = folder.with_name(f".damaged-{folder.name}")
    shutil.rmtree(damaged, ignore_errors=True)
    folder.rename(damaged)


def seal_folder(folder: Path, document: Mapping[str, Any]) -> None:
    """Write `manifest.json`: the document, and the SHA-256 of every file of the folder."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": file_sha256(path)}
        for path in files_of(folder)
    }
    text = sealed({**document, "files": files})
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def verify_folder(folder: Path) -> None:
    """Compare the files of a folder with its manifest; one of an older release has none.

    Raises:
        InputError: a file is missing or damaged.
    """
    if not (folder / MANIFEST).exists():
        return
    for name, file in read_sealed(folder / MANIFEST)["files"].items():
        path = folder / name
        if not path.is_file() or file_sha256(path) != file["sha256"]:
            raise InputError(f"{path} is missing or damaged")


class Publisher:
    """Publishes one model after another.

    Args:
        folder: where to publish; made if missing. Publications that it has are continued.

    Attributes:
        number: of the last content; -1: nothing is published.
        version: its digest.
        published_s: when it was published, epoch seconds; None: nothing is published.

    Raises:
        InputError: a publication in the folder is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._full, self._deltas = folder / FULL, folder / DELTAS
        self._exporter = Exporter()
        self._deltas.mkdir(parents=True, exist_ok=True)
        self.number, self.version = -1, ""
        self.published_s: float | None = None
        self._content: CompactModel | None = None
        fulls = folder_numbers(self._full)
        if fulls:
            # What servers have now: the latest full export, and the deltas after it without a gap.
            self.number = fulls[-1]
            folder = nth_folder(self._full, self.number)
            content, manifest = read_compact(folder / COMPRESSED), read_sealed(folder / MANIFEST)
            if content_digest(content) != manifest.get("version"):
                raise InputError(f"{folder}: {COMPRESSED} is not the model that was published")
            for number in folder_numbers(self._deltas):
                if number > self.number + 1:
                    raise InputError(f"{nth_folder(self._deltas, self.number + 1)} is missing")
                if number == self.number + 1:
                    content = applied(content, read_delta(nth_folder(self._deltas, number)))
                    self.number = number
            self._content, self.version = content, content_digest(content)
            newest = [nth_folder(kind, self.number) for kind in (self._full, self._deltas)]
            manifests = [path / MANIFEST for path in newest if path.is_dir()]
            self.published_s = max(path.stat().st_mtime for path in manifests)

    @property
    def rows(self) -> int:
        """Number of keys of the published model."""
        return self._content.rows if self._content else 0

    def can_publish_delta(self, model: CompactModel) -> bool:
        """Whether something is published, and only rows, weights and scalers differ from it."""
        return self._content is not None and graph_digest(self._content) == graph_digest(model)

    def publish_delta(self, model: CompactModel, source: Mapping[str, Any]) -> dict[str, int]:
        """Publish what changed, if anything did; return rows, tombstones and bytes of the delta.

        Args:
            model: a model for which `can_publish_delta` is true.
            source: what the change comes from, for the manifest.

        Raises:
            UnsoundError: a value is not finite, or the model is empty and the published one is
                not. Nothing is published then.
        """
        assert self._content is not None
        if self._content.rows and not model.rows:
            raise UnsoundError(
                f"the model has no rows, but servers have one with {self._content.rows:,}: nothing "
                "is published. To begin from nothing, choose another --out"
            )
        delta = delta_between(self._content, model, self.version)
        wrong = [
            name
            for name, array in delta.arrays.items()
            if array.dtype.kind == "f" and not np.isfinite(array).all()
        ]
        if wrong:
            raise UnsoundError(
                f"the values of {wrong} are not finite: nothing is published; lower the learning "
                "rates"
            )
        if delta.base == delta.result:
            return {"delta_rows": 0, "delta_tombstones": 0, "delta_bytes": 0}
        size = write_delta(delta, nth_folder(self._deltas, self.number + 1), source)
        self.number, self._content, self.version = self.number + 1, model, delta.result
        self.published_s = time.time()
        counts = {f"delta_{name}": count for name, count in delta.figures.items()}
        return {**counts, "delta_bytes": size}

    def publish_full(self, model: CompactModel) -> int:
        """Publish a full export and return its bytes."""
        version = content_digest(model)
        # A model that is not the result of the last delta gets the next number, although there is
        # no delta to it: servers notice the gap and load the full export.
        number = self.number if version == self.version else self.number + 1
        folder = nth_folder(self._full, number)
        if not folder.exists():
            self._write_full(model, number, folder)
        self.number, self._content, self.version = number, model, version
        self.published_s = time.time()
        # Deltas are deleted with the full export before them.
        keep_latest_folders(self._full, _KEPT_FULLS)
        oldest = folder_numbers(self._full)[0]
        for delta in folder_numbers(self._deltas):
            if delta <= oldest:
                shutil.rmtree(nth_folder(self._deltas, delta))
        return folder_bytes(folder / SAVED_MODEL)

    def _write_full(self, model: CompactModel, number: int, folder: Path) -> None:
        with atomic_folder(folder) as out:
            write_description(out, model.description)
            (out / COMPRESSED).mkdir()
            write_compact(model, out / DESCRIPTION, out / COMPRESSED)
            report = self._exporter.write(model, out)
            document = {
                "number": number,
                "version": report.version,
                "rows": report.rows,
                "bytes": report.bytes_exported,
            }
            # Last: a server that copies the folder knows by it when it has all of it.
            seal_folder(out, document)


def open_publisher(folder: Path) -> tuple[Publisher, str]:
    """Return the publisher of a folder, and what was damaged in it ("" if nothing was).

    After damage the next publication is a full export with a new number.
    """
    try:
        return Publisher(folder), ""
    except (InputError, OSError, KeyError, ValueError) as error:
        fulls, deltas = folder_numbers(folder / FULL), folder_numbers(folder / DELTAS)
        for number in fulls:
            set_aside(nth_folder(folder / FULL, number))
        publisher = Publisher(folder)
        publisher.number = max([*fulls, *deltas])
        return publisher, str(error) or repr(error)
