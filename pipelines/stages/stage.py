"""What a stage is: declared inputs and configuration, one `run`, one publication.

`execute` is the template: resolve inputs, hash them with the configuration and the source, return the committed
version if there is one, else run into a staging folder, publish, and act on the verdict. Work done twice costs
nothing; work killed half-way leaves no trace that a reader could meet.
"""

from __future__ import annotations

import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from features.errors import InputError
from features.partition import Partition, kind_of
from pipelines.config import Config
from pipelines.store.artifacts import Store, Version
from pipelines.store.source_digest import source_digest

Metrics = Mapping[str, Any]
Inputs = Mapping[str, Version]


def quiet(_: str) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True)
class Context:
    """What every stage works with: the configuration, the day or hour, the artifacts, and where progress goes."""

    config: Config
    day: Partition
    store: Store
    report: Callable[[str], None] = quiet


@dataclass(frozen=True)
class Outcome:
    """What `execute` did: the version, whether it was there already, and the seconds it took."""

    stage: str
    version: Version
    reused: bool
    seconds: float


class Stage(ABC):
    """A pure job: `(config, day, inputs) → folder`. Subclasses declare; `execute` does the rest."""

    name: ClassVar[str]
    """The CLI command and the Airflow task."""
    artifact: ClassVar[str]
    """The folder below the workspace."""
    sections: ClassVar[tuple[str, ...]] = ()
    """The configuration sections that the result depends on."""

    def instead(self, context: Context) -> Version | None:
        """Return a committed version that makes this day's needless, or None, which most stages always do."""
        return None

    @abstractmethod
    def inputs(self, context: Context) -> Inputs:
        """Return the versions to read, resolved once; raises InputError when a required one is missing."""

    @abstractmethod
    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """Fill the empty folder `out` and return counts and figures for the commit file."""

    def fingerprint(self, context: Context) -> object:
        """Return what else the result depends on (JSON), for instance the source's files."""
        return None

    def judge(self, version: Version) -> None:
        """Raise UnsoundError when the published result must stop the day."""
        return


def execute(stage: Stage, context: Context) -> Outcome:
    """Run a stage unless its result is committed already, then let it judge the result."""
    started = time.monotonic()
    if standing := stage.instead(context):
        context.report(f"{stage.name}: {standing.artifact} of {standing.day} will do")
        return Outcome(stage.name, standing, True, time.monotonic() - started)
    inputs = stage.inputs(context)
    version_hash = _hash(stage, context, inputs)
    version = context.store.find(stage.artifact, context.day, version_hash)
    reused = version is not None
    if version is None:
        version = _publish(stage, context, inputs, version_hash)
    elif context.store.current(stage.artifact, context.day) != version:
        context.store.point(stage.artifact, context.day, version_hash)
    stage.judge(version)
    return Outcome(stage.name, version, reused, time.monotonic() - started)


def require(context: Context, artifact: str, command: str) -> Version:
    """Return the current version of an artifact of the day or hour; raises InputError naming the command that makes it."""
    version = context.store.current(artifact, context.day)
    if version is None:
        cure = f"run `elastic-ctr {command}` for that {kind_of(context.day)} first"
        raise InputError(f"no {artifact} of {context.day} in {context.store.workspace}: {cure}")
    return version


def _publish(stage: Stage, context: Context, inputs: Inputs, version_hash: str) -> Version:
    with context.store.staging(stage.artifact, context.day, version_hash) as out:
        started = time.monotonic()
        metrics = stage.run(context, inputs, out)
        facts = {
            "stage": stage.name,
            "inputs": {
                k: {"artifact": v.artifact, "day": v.day.isoformat(), "hash": v.hash}
                for k, v in sorted(inputs.items())
            },
            "config": {name: config_section(context.config, name) for name in stage.sections},
            "metrics": dict(metrics),
            "seconds": round(time.monotonic() - started, 3),
        }
        return context.store.publish(out, stage.artifact, context.day, version_hash, facts)


def _hash(stage: Stage, context: Context, inputs: Inputs) -> str:
    """Hash what the result depends on. Inputs count by content, so a re-ingest of equal rows retrains nothing."""
    parts = {
        "stage": stage.name,
        "day": context.day.isoformat(),
        "inputs": {k: [v.day.isoformat(), v.digest] for k, v in sorted(inputs.items())},
        "config": {name: config_section(context.config, name) for name in stage.sections},
        "fingerprint": stage.fingerprint(context),
        "source": source_digest(type(stage).__module__),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def config_section(config: Config, name: str) -> Any:
    """Return a section as JSON values in an order that is the same in every process."""
    section = getattr(config, name)
    return None if section is None else _ordered(section.model_dump(mode="json"))


def _ordered(value: Any) -> Any:
    """Sort what came from sets, whose order differs between processes."""
    if isinstance(value, dict):
        return {k: sorted(v) if k == "forbidden" else _ordered(v) for k, v in value.items()}
    return [_ordered(v) for v in value] if isinstance(value, list) else value
