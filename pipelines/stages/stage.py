"""What a stage is, and how one is executed.

`execute` resolves the inputs and hashes them with the configuration, the source code and
the versions of libraries. If a
version with this hash is committed, it is reused; otherwise the stage runs in a staging folder,
which is then published. A stage that is killed half-way leaves nothing that a reader can find.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeAlias

from features.errors import InputError, RetryableError
from features.partition import Partition, kind_of
from features.redaction import redacted
from pipelines.config import Config
from pipelines.store.artifacts import DamagedError, Store, Version
from pipelines.store.lease import in_use
from pipelines.store.source_digest import library_versions, source_digest, source_revision

Metrics: TypeAlias = Mapping[str, Any]
Inputs: TypeAlias = Mapping[str, Version]

LEAST_FREE_BYTES = 64_000_000
"""Free disk space without which no stage begins."""


def no_report(_: str) -> None:
    """Discard a progress message."""


@dataclass(frozen=True)
class Context:
    """What a stage works with: configuration, day or hour, artifacts, receiver of progress.

    With `looks_only` the inputs are found without setting damaged versions aside. `states` is a
    folder that outlives a killed run of the same version, and is removed once it is published.
    """

    config: Config
    day: Partition
    store: Store
    report: Callable[[str], None] = no_report
    looks_only: bool = False
    states: Path | None = None


Resolver: TypeAlias = Callable[[Context], Inputs]
"""Returns versions to read that are not simply the day's own, under the names of the inputs."""


@dataclass(frozen=True)
class StageResult:
    """What `execute` returns: the version, whether it was committed before, the seconds it took."""

    stage: str
    version: Version
    reused: bool
    seconds: float


class Stage(ABC):
    """A pure job: `(config, day, inputs) → folder`.

    A subclass declares what it reads and implements `run`. Its docstring is shown in Airflow.
    """

    name: ClassVar[str]
    """The CLI command. The Airflow task has `_` in place of `-`."""
    artifact: ClassVar[str]
    """The folder below the workspace."""
    reads: ClassVar[tuple[str | Resolver, ...]] = ()
    """The day's own artifacts by name (see `parse_read`), and resolvers of other versions."""
    after: ClassVar[tuple[str, ...]] = ()
    """Stages that must run earlier in the day although this one reads none of their artifacts."""
    sections: ClassVar[tuple[str, ...]] = ()
    """The configuration sections that the result depends on."""
    tracked: ClassVar[tuple[str, ...]] = ()
    """Files and folders of the result that are sent to MLflow."""
    pool: ClassVar[str] = "default_pool"
    """The Airflow pool. Only one task of the pools `spark` and `gpu` runs at a time."""

    def reusable_version(self, context: Context) -> Version | None:
        """Return an earlier version that is still valid, or None; by default there is none."""
        return None

    def inputs(self, context: Context) -> Inputs:
        """Return the versions to read; raises InputError when a required one is missing."""
        found: dict[str, Version] = {}
        for read in self.reads:
            if callable(read):
                found |= read(context)
                continue
            name, artifact, required = parse_read(read)
            current = context.store.current(artifact, context.day)
            if current is not None or required:
                found[name] = current or require(context, artifact)
        return found

    @abstractmethod
    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """Fill the empty folder `out` and return counts and figures for the commit file."""

    def fingerprint(self, context: Context) -> object:
        """Return what else the result depends on (JSON), for instance the source's files."""
        return None

    def check_result(self, version: Version) -> None:
        """Raise UnsoundError when the published result must stop the day."""
        return


def parse_read(read: str) -> tuple[str, str, bool]:
    """Return name of the input, artifact, and whether it is required.

    >>> parse_read("impressions")
    ('impressions', 'impressions', True)
    >>> parse_read("graph=cross_graph?")
    ('graph', 'cross_graph', False)
    """
    name, _, artifact = read.removesuffix("?").rpartition("=")
    return name or artifact, artifact, not read.endswith("?")


def require(context: Context, artifact: str, command: str = "") -> Version:
    """Return the current version of an artifact of the day or hour.

    Args:
        context: names the day or hour and the store.
        artifact: its name.
        command: makes the artifact; by default the stage that does.

    Raises:
        InputError: there is none; the message names the command.
    """
    version = context.store.current(artifact, context.day)
    if version is None:
        hint = (
            f"run `elastic-ctr {command or _registry().maker_of(artifact)}` "
            f"for that {kind_of(context.day)} first"
        )
        raise InputError(f"no {artifact} of {context.day} in {context.store.workspace}: {hint}")
    return version


def execute(stage: Stage, context: Context) -> StageResult:
    """Run a stage unless its result is committed already, and check the result."""
    started = time.monotonic()

    # 1. If a version of an earlier day is still valid, this day gets no version.
    if (reusable := stage.reusable_version(context)) is not None:
        context.report(f"{stage.name}: {reusable.artifact} of {reusable.day} is still valid")
        return StageResult(stage.name, reusable, True, time.monotonic() - started)

    # 2. Resolve the inputs once: the hash must be of the very versions that the run reads, also if
    # another process publishes newer ones in between.
    inputs = _sound_inputs(stage, context)
    version_hash = _version_hash(stage, context, inputs)

    # 3. Reuse the committed version, or run. After a return to an earlier configuration the old
    # version is only made current again.
    version = _committed(stage, context, version_hash)
    reused = version is not None
    if version is None:
        version, reused = _run_and_publish(stage, context, inputs, version_hash)
    elif context.store.current(stage.artifact, context.day) != version:
        context.store.point(stage.artifact, context.day, version_hash)

    # 4. An unsound result is published first, so that its report can be read.
    stage.check_result(version)
    return StageResult(stage.name, version, reused, time.monotonic() - started)


