"""Whether the days and hours that should exist do, and whether their inputs have changed since.

A version is stale when the inputs that its stage would read now differ from those it recorded, by
content. A changed configuration or source code makes no version stale. Everything is read from
commit files: neither Airflow nor MLflow is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from features.errors import InputError
from features.partition import HOURS_PER_DAY, Partition, end_h, parse_partition
from features.timezones import parse_timezone
from pipelines.stages.registry import STAGES, artifacts, make_stage
from pipelines.stages.stage import Context, Inputs, Stage, fingerprint_digest, parse_read
from pipelines.store.artifacts import Store, Version

_DECISIONS = ("validate-model", "promote", "monitor")


class State(StrEnum):
    """The state of a day or hour, the worst last."""

    OK = "ok"
    SKIPPED = "skipped"
    STALE = "stale"
    INCOMPLETE = "incomplete"
    LATE = "late"
    MISSING = "missing"
    BLOCKED = "blocked"


@dataclass
class Freshness:
    """Finds states of days; answers are kept, so one object sees one moment of the workspace.

    Args:
        context: gives configuration and store; its day is not used.
    """

    context: Context
    _reasons: dict[tuple[str, Partition], str | None] = field(default_factory=dict)

    def state(self, day: Partition, last: Partition | None) -> tuple[State, str]:
        """Return the state of a day or hour that should be complete, and the reason.

        Args:
            day: the day or hour.
            last: the last day or hour that has an artifact. One without any is `late` after it and
                `missing` before it.
        """
        store = self.context.store
        versions = {name: store.current(name, day) for name in artifacts()}
        if not any(versions.values()):
            if skip_record(store, day).exists():
                return State.SKIPPED, "the source had no data, and the day was skipped"
            late = last is None or end_h(day) > end_h(last)
            return (State.LATE if late else State.MISSING), "no stage has committed anything"
        if blocked := _blocked_by(versions):
            return State.BLOCKED, blocked
        absent = [name for name in STAGES if self._is_absent(name, versions)]
        if absent:
            return State.INCOMPLETE, f"not committed: {', '.join(absent)}"
        stale = [f"{name}: {why}" for name, why in self.stale_stages(day)]
        return (State.STALE, stale[0]) if stale else (State.OK, "")

    def stale_stages(self, day: Partition) -> Iterator[tuple[str, str]]:
        """Yield the stages of a day or hour whose version is stale, each with the reason."""
        for name in STAGES:
            if reason := self.stale(make_stage(name), day):
                yield name, reason

    def stale(self, stage: Stage, day: Partition) -> str | None:
        """Return why the current version of a stage is stale, also through its inputs, or None."""
        key = (stage.artifact, day)
        if key not in self._reasons:
            version = self.context.store.current(stage.artifact, day)
            self._reasons[key] = None
            if version is not None:
                self._reasons[key] = self._reason(stage, version)
        return self._reasons[key]

    def _reason(self, stage: Stage, version: Version) -> str | None:
        if reason := changed_inputs(stage, self.context, version):
            return reason
        # The inputs of an input are older than it, so this ends.
        for entry in version.commit["inputs"].values():
            if entry["artifact"] not in artifacts():
                continue
            # The champion that a candidate was compared with is no input of the candidate.
            day = parse_partition(entry["day"])
            if stage.name in _DECISIONS and day != version.day:
                continue
            maker = make_stage(_maker(entry["artifact"]))
            if self.stale(maker, day):
                return f"{entry['artifact']} of {day} is stale"
        return None

    @staticmethod
    def _is_absent(name: str, versions: dict[str, Version | None]) -> bool:
        stage = make_stage(name)
        # A stage that may reuse an earlier day's version has no version for the day then.
        reuses = type(stage).reusable_version is not Stage.reusable_version
        return versions[stage.artifact] is None and not reuses


def skip_record(store: Store, day: Partition) -> Path:
    """Return the path of the file that says that a day or hour without data was skipped."""
    return store.workspace / "skipped" / str(day)


def record_skip(store: Store, day: Partition) -> None:
    """Note that a day or hour without data was skipped on purpose."""
    path = skip_record(store, day)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def end_of(context: Context, day: Partition) -> datetime:
    """Return when a day or hour ends, in the schema's time zone."""
    days, hours = divmod(end_h(day), HOURS_PER_DAY)
    zone = parse_timezone(context.config.features.timezone)
    return datetime.combine(date.fromordinal(days), datetime.min.time(), zone) + timedelta(
        hours=hours
    )


def changed_inputs(stage: Stage, context: Context, version: Version) -> str | None:
    """Return how the inputs that a stage would read now differ from those of a version, or None.

    Inputs that were deleted since count as unchanged.

    Args:
        stage: the stage that made the version.
        context: gives configuration and store.
        version: a committed version.
    """
    here = Context(context.config, version.day, context.store, looks_only=True)
    if stage.name == "ingest" and _source_changed(stage, here, version):
        return "the files of the source changed since"
    try:
        now = _resolve(stage, here)
    except InputError as error:
        return str(error)
    recorded = version.commit["inputs"]
    for name, current in now.items():
        if name not in recorded:
            return f"made without {current.artifact} of {current.day}"
        if reason := _difference(context.store, recorded[name], current):
            return reason
    return None


def _difference(store: Store, entry: Mapping[str, str], current: Version) -> str | None:
    if entry["hash"] == current.hash:
        return None
    day = parse_partition(entry["day"])
    used = store.find(entry["artifact"], day, entry["hash"])
    # `clean` deleted what it was made from: nothing newer of that day is known.
    if used is None and store.current(entry["artifact"], day) is None:
        return None
    if day != current.day:
        return f"made without {current.artifact} of {current.day}, from that of {day}"
    if used is None or used.digest != current.digest:
        return f"{current.artifact} of {current.day} changed since"
    return None


def _resolve(stage: Stage, context: Context) -> Inputs:
    found: dict[str, Version] = {}
    for read in stage.reads:
        if callable(read):
            # Decisions are compared with the champion of their time, which changes rightly.
            found |= {} if stage.name in _DECISIONS else read(context)
            continue
        name, artifact, _ = parse_read(read)
        # An input that is missing is `incomplete`, not stale.
        if current := context.store.current(artifact, context.day):
            found[name] = current
    return found


def _source_changed(stage: Stage, context: Context, version: Version) -> bool:
    source = context.config.source
    # A file without a date in its name may hold rows of any day: every new one would make all days
    # stale. No files: the log was archived.
    if not all("{date}" in pattern for pattern in source.patterns):
        return False
    recorded = version.commit.get("fingerprint")
    if not recorded or not stage.fingerprint(context):
        return False
    return fingerprint_digest(stage, context) != recorded


def _blocked_by(versions: dict[str, Version | None]) -> str | None:
    data, report = versions.get("data_verdict"), versions.get("validation_report")
    if data is not None and data.metrics.get("passed") is False:
        return "the data failed its gate"
    if report is not None and report.metrics.get("verdict") == "unsound":
        return "the model is unsound"
    return None


def _maker(artifact: str) -> str:
    return dict(zip(artifacts(), STAGES, strict=True))[artifact]
