"""Running stages: execute, write to the tracking journal, record failures."""

from __future__ import annotations

import hashlib
import json
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from features.errors import ElasticCtrError, NoDataError, RetryableError, UnsoundError
from features.partition import parse_partition
from features.redaction import redacted
from pipelines.config import Config
from pipelines.failures import explain
from pipelines.stages.registry import STAGES, make_stage
from pipelines.stages.report import day_metrics, day_report, figures_of
from pipelines.stages.stage import Context, Stage, StageResult, config_section, execute
from pipelines.store.artifacts import Version
from pipelines.tracking.champion import refresh_blocked
from pipelines.tracking.journal import Event, TrackingJournal
from pipelines.tracking.sync import Tracker, run_tags
from spark_jobs.settings import fill_pattern

_LONGEST_PARAMETER = 200
_DIGEST = 16
"""Characters of a dataset's digest in MLflow, which keeps up to 36."""

_DATASETS = ("impressions", "cross_graph")
"""Artifacts that are MLflow's datasets. The digests of the others are tags."""


def run_stage(name: str, context: Context) -> StageResult:
    """Run one stage and journal it; a failure is journalled and sent before it is raised again."""
    started_ms, cpu_s = int(time.time() * 1000), _used()["system/cpu_seconds"]
    # Here and not in the stage, whose version would then depend on the source of the tracking.
    if name == "train":
        refresh_blocked(context.store, context.config.tracking.registered_model, context.report)
    try:
        stage = make_stage(name)
        result = execute(stage, context)
    except NoDataError:
        # A day without data is skipped. That is no failure and no run.
        raise
    except Exception as error:
        try:
            _journal_failure(name, context, started_ms, error)
        except (OSError, ElasticCtrError) as second:
            # The same full disk, as a rule. What the operator must see is the first error.
            context.report(f"the failure is not in the tracking journal: {second}")
        raise
    if not result.reused:
        used = _used()
        used["system/cpu_seconds"] -= cpu_s
        _journal_success(stage, context, result, started_ms, int(time.time() * 1000), used)
    elif _is_unknown(context, result):
        commit = result.version.commit
        ended_ms = int(commit["committed_at_s"] * 1000)
        started_ms = ended_ms - int(commit["seconds"] * 1000)
        _journal_success(stage, context, result, started_ms, ended_ms)
    if name == "monitor":
        sync(context)
    return result


def run_day(context: Context, stages: Sequence[str] = tuple(STAGES)) -> Iterator[StageResult]:
    """Run the stages of one day or hour in order and yield each result when it is there."""
    for name in stages:
        yield run_stage(name, context)


def track_result(
    context: Context,
    command: str,
    started_ms: int,
    metrics: Mapping[str, float],
    params: Mapping[str, str],
    files: tuple[Path, ...],
) -> None:
    """Write the result of a command that is no stage to the journal; send it if MLflow answers.

    Args:
        context: gives configuration and day or hour.
        command: name of the command.
        started_ms: start of the command, epoch milliseconds.
        metrics: figures of the result.
        params: arguments of the command.
        files: written files; the first is the report, whose content names the version.
    """
    _journal(
        context,
        command,
        hashlib.sha256(files[0].read_bytes()).hexdigest()[:16],
        started_ms,
        metrics={f"{command}/{name}": value for name, value in metrics.items()},
        params=dict(params),
        tags={"config.name": context.config.name},
        artifacts=tuple(map(str, files)),
    )
    sync(context)


def sync(context: Context) -> None:
    """Send the journal to MLflow; while MLflow does not answer, the events are kept."""
    try:
        Tracker(context.store.workspace, context.config.tracking.experiment).sync()
    except ElasticCtrError as error:
        context.report(f"tracking delayed: {error}")


def _used() -> dict[str, float]:
    """Return what this process and its ended children used, as MLflow's system metrics."""
    both = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "system/cpu_seconds": sum(used.ru_utime + used.ru_stime for used in both),
        # Linux counts in KiB.
        "system/peak_memory_mb": max(used.ru_maxrss for used in both) * 1024 / 1e6,
    }


def _is_unknown(context: Context, result: StageResult) -> bool:
    """Whether a version of this day has no event: its process was killed after it published."""
    version, journal = result.version, TrackingJournal(context.store.workspace)
    return version.day == context.day and not journal.has(version.day, result.stage, version.hash)


