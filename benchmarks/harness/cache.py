"""Finished runs, kept so that a broken comparison goes on where it stopped.

A run is known by its model, seed and settings, and by digests of the source that it runs and of the
data: change any of them and it is run again. Beside `NAME.json` lies `NAME.npz` with its
probabilities; the JSON is written last, and whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SHORT = 16


@dataclass(frozen=True)
class Result:
    """A finished run: its figures, and probabilities float32 of the validation and of the test
    rows.
    """

    figures: Mapping[str, Any]
    valid: NDArray[np.float32]
    test: NDArray[np.float32]


@dataclass(frozen=True)
class Cache:
    """A folder of finished runs."""

    folder: Path

    def path(self, model: str, seed: int, **made_of: Any) -> Path:
        """Return where the run of this description lies, whether it is there or not."""
        return self.folder / f"{model}-{seed}-{description_digest(made_of)}.json"

    def get(self, path: Path) -> Result | None:
        """Return a finished run, or None."""
        if not path.is_file():
            return None
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
            return Result(
                json.loads(path.read_text(encoding="utf-8")), arrays["valid"], arrays["test"]
            )

    def get_or_run(self, path: Path, run: Callable[[Path], Mapping[str, Any]]) -> Result:
        """Return a finished run; else let `run` write the probabilities into the file it is given
        and return the figures.
        """
        found = self.get(path)
        if found:
            return found
        self.folder.mkdir(parents=True, exist_ok=True)
        figures = run(path.with_suffix(".npz"))
        half = path.with_suffix(".half")
        half.write_text(json.dumps(figures), encoding="utf-8")
        half.replace(path)
        done = self.get(path)
        assert done is not None
        return done


def description_digest(description: Any) -> str:
    """Return a short digest of a description that JSON can hold; other values by their text."""
    text = json.dumps(description, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_SHORT]


def digest(files: Iterable[Path]) -> str:
    """Return a digest of files' names and bytes."""
    content = hashlib.sha256()
    for file in files:
        content.update(file.name.encode() + b"\0" + file.read_bytes())
    return content.hexdigest()[:_SHORT]
