"""Running stages: execute, write to the tracking journal, record failures."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from features.errors import ElasticCtrError, NoDataError, RetryableError
from pipelines.failures import explain
from pipelines.stages.registry import STAGES, make_stage
from pipelines.stages.report import day_report, figures_of
from pipelines.stages.stage import Context, Stage, StageResult, execute
from pipelines.tracking.journal import Event, TrackingJournal
from pipelines.tracking.sync import Tracker, run_tags

_LONGEST_PARAMETER = 200


def run_stage(name: str, context: Context) -> StageResult:
    """Run one stage and journal it; a failure is journalled and sent before it is raised again."""
    started_ms = int(time.time() * 1000)
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
        _journal_success(stage, context, result, started_ms, int(time.time() * 1000))
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
        metrics=dict(metrics),
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


def _is_unknown(context: Context, result: StageResult) -> bool:
    """Whether a version of this day has no event: its process was killed after it published."""
    version, journal = result.version, TrackingJournal(context.store.workspace)
    return version.day == context.day and not journal.has(version.day, result.stage, version.hash)


def _journal_success(
    stage: Stage, context: Context, result: StageResult, started_ms: int, ended_ms: int
) -> None:
    version = result.version
    paths = (version.path / entry for entry in stage.tracked)
    # The last stage also sends the figures of the whole day, for the parent run.
    monitored = stage.name == "monitor"
    _journal(
        context,
        stage.name,
        version.hash,
        started_ms,
        ended_ms=ended_ms,
        metrics=figures_of(version.metrics),
        params=_params(version.commit["config"]),
        tags=run_tags(_config_tags(context), {version.artifact: version.digest}),
        artifacts=tuple(str(path) for path in paths if path.exists()),
        day_metrics=figures_of(day_report(context.store, context.day)) if monitored else {},
    )


def _journal_failure(name: str, context: Context, started_ms: int, error: Exception) -> None:
    tags = {"error": f"{type(error).__name__}: {error}", **run_tags(_config_tags(context), {})}
    # There is no version; the time keeps the runs of two failures apart.
    _journal(context, name, f"failed-{started_ms}", started_ms, "FAILED", tags=tags)
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


def _params(sections: object, prefix: str = "") -> dict[str, str]:
    """Flatten configuration sections to `model.deep.l21 = 0.001`."""
    if not isinstance(sections, dict):
        text = str(sections)
        # Long lists, such as the fields, are no parameters.
        return {prefix: text} if len(text) <= _LONGEST_PARAMETER else {}
    found: dict[str, str] = {}
    for name, value in sections.items():
        found |= _params(value, f"{prefix}.{name}" if prefix else name)
    return found
