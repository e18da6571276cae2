"""What servers read: full exports and the deltas between, in one folder.

`full/<n>/` holds `saved_model/`, `compressed/` (the same content for the publisher itself) and `manifest.json`; `deltas/<n>/`
leads from content n - 1 to content n (`compression.delta.write`). A server loads the latest full export and applies the deltas after
it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compression.delta.digest import content_digest, graph_digest
from compression.delta.write import MANIFEST, Delta, applied, delta_between, read_delta, write_delta
from compression.export.write import SAVED_MODEL, Exporter
from compression.model import CompactModel, read_compact, write_compact
from features.errors import InputError, UnsoundError
from pipelines.follow.folders import appearing, keep_latest, numbered, numbers
from training.fit.checkpoints import DESCRIPTION, write_description

FULL, DELTAS, COMPRESSED = "full", "deltas", "compressed"
_KEPT_FULLS = 2


class Published:
    """Publishes one model after another.

    Args:
        folder: made if missing; what lies there already goes on.

    Raises:
        InputError: what lies there is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._full, self._deltas = folder / FULL, folder / DELTAS
        self._exporter = Exporter()
        self._deltas.mkdir(parents=True, exist_ok=True)
        fulls = numbers(self._full)
        self.number = fulls[-1] if fulls else -1
        self._content = self._read(self.number) if fulls else None
        self._version = content_digest(self._content) if self._content else ""

    def follows(self, model: CompactModel) -> bool:
        """Whether a delta can lead to this model: something is published, and only rows, weights and scalers differ."""
        return self._content is not None and graph_digest(self._content) == graph_digest(model)

    def delta(self, model: CompactModel, told: Mapping[str, Any]) -> dict[str, int]:
        """Publish what changed, if anything did; return rows, tombstones and bytes.

        Raises:
            UnsoundError: a value is not finite: nothing is published.
        """
        assert self._content is not None
        delta = delta_between(self._content, model, self._version)
        _refuse_unsound(delta)
        if delta.base == delta.result:
            return {"delta_rows": 0, "delta_tombstones": 0, "delta_bytes": 0}
        size = write_delta(delta, numbered(self._deltas, self.number + 1), told)
        self.number, self._content, self._version = self.number + 1, model, delta.result
        return {
            **{f"delta_{name}": count for name, count in delta.figures.items()},
            "delta_bytes": size,
        }

    def full(self, model: CompactModel) -> int:
        """Publish the whole; return its bytes. A model that no delta led to gets the next number, so servers see the gap."""
        number = self.number if self._version == content_digest(model) else self.number + 1
        if not numbered(self._full, number).exists():
            self._write(model, number)
        self.number, self._content, self._version = number, model, content_digest(model)
        self._clean()
        return sum(
            file.stat().st_size
            for file in (numbered(self._full, number) / SAVED_MODEL).rglob("*")
            if file.is_file()
        )

    def _write(self, model: CompactModel, number: int) -> None:
        with appearing(numbered(self._full, number)) as out:
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
            (out / MANIFEST).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    def _read(self, full: int) -> CompactModel:
        """The latest content: the full export and what followed it."""
        model = read_compact(numbered(self._full, full) / COMPRESSED)
        for number in numbers(self._deltas):
            if number == self.number + 1:
                model = applied(model, read_delta(numbered(self._deltas, number)))
                self.number = number
        return model

    def _clean(self) -> None:
        """Keep the last full exports and the deltas after the first of them."""
        keep_latest(self._full, _KEPT_FULLS)
        oldest = numbers(self._full)[0]
        for number in numbers(self._deltas):
            if number <= oldest:
                shutil.rmtree(numbered(self._deltas, number))


def opened(folder: Path) -> tuple[Published, str]:
    """Return what is published in a folder, and what was wrong with it; damaged content is left to the next full export."""
    try:
        return Published(folder), ""
    except InputError as error:
        fulls, deltas = numbers(folder / FULL), numbers(folder / DELTAS)
        for number in fulls:
            numbered(folder / FULL, number).rename(folder / FULL / f".damaged-{number}")
        fresh = Published(folder)
        fresh.number = max([*fulls, *deltas])
        return fresh, str(error)


def _refuse_unsound(delta: Delta) -> None:
    wrong = [
        n
        for n, array in delta.arrays.items()
        if array.dtype.kind == "f" and not np.isfinite(array).all()
    ]
    if wrong:
        raise UnsoundError(
            f"{wrong} hold values that are not finite: nothing is published; lower the learning rates"
        )
