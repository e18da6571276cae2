"""A reference server that follows what is published. Needs TensorFlow and NumPy only.

Usage: python compression/delta/delta_server.py PUBLISHED_FOLDER LOG_JSONL [POLL_SECONDS]

It loads the latest full export in PUBLISHED_FOLDER (the folder that `elastic-ctr follow --out`
writes) and applies deltas as they appear, until SIGTERM. Each load or delta appends a line to
LOG_JSONL: `number`, `kind` (`full`, `delta`), `version`, `rows`, `seconds` it took and `applied_s`
(epoch seconds from which on it answers). After a delta that is damaged or does not fit, it keeps
its model until the next full export. A server for requests would answer with
`FollowingModel.model.signatures["serving_default"]`, from any thread.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import tensorflow as tf
from delta_client import DeltaError, apply_delta, version


class FollowingModel:
    """A model that is kept up to date.

    Args:
        folder: what is published.
        log_file: receives a line per change.
    """

    def __init__(self, folder: Path, log_file: Path) -> None:
        self.model: Any = None
        self.number = -1
        self._folder, self._log_file = folder, log_file
        self._failed = -1

    def catch_up(self) -> None:
        """Apply the next deltas; load a newer full export if one is missing or has failed."""
        while self._next_delta_is_usable():
            self._apply(self.number + 1)
        # Numbers count contents: export n and the deltas up to n give the same model.
        newest = max(self._numbers("full"), default=-1)
        if newest > self.number and not self._next_delta_is_usable():
            self._load(newest)

    def _next_delta_is_usable(self) -> bool:
        following = self.number + 1
        loaded = self.model is not None and self._failed != following
        return loaded and following in self._numbers("deltas")

    def _load(self, number: int) -> None:
        started = time.time()
        model = tf.saved_model.load(str(self._folder / "full" / f"{number:09d}" / "saved_model"))
        self.model, self.number = model, number
        self._log("full", started)

    def _apply(self, number: int) -> None:
        started = time.time()
        try:
            apply_delta(self.model, self._folder / "deltas" / f"{number:09d}")
        except DeltaError as error:
            # Remembered, otherwise the same delta would be tried at every poll.
            self._failed = number
            print(f"delta {number}: {error}", file=sys.stderr, flush=True)
            return
        self.number = number
        self._log("delta", started)

    def _log(self, kind: str, started: float) -> None:
        now = time.time()
        entry = {
            "number": self.number,
            "kind": kind,
            "version": version(self.model),
            "rows": int(self.model.signatures["model_version"]()["rows"]),
            "seconds": now - started,
            "applied_s": now,
        }
        with self._log_file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")

    def _numbers(self, kind: str) -> set[int]:
        parent = self._folder / kind
        if not parent.is_dir():
            return set()
        return {int(entry.name) for entry in parent.iterdir() if entry.name.isdigit()}


def main(published: str, log_file: str, poll_s: str = "0.2") -> None:
    """Follow until SIGTERM."""
    # An event, not a sleep: SIGTERM ends the wait at once, but never a change that is under way.
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    following = FollowingModel(Path(published), Path(log_file))
    while not stop.wait(float(poll_s)):
        following.catch_up()


if __name__ == "__main__":
    main(*sys.argv[1:])
