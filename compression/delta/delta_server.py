"""A reference server that follows what is published. Needs TensorFlow and NumPy only.

Usage: python compression/delta/delta_server.py PUBLISHED_FOLDER LOG_JSONL [POLL_SECONDS]

It loads the latest full export in PUBLISHED_FOLDER (the folder that `elastic-ctr follow --out`
writes, or a copy of it) and applies deltas as they appear, until SIGTERM. Each load or delta
appends a line to LOG_JSONL: `number`, `kind` (`full`, `delta`), `version`, `rows`, `seconds` it
took and `applied_s` (epoch seconds from which on it answers).

Whatever arrives, the model that is loaded goes on answering: an export or a delta that is
damaged, not completely copied or does not fit is a line of the kind `rejected`, with `folder` and
`reason`; its other figures are those of the model that serves. It is tried again when its files
change. A server for requests would answer with
`FollowingModel.model.signatures["serving_default"]`, from any thread.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from delta_client import DeltaError, apply_delta, load_full, version

FilesState = tuple[tuple[str, int, int], ...]
"""Name, bytes and time of change, in nanoseconds, of each file of a folder."""


class FollowingModel:
    """A model that is kept up to date.

    Attributes:
        model: what answers; None: nothing is loaded yet.
        number: its content's number; -1: none, or the content is not known any more.

    Args:
        folder: what is published.
        log_file: receives a line per change and per rejection.
    """

    def __init__(self, folder: Path, log_file: Path) -> None:
        self.model: Any = None
        self.number = -1
        self._folder, self._log_file = folder, log_file
        self._rejected: dict[Path, FilesState] = {}

    def catch_up(self) -> None:
        """Apply the next deltas; load a newer full export if one is missing or was rejected."""
        self._apply_deltas()
        # Numbers count contents: export n and the deltas up to n give the same model.
        for number in sorted(self._numbers("full"), reverse=True):
            if number <= self.number:
                break
            # If the latest export cannot be used, an older one with the deltas after it can.
            if self._attempt(self._folder_of("full", number), self._load):
                self._apply_deltas()
                break
        following = self._folder_of("deltas", self.number + 1)
        later = [number for number in self._numbers("deltas") if number > self.number + 1]
        if self.model is not None and later and not following.is_dir():
            self._reject(following, (), "it is missing, later deltas are there")

    def _apply_deltas(self) -> None:
        while self.model is not None:
            if not self._attempt(self._folder_of("deltas", self.number + 1), self._apply):
                break

    def _attempt(self, folder: Path, change: Callable[[Path], None]) -> bool:
        """Make a change, unless the same files were rejected before; return whether it was made."""
        if not folder.is_dir():
            return False
        # Before the change: files that arrive meanwhile make it worth another attempt.
        files = _state_of(folder)
        if self._rejected.get(folder) == files:
            return False
        try:
            change(folder)
        except Exception as error:
            # TensorFlow raises many types for damaged files. None of them may end the server.
            self._reject(folder, files, f"{type(error).__name__}: {error}")
            return False
        self._rejected.pop(folder, None)
        return True

    def _load(self, folder: Path) -> None:
        started = time.time()
        self.model, self.number = load_full(folder), int(folder.name)
        self._log("full", started)

    def _apply(self, folder: Path) -> None:
        started = time.time()
        try:
            apply_delta(self.model, folder)
        except DeltaError:
            raise
        except Exception:
            # It was checked and failed on the way, such as for memory. Half of it may be applied:
            # the next full export is loaded, whatever its number.
            self.number = -1
            raise
        self.number = int(folder.name)
        self._log("delta", started)

    def _reject(self, folder: Path, files: FilesState, reason: str) -> None:
        if self._rejected.get(folder) == files:
            return
        self._rejected[folder] = files
        name = f"{folder.parent.name}/{folder.name}"
        print(f"{name} is rejected: {reason}", file=sys.stderr, flush=True)
        self._log("rejected", time.time(), {"folder": name, "reason": reason})

    def _log(self, kind: str, started: float, more: dict[str, str] | None = None) -> None:
        now, rows, loaded = time.time(), 0, ""
        if self.model is not None and "model_version" in self.model.signatures:
            loaded = version(self.model)
            rows = int(self.model.signatures["model_version"]()["rows"])
        entry = {
            "number": self.number,
            "kind": kind,
            "version": loaded,
            "rows": rows,
            "seconds": now - started,
            "applied_s": now,
            **(more or {}),
        }
        try:
            with self._log_file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")
        except OSError as error:
            # A full disk must not make a model that was loaded look like one that was not.
            print(f"{self._log_file}: {error}; lost: {entry}", file=sys.stderr, flush=True)

    def _folder_of(self, kind: str, number: int) -> Path:
        return self._folder / kind / f"{number:09d}"

    def _numbers(self, kind: str) -> set[int]:
        parent = self._folder / kind
        if not parent.is_dir():
            return set()
        names = (entry.name for entry in parent.iterdir())
        return {int(name) for name in names if name.isascii() and name.isdigit()}


def _state_of(folder: Path) -> FilesState:
    try:
        found = [(path, path.stat()) for path in sorted(folder.rglob("*"))]
    except OSError:
        # A file was removed meanwhile, such as by the publisher, which deletes old folders.
        return ()
    return tuple((str(path), state.st_size, state.st_mtime_ns) for path, state in found)


def main(published: str, log_file: str, poll_s: str = "0.2") -> None:
    """Follow until SIGTERM."""
    # An event, not a sleep: SIGTERM ends the wait at once, but never a change that is under way.
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    following = FollowingModel(Path(published), Path(log_file))
    reported = ""
    while not stop.wait(float(poll_s)):
        try:
            following.catch_up()
            reported = ""
        except OSError as error:
            # The folder cannot be listed: a mount may come back.
            if str(error) != reported:
                reported = str(error)
                print(f"tries again: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
