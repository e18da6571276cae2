"""A reference server that follows: it loads the latest full export and applies deltas as they appear. TensorFlow and NumPy only.

Usage: python compression/delta/delta_server.py PUBLISHED_FOLDER APPLIED_JSONL [POLL_SECONDS]
PUBLISHED_FOLDER is what `elastic-ctr follow --out` writes. Each line of APPLIED_JSONL says what was loaded or applied: `number`,
`kind` (`full`, `delta`), `version`, `rows`, `seconds` it took and `applied_s` (epoch seconds from when on it answers). SIGTERM
ends it. A delta that is damaged or does not fit makes it load the next full export; the model that it has answers until then. A
server for requests would answer with `Followed.model.signatures["serving_default"]` from any thread meanwhile.
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


class Followed:
    """A model that is kept up to date.

    Args:
        folder: what is published.
        told: the file that gets a line a change.
    """

    def __init__(self, folder: Path, told: Path) -> None:
        self.model: Any = None
        self.number = -1
        self._folder, self._told = folder, told
        self._refused = -1

    def catch_up(self) -> None:
        """Apply the deltas after the content that is loaded; load a full export where they do not lead on from it."""
        while (
            self.model is not None
            and self.number + 1 in self._numbers("deltas")
            and self._refused != self.number + 1
        ):
            self._apply(self.number + 1)
        newest = max(self._numbers("full"), default=-1)
        stuck = (
            self.model is None
            or self._refused == self.number + 1
            or self.number + 1 not in self._numbers("deltas")
        )
        if stuck and newest > self.number:
            self._load(newest)

    def _load(self, number: int) -> None:
        started = time.time()
        model = tf.saved_model.load(str(self._folder / "full" / f"{number:09d}" / "saved_model"))
        self.model, self.number = model, number
        self._tell("full", started)

    def _apply(self, number: int) -> None:
        started = time.time()
        try:
            apply_delta(self.model, self._folder / "deltas" / f"{number:09d}")
        except DeltaError as error:
            self._refused = number
            print(f"delta {number}: {error}", file=sys.stderr, flush=True)
            return
        self.number = number
        self._tell("delta", started)

    def _tell(self, kind: str, started: float) -> None:
        now = time.time()
        rows = int(self.model.signatures["model_version"]()["rows"])
        entry = {
            "number": self.number,
            "kind": kind,
            "version": version(self.model),
            "rows": rows,
            "seconds": now - started,
        }
        with self._told.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry | {"applied_s": now}) + "\n")

    def _numbers(self, kind: str) -> set[int]:
        parent = self._folder / kind
        return (
            {int(entry.name) for entry in parent.iterdir() if entry.name.isdigit()}
            if parent.is_dir()
            else set()
        )


def main(published: str, told: str, poll_s: str = "0.2") -> None:
    """Follow until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    followed = Followed(Path(published), Path(told))
    while not stop.wait(float(poll_s)):
        followed.catch_up()


if __name__ == "__main__":
    main(*sys.argv[1:])