def _sound_inputs(stage: Stage, context: Context) -> Inputs:
    """Return the inputs, every file checked; damaged versions are set aside.

    In place of a damaged version of an earlier day the resolver offers the one before it. One of
    the day itself must be made again.

    Raises:
        InputError: an input is missing, or one of the day is damaged.
    """
    while True:
        inputs = stage.inputs(context)
        try:
            for version in inputs.values():
                version.verify()
            return inputs
        except DamagedError as error:
            damaged = error.version
            aside = damaged.set_aside()
            if damaged.day == context.day:
                command = _registry().maker_of(damaged.artifact)
                raise InputError(
                    f"{error}; it was set aside as {aside.name}: run `elastic-ctr {command}` again"
                ) from error
            context.report(f"{error}; it was set aside as {aside.name}")


def _committed(stage: Stage, context: Context, version_hash: str) -> Version | None:
    """Return the committed version with this hash, or None; a damaged one is set aside."""
    version = context.store.find(stage.artifact, context.day, version_hash)
    if version is not None:
        try:
            version.verify()
        except DamagedError as error:
            aside = version.set_aside()
            context.report(f"{error}; it was set aside as {aside.name} and is made again")
            return None
    return version


def _run_and_publish(
    stage: Stage, context: Context, inputs: Inputs, version_hash: str
) -> tuple[Version, bool]:
    """Run a stage; return its version, and whether another process published it meanwhile."""
    store, folders = context.store, [version.path.parent for version in inputs.values()]
    staging = store.staging(stage.artifact, context.day, version_hash, context.report)
    with in_use(folders), staging as out:
        if (published := _committed(stage, context, version_hash)) is not None:
            return published, True
        _check_space(stage, context)
        started = time.monotonic()
        # Computed before the run: a file that arrives meanwhile makes the result stale.
        fingerprint = fingerprint_digest(stage, context)
        states = store.states(stage.artifact, context.day, version_hash)
        metrics = stage.run(replace(context, states=states), inputs, out)
        facts = {
            "stage": stage.name,
            "inputs": {
                name: {"artifact": v.artifact, "day": v.day.isoformat(), "hash": v.hash}
                for name, v in sorted(inputs.items())
            },
            "config": redacted(
                {name: config_section(context.config, name) for name in stage.sections}
            ),
            "metrics": dict(metrics),
            "fingerprint": fingerprint,
            "seconds": round(time.monotonic() - started, 3),
            "revision": source_revision(),
        }
        return store.publish(out, stage.artifact, context.day, version_hash, facts), False


def _check_space(stage: Stage, context: Context) -> None:
    """Raise RetryableError when the disk can hardly hold the result: better now than in hours."""
    last = context.store.current(stage.artifact, context.day) or context.store.latest_before(
        stage.artifact, context.day
    )
    needed = max(LEAST_FREE_BYTES, int(1.5 * last.bytes) if last else 0)
    free = shutil.disk_usage(context.store.workspace).free
    if free < needed:
        raise RetryableError(
            f"{context.store.workspace} has {free / 1e6:.0f} MB of free disk space, and "
            f"{stage.name} may need {needed / 1e6:.0f} MB: free some "
            "(`elastic-ctr clean --keep DAYS`) and try again"
        )


def _registry() -> ModuleType:
    # Imported by name: the source digest of a stage follows import statements, and a change of the
    # list of stages must not invalidate the versions of every stage.
    return importlib.import_module("pipelines.stages.registry")


def _version_hash(stage: Stage, context: Context, inputs: Inputs) -> str:
    parts = {
        "stage": stage.name,
        "day": context.day.isoformat(),
        # Inputs count by content: ingesting equal rows again does not cause a new training.
        "inputs": {name: [v.day.isoformat(), v.digest] for name, v in sorted(inputs.items())},
        "config": {name: config_section(context.config, name) for name in stage.sections},
        "fingerprint": stage.fingerprint(context),
        "source": source_digest(type(stage).__module__),
        "libraries": library_versions(type(stage).__module__),
    }
    return _digest(parts, context)


def fingerprint_digest(stage: Stage, context: Context) -> str | None:
    """Return the digest of a stage's fingerprint, which may be long, or None if it has none."""
    fingerprint = stage.fingerprint(context)
    return None if fingerprint is None else _digest(fingerprint, context)


def _digest(content: object, context: Context) -> str:
    """Return the digest of JSON, in which paths below the workspace count from there.

    So a workspace that was moved keeps its versions.
    """
    text = json.dumps(content, sort_keys=True, default=str)
    # As JSON writes it, without the quotes. The slash spares folders whose names only begin so.
    root = json.dumps(str(context.store.workspace.resolve()))[1:-1]
    return hashlib.sha256(text.replace(f"{root}/", "").encode()).hexdigest()[:16]


def config_section(config: Config, name: str) -> Any:
    """Return a section as JSON values, or None if the configuration does not have it."""
    section = getattr(config, name)
    return None if section is None else section.model_dump(mode="json")
