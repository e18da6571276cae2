"""What follow mode has processed: the ledger that a restart reads, and the log that people read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from features.errors import InputError
from features.files import write_atomically
from features.json_safe import json_safe
from pipelines.follow.records import Quarantined

LEDGER, BATCHES, QUARANTINE = "ledger.json", "batches.jsonl", "quarantine"

_REMEMBERED_CONTENTS = 10_000
"""So many removed files are known by their content."""

_LONGEST_PART = 160
_FILES_KEY = "taken"
"""Key of `Ledger.files` in the file."""


@dataclass(frozen=True)
class Ledger:
    """What a saved learner was trained on; saved in the same folder, so that both always agree.

    Attributes:
        batch: number of micro-batches.
        day: last local day that was trained on, counted from 1970-01-01.
        rows_in: rows of all files, `rows_kept + rows_quarantined`.
        rows_kept: rows that were trained on.
        rows_quarantined: the other rows.
        files: name → rows of each processed file that still exists.
        contents: digest of the bytes → name of each processed file that still exists, and of the
            latest others: the same content under another name is not trained on again.
        has_begun: whether the learner saved with it has a model: it was trained, or it
            began from a checkpoint. None: a ledger that does not say so, by an older release.
    """

    batch: int = 0
    day: int | None = None
    rows_in: int = 0
    rows_kept: int = 0
    rows_quarantined: int = 0
    files: Mapping[str, int] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)
    has_begun: bool | None = None

    def after(
        self,
        rows_by_file: Mapping[str, int],
        kept: int,
        day: int | None,
        contents: Mapping[str, str],
    ) -> Self:
        """Return the ledger after one more micro-batch; `contents` are those of its files."""
        rows = sum(rows_by_file.values())
        return replace(
            self,
            batch=self.batch + 1,
            day=day,
            rows_in=self.rows_in + rows,
            rows_kept=self.rows_kept + kept,
            rows_quarantined=self.rows_quarantined + rows - kept,
            files={**self.files, **rows_by_file},
            contents={**self.contents, **contents},
        )

    def without_removed(self, existing: Container[str]) -> Self:
        """Return the ledger without files that no longer exist. Their rows stay counted."""
        removed = [digest for digest, name in self.contents.items() if name not in existing]
        forgotten = set(removed[:-_REMEMBERED_CONTENTS])
        return replace(
            self,
            files={n: rows for n, rows in self.files.items() if n in existing},
            contents={d: name for d, name in self.contents.items() if d not in forgotten},
        )

    def write(self, folder: Path) -> None:
        """Write the ledger into a folder."""
        document = asdict(self)
        document[_FILES_KEY] = document.pop("files")
        (folder / LEDGER).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            InputError: it is missing or damaged.
        """
        path = folder / LEDGER
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return cls(files=document.pop(_FILES_KEY), **document)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{path}: cannot read the ledger ({error}); remove {folder} to continue from the "
                "state before it"
            ) from error


class BatchLog:
    """Writes `batches.jsonl`, a line per micro-batch, and the rows in `quarantine/<file>.jsonl`.

    Args:
        folder: the folder of both.
        batch: the last micro-batch of the ledger. Lines of later ones are removed, because their
            files will be processed again.

    Attributes:
        last_s: when the last micro-batch ended, epoch seconds; None: there was none.
    """

    def __init__(self, folder: Path, batch: int) -> None:
        self._batches, self._quarantine = folder / BATCHES, folder / QUARANTINE
        text = self._batches.read_text(encoding="utf-8") if self._batches.exists() else ""
        # A killed process may leave half a line.
        whole = [line for line in text.splitlines() if line.endswith("}")]
        kept = [line for line in whole if json.loads(line)["batch"] <= batch]
        self.last_s: float | None = json.loads(kept[-1])["published_s"] if kept else None
        write_atomically(self._batches, "".join(f"{line}\n" for line in kept))

    def add(self, entry: Mapping[str, Any]) -> None:
        """Append the figures of a micro-batch."""
        with self._batches.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(json_safe(entry)) + "\n")
        self.last_s = entry["published_s"]

    def quarantine(self, rows_by_file: Mapping[str, Quarantined]) -> None:
        """Write the quarantined rows of each file, in place of those of an earlier attempt."""
        for name, rows in rows_by_file.items():
            if rows:
                lines = [json.dumps({"reason": why, "record": record}) for why, record in rows]
                path = self._quarantine / f"{_short(name)}.jsonl"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, "".join(f"{line}\n" for line in lines))


def _short(name: str) -> str:
    """Return a file's name with parts that leave room for endings in a name of 255 bytes."""
    parts = []
    for part in Path(name).parts:
        encoded = os.fsencode(part)
        if len(encoded) > _LONGEST_PART:
            digest = hashlib.sha256(encoded).hexdigest()[:16]
            part = f"{os.fsdecode(encoded[:_LONGEST_PART])}-{digest}"
        parts.append(part)
    return "/".join(parts)
