"""The local tracking journal: events are written here first and sent to MLflow when it answers.

An event is one file. `pipelines.tracking.sync.Tracker.sync` sends the pending ones in order and
marks each as sent. A tracking server that does not answer costs only a delay; an event that it
refuses is moved to `tracking/refused/` with the reason, and the others go on.

What MLflow would refuse is made fit before it is written (`fit_name`, `_fit`): characters of names
that MLflow does not allow become `_`, long values are cut, figures that are not finite are left
out. Tags say which.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from features.files import write_atomically
from features.partition import Partition, folder_of, parse_partition
from features.redaction import redact

_PENDING, _SENT, _REASON = ".pending.json", ".sent.json", ".reason.txt"
_LONGEST_NAME = 240
_LONGEST_PARAM, _LONGEST_TAG = 500, 4000
_FORBIDDEN = re.compile(r"[^\w./ :-]", re.ASCII)


@dataclass(frozen=True)
class Event:
    """One stage that ran or failed. Times are epoch milliseconds; artifacts are local paths.

    `day_metrics` are for the runs of the day and of the pipeline. `settings` is the whole
    configuration as YAML. A dataset has `name`, `digest`, `context` and `uri`.
    """

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
    datasets: tuple[Mapping[str, str], ...] = ()
    settings: str = ""

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
        """Write an event, made fit for MLflow and without secrets; it is pending until sent."""
        # The name begins with the time, so that the order of names is the order of events.
        name = f"{event.ended_ms}-{event.stage}-{event.version}{_PENDING}"
        path = self._folder(event.day) / name
        write_atomically(path, json.dumps(asdict(_fit(event)), sort_keys=True))
        return path

    def has(self, day: Partition, stage: str, version: str) -> bool:
        """Whether there is an event of a stage's version, sent or not."""
        folder, name = folder_of(day), f"*-{stage}-{version}.*"
        home = self.workspace / "tracking"
        return any(path for top in (home, self._refused) for path in (top / folder).glob(name))

    def pending(self) -> list[Path]:
        """Return the files of the events that were not sent yet, oldest first."""
        paths = self.workspace.glob(f"tracking/dt=*/**/*{_PENDING}")
        return sorted(paths, key=lambda path: path.name)

    def read(self, path: Path) -> Event:
        """Read an event; raises ValueError, TypeError or KeyError when the file holds none."""
        document = json.loads(path.read_text(encoding="utf-8"))
        # Events of earlier releases have no datasets.
        lists = {name: tuple(document.get(name, ())) for name in ("artifacts", "datasets")}
        return Event(**{**document, **lists})

    def mark_sent(self, path: Path) -> None:
        """Record that an event reached MLflow."""
        path.rename(path.with_name(path.name.replace(_PENDING, _SENT)))

    def set_aside(self, path: Path, reason: str) -> None:
        """Move an event that can never be sent to `refused/`, with the reason in a second file."""
        target = self._refused / path.relative_to(self.workspace / "tracking")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target.with_name(target.name + _REASON), redact(reason) + "\n")
        path.rename(target)

    def refused(self) -> dict[Path, str]:
        """Return the events that were set aside, and why."""
        reasons = sorted(self._refused.glob(f"dt=*/**/*{_REASON}"))
        return {
            path.with_name(path.name.removesuffix(_REASON)): path.read_text("utf-8").strip()
            for path in reasons
        }

    def remember_run(
        self, day: str, run_id: str, links: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        """Store the id of the parent run of a day or hour, and links: stage → name → address."""
        known = self._run(parse_partition(day)).get("links", {})
        document = {"run_id": run_id, "links": {**known, **(links or {})}}
        write_atomically(self._folder(day) / "run.json", json.dumps(document))

    def run_id(self, day: Partition) -> str | None:
        """Return the id of the parent run of a day or hour, or None if MLflow has none yet."""
        return self._run(day).get("run_id")

    def links(self, day: Partition, stage: str) -> dict[str, str]:
        """Return the addresses of what MLflow has of a stage's last run: name → address."""
        return dict(self._run(day).get("links", {}).get(stage, {}))

    def _run(self, day: Partition) -> dict[str, Any]:
        path = self.workspace / "tracking" / folder_of(day) / "run.json"
        found: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
        return found

    @property
    def _refused(self) -> Path:
        return self.workspace / "tracking" / "refused"

    def _folder(self, day: str) -> Path:
        folder = self.workspace / "tracking" / folder_of(parse_partition(day))
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def fit_name(name: str) -> str:
    """Return a name as MLflow allows it: letters, digits and `_-. :/`, at most 250 characters.

    Other characters become `_`, and the first eight digits of the name's SHA-256 are appended, so
    that two names stay two. A name that would be no path (`a//b`, `../a`) has no `/` left.

    >>> fit_name("model.dim")
    'model.dim'
    >>> fit_name("source.rename.Click (0/1)")
    'source.rename.Click _0/1_-a3bb4ea7'
    """
    fit = _FORBIDDEN.sub("_", name)[:_LONGEST_NAME]
    if posixpath.normpath(fit) != fit or fit.startswith((".", "/")):
        fit = fit.replace("/", "_").lstrip(".") or "_"
    return fit if fit == name else f"{fit}-{sha256(name.encode()).hexdigest()[:8]}"


def _fit(event: Event) -> Event:
    """Return the event as MLflow takes it, without secrets; tags name what was changed."""
    figures = {**event.metrics, **event.day_metrics}
    names = [*figures, *event.params, *event.tags]
    changes = {
        "elastic_ctr.not_finite": sorted(k for k, v in figures.items() if not math.isfinite(v)),
        "elastic_ctr.renamed": {fit_name(name): name for name in names if fit_name(name) != name},
    }
    tags = {**event.tags, **{name: json.dumps(what) for name, what in changes.items() if what}}
    return replace(
        event,
        metrics={fit_name(k): v for k, v in event.metrics.items() if math.isfinite(v)},
        day_metrics={fit_name(k): v for k, v in event.day_metrics.items() if math.isfinite(v)},
        params={fit_name(k): redact(v)[:_LONGEST_PARAM] for k, v in event.params.items()},
        tags={fit_name(k): redact(v)[:_LONGEST_TAG] for k, v in tags.items()},
        datasets=tuple({k: redact(v) for k, v in each.items()} for each in event.datasets),
        settings=redact(event.settings),
    )
