"""The local tracking journal: what happened is written here first, and sent to MLflow when it answers.

An event is one file, written whole. `pipelines.tracking.sync.sync` sends the pending ones in order and marks each as sent,
so a tracking server that is away costs nothing but a delay, and no event is sent twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from features.partition import Partition, folder_of, parse_partition


@dataclass(frozen=True)
class Event:
    """One stage that ran (or failed) for a day or an hour. Times are epoch milliseconds; artifacts are local paths."""

    pipeline: str
    day: str
    stage: str
    version: str
    status: str
    started_ms: int
    ended_ms: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    artifacts: tuple[str, ...] = ()
    day_metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def run_key(self) -> str:
        """What finds this stage's MLflow run again."""
        return f"{self.day_key}/{self.stage}/{self.version}"

    @property
    def day_key(self) -> str:
        """What finds the parent run of the day or hour again."""
        return f"{self.pipeline}/{self.day}"


@dataclass(frozen=True)
class Journal:
    """The events of a workspace, below `<workspace>/tracking`."""

    workspace: Path

    def append(self, event: Event) -> Path:
        """Write an event; it is pending until marked as sent."""
        folder = self._folder(event.day)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{event.ended_ms}-{event.stage}-{event.version}.pending.json"
        _replace(path, asdict(event))
        return path

    def pending(self) -> Iterator[tuple[Path, Event]]:
        """Yield events that were not sent yet, oldest first."""
        for path in sorted(
            self.workspace.glob("tracking/dt=*/**/*.pending.json"), key=lambda p: p.name
        ):
            document = json.loads(path.read_text(encoding="utf-8"))
            yield path, Event(**{**document, "artifacts": tuple(document["artifacts"])})

    def mark_sent(self, path: Path) -> None:
        """Record that an event reached MLflow."""
        path.rename(path.with_name(path.name.replace(".pending.json", ".sent.json")))

    def remember_run(self, day: str, run_id: str) -> None:
        """Keep the id of a day's or hour's parent run beside its events."""
        self._folder(day).mkdir(parents=True, exist_ok=True)
        _replace(self._folder(day) / "run.json", {"run_id": run_id})

    def run_id(self, day: Partition) -> str | None:
        """Return the id of the day's parent run, or None while MLflow has not heard of it."""
        path = self._folder(day.isoformat()) / "run.json"
        return (
            str(json.loads(path.read_text(encoding="utf-8"))["run_id"]) if path.is_file() else None
        )

    def _folder(self, day: str) -> Path:
        return self.workspace / "tracking" / folder_of(parse_partition(day))


def _replace(path: Path, document: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    temporary.write_text(json.dumps(document, sort_keys=True), encoding="utf-8")
    temporary.replace(path)
