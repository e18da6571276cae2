"""The local tracking journal: events are written here first and sent to MLflow when it answers.

An event is one file. `pipelines.tracking.sync.Tracker.sync` sends the pending ones in order and
marks each as sent. A tracking server that does not answer costs only a delay.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from features.files import write_atomically
from features.partition import Partition, folder_of, parse_partition


@dataclass(frozen=True)
class Event:
    """One stage that ran or failed. Times are epoch milliseconds; artifacts are local paths."""

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
        """The tag by which this stage's MLflow run is found again."""
        return f"{self.day_key}/{self.stage}/{self.version}"

    @property
    def day_key(self) -> str:
        """The tag by which the parent run of the day or hour is found again."""
        return f"{self.pipeline}/{self.day}"


@dataclass(frozen=True)
class TrackingJournal:
    """The events of a workspace, below `<workspace>/tracking`."""

    workspace: Path

    def append(self, event: Event) -> Path:
        """Write an event; it is pending until marked as sent."""
        # The name begins with the time, so that the order of names is the order of events.
        name = f"{event.ended_ms}-{event.stage}-{event.version}.pending.json"
        path = self._folder(event.day) / name
        write_atomically(path, json.dumps(asdict(event), sort_keys=True))
        return path

    def pending(self) -> Iterator[tuple[Path, Event]]:
        """Yield the events that were not sent yet, oldest first."""
        paths = self.workspace.glob("tracking/dt=*/**/*.pending.json")
        for path in sorted(paths, key=lambda path: path.name):
            document = json.loads(path.read_text(encoding="utf-8"))
            yield path, Event(**{**document, "artifacts": tuple(document["artifacts"])})

    def mark_sent(self, path: Path) -> None:
        """Record that an event reached MLflow."""
        path.rename(path.with_name(path.name.replace(".pending.json", ".sent.json")))

    def remember_run(self, day: str, run_id: str) -> None:
        """Store the id of the parent run of a day or hour with its events."""
        write_atomically(self._folder(day) / "run.json", json.dumps({"run_id": run_id}))

    def run_id(self, day: Partition) -> str | None:
        """Return the id of the parent run of a day or hour, or None if MLflow has none yet."""
        path = self.workspace / "tracking" / folder_of(day) / "run.json"
        if not path.is_file():
            return None
        return str(json.loads(path.read_text(encoding="utf-8"))["run_id"])

    def _folder(self, day: str) -> Path:
        folder = self.workspace / "tracking" / folder_of(parse_partition(day))
        folder.mkdir(parents=True, exist_ok=True)
        return folder
