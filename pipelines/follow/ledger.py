"""Which files were taken, and what became of their rows: saved with the checkpoint that learned them, so that both agree."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

from features.errors import InputError

LEDGER = "ledger.json"


@dataclass(frozen=True)
class Ledger:
    """What is learned.

    Attributes:
        batch: micro-batches taken.
        day: the last local day that was learned, counted from 1970.
        rows_in: rows of all files.
        rows_kept: of these, learned.
        rows_quarantined: of these, refused; `rows_in = rows_kept + rows_quarantined`.
        taken: files by name, each with its rows in; of those that are still there.
    """

    batch: int = 0
    day: int | None = None
    rows_in: int = 0
    rows_kept: int = 0
    rows_quarantined: int = 0
    taken: Mapping[str, int] = field(default_factory=dict)

    def after(self, rows_by_file: Mapping[str, int], kept: int, day: int | None) -> Self:
        """Return the ledger after one more micro-batch."""
        rows = sum(rows_by_file.values())
        return replace(
            self,
            batch=self.batch + 1,
            day=day,
            rows_in=self.rows_in + rows,
            rows_kept=self.rows_kept + kept,
            rows_quarantined=self.rows_quarantined + rows - kept,
            taken={**self.taken, **rows_by_file},
        )

    def without_removed(self, there: Container[str]) -> Self:
        """Return the ledger without the names of files that are not there any more; what became of their rows stays counted."""
        return replace(
            self, taken={name: rows for name, rows in self.taken.items() if name in there}
        )

    def write(self, folder: Path) -> None:
        """Write it into a folder."""
        (folder / LEDGER).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what `write` wrote; raises InputError when it is missing or damaged."""
        path = folder / LEDGER
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{path}: no readable ledger ({error}); remove {folder}, the one before it is then taken"
            ) from error
