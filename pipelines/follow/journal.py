"""What a person or a monitor reads of following: a line a micro-batch, and the rows that could not be used."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.follow.records import Quarantined

BATCHES, QUARANTINE = "batches.jsonl", "quarantine"


class Journal:
    """Writes `batches.jsonl` and `quarantine/<file>.jsonl`.

    Args:
        folder: where they lie.
        batch: the last micro-batch that counts; lines of later ones, which will be taken again, are dropped.
    """

    def __init__(self, folder: Path, batch: int) -> None:
        self._batches, self._quarantine = folder / BATCHES, folder / QUARANTINE
        lines = (
            self._batches.read_text(encoding="utf-8").splitlines() if self._batches.exists() else []
        )
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["batch"] <= batch]
        _replace(self._batches, kept)

    def batch(self, entry: Mapping[str, Any]) -> None:
        """Add a micro-batch's figures; what is undefined is null."""
        plain = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in entry.items()
        }
        with self._batches.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(plain) + "\n")

    def quarantine(self, files: Mapping[str, Quarantined]) -> None:
        """Write each file's unusable rows; a file taken again is written again."""
        for name, rows in files.items():
            if rows:
                lines = [
                    json.dumps({"reason": reason, "record": record}) for reason, record in rows
                ]
                path = self._quarantine / f"{name}.jsonl"
                path.parent.mkdir(parents=True, exist_ok=True)
                _replace(path, lines)


def _replace(path: Path, lines: list[str]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    partial.replace(path)