def _journal_success(
    stage: Stage,
    context: Context,
    result: StageResult,
    started_ms: int,
    ended_ms: int,
    used: Mapping[str, float] = MappingProxyType({}),
) -> None:
    version = result.version
    figures = figures_of(version.metrics)
    # The last stage also sends the figures of the whole day, for the parent run.
    monitored = stage.name == "monitor"
    _journal(
        context,
        stage.name,
        version.hash,
        started_ms,
        ended_ms=ended_ms,
        metrics={**{f"{stage.name}/{k}": v for k, v in figures.items()}, **used},
        params=_chosen(context.config, stage.sections),
        tags=run_tags(_config_tags(context), {version.artifact: version.digest}),
        artifacts=_tracked(stage, version),
        day_metrics=day_metrics(day_report(context.store, context.day)) if monitored else {},
        datasets=_datasets(stage, context, version),
        settings=yaml.safe_dump(redacted(context.config.model_dump(mode="json")), sort_keys=False),
    )


def _tracked(stage: Stage, version: Version) -> tuple[str, ...]:
    paths = (version.path / entry for entry in stage.tracked)
    return tuple(str(path) for path in paths if path.exists())


def _journal_failure(name: str, context: Context, started_ms: int, error: Exception) -> None:
    tags = {"error": f"{type(error).__name__}: {error}", **run_tags(_config_tags(context), {})}
    # There is no version; the time keeps the runs of two failures apart.
    files: tuple[str, ...] = ()
    if isinstance(error, UnsoundError):
        # A stage that checks its result has published it: its report says what is unsound.
        stage = make_stage(name)
        version = context.store.current(stage.artifact, context.day)
        checks = type(stage).check_result is not Stage.check_result
        files = _tracked(stage, version) if checks and version else ()
    _journal(
        context, name, f"failed-{started_ms}", started_ms, "FAILED", tags=tags, artifacts=files
    )
    # A retryable error is often MLflow itself not answering; the next stage sends the event.
    if not isinstance(explain(error), RetryableError):
        sync(context)


def _journal(
    context: Context,
    stage: str,
    version: str,
    started_ms: int,
    status: str = "FINISHED",
    ended_ms: int | None = None,
    **details: Any,
) -> None:
    name, day = context.config.name, context.day.isoformat()
    ended_ms = ended_ms or int(time.time() * 1000)
    event = Event(name, day, stage, version, status, started_ms, ended_ms, **details)
    TrackingJournal(context.store.workspace).append(event)


def _config_tags(context: Context) -> dict[str, str]:
    config = context.config
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {"name": config.name, "hash": digest, "seed": str(config.training.seed)}


def _chosen(config: Config, sections: Sequence[str]) -> dict[str, str]:
    """Return the settings that a person chose: those that are not the default."""
    chosen: dict[str, str] = {}
    for name in sections:
        section, field = getattr(config, name), Config.model_fields[name]
        # Without a default, what the YAML file says was chosen.
        required = field.is_required() or field.default is None
        values = (
            section and section.model_dump(mode="json", exclude_unset=True)
            if required
            else config_section(config, name)
        )
        default = {} if required else _leaves(redacted(field.default.model_dump(mode="json")), name)
        own = _leaves(redacted(values), name)
        chosen |= {key: value for key, value in own.items() if value != default.get(key)}
    return chosen


def _leaves(values: object, prefix: str) -> dict[str, str]:
    """Flatten a section to `model.deep.l21 = 0.001`; a long value is given by its digest."""
    if isinstance(values, dict):
        below = (_leaves(value, f"{prefix}.{name}") for name, value in values.items())
        return {key: value for leaves in below for key, value in leaves.items()}
    text = str(values)
    if len(text) > _LONGEST_PARAMETER:
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        entries = f"{len(values)} entries" if isinstance(values, list) else f"{text[:80]}..."
        text = f"{entries}, sha256 {digest}"
    return {prefix: text}


def _datasets(stage: Stage, context: Context, version: Version) -> tuple[dict[str, str], ...]:
    """Return what a stage learnt from or checked itself on; of `ingest`, the raw log."""
    if stage.name == "ingest":
        paths = ", ".join(fill_pattern(p, context.day) for p in context.config.source.patterns)
        digest = str(version.commit.get("fingerprint"))
        return ({"name": "log", "digest": digest, "context": "source", "uri": paths},)
    found = []
    for name, of in version.commit["inputs"].items():
        if of["artifact"] in _DATASETS:
            day = parse_partition(of["day"])
            read = context.store.find(of["artifact"], day, of["hash"])
            # What `train` scores before it learns from the rest is held out of the day before.
            scores = stage.name == "validate-model" or name == "previous_impressions"
            trains = stage.name in ("train", "pretrain") and not scores
            found.append(
                {
                    "name": f"{of['artifact']}/{of['day']}",
                    "digest": (read.digest if read else of["hash"])[:_DIGEST],
                    "context": "training" if trains else "evaluation" if scores else "preparation",
                    "uri": str(read.path if read else ""),
                }
            )
    return tuple(found)
