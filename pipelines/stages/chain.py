"""The order of the stages, and how one is run: executed, journalled, its failure recorded."""

from __future__ import annotations

import hashlib
import importlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from features.errors import NoDataError, RetryableError
from pipelines.config import Config
from pipelines.stages.report import day_report, figures_of
from pipelines.stages.stage import Context, Outcome, Stage, config_section, execute
from pipelines.tracking.journal import Event, Journal
from pipelines.tracking.sync import Tracker, run_tags

STAGES: dict[str, str] = {
    "ingest": "pipelines.stages.ingest:Ingest",
    "validate-data": "pipelines.stages.validate_data:ValidateData",
    "feature-statistics": "pipelines.stages.feature_statistics:FeatureStatistics",
    "cross-counts": "pipelines.stages.cross_counts:CrossCounts",
    "cross-graph": "pipelines.stages.cross_graph:CrossGraph",
    "pretrain": "pipelines.stages.pretrain:Pretrain",
    "train": "pipelines.stages.train:Train",
    "compress": "pipelines.stages.compress:Compress",
    "export": "pipelines.stages.export:Export",
    "validate-model": "pipelines.stages.validate_model:ValidateModel",
    "promote": "pipelines.stages.promote:Promote",
    "monitor": "pipelines.stages.monitor:Monitor",
}
"""Command → class, in the order of a day or hour. A class is imported when its stage runs, not before."""

_ARTIFACTS = {
    "validate-model": ("verdict.json", "plots"),
    "train": ("metrics.json", "quality.json", "progressive.json", "table_statistics.json", "plots"),
    "cross-graph": ("graph.json", "plots"),
    "pretrain": ("metrics.json", "plots"),
    "compress": ("report.json",),
    "validate-data": ("verdict.json", "data_docs"),
    "promote": ("decision.json",),
    "monitor": ("metrics.json",),
}
"""What of a stage's folder goes to MLflow as it is."""


def make_stage(name: str) -> Stage:
    """Return the stage of a command."""
    module, _, attribute = STAGES[name].partition(":")
    stage: Stage = getattr(importlib.import_module(module), attribute)()
    return stage


def run_stage(name: str, context: Context) -> Outcome:
    """Run one stage and journal it; a failure is journalled and sent before it is raised again."""
    started_ms = _now_ms()
    try:
        outcome = execute(make_stage(name), context)
    except NoDataError:
        raise
    except Exception as error:
        _journal_failure(name, context, started_ms, error)
        raise
    if not outcome.reused:
        Journal(context.store.workspace).append(_event(name, context, outcome, started_ms))
    if name == "monitor":
        sync(context)
    return outcome


def run_day(context: Context, stages: Sequence[str] = tuple(STAGES)) -> Iterator[Outcome]:
    """Run the stages of one day or hour in order, yielding each outcome as it is there."""
    for name in stages:
        yield run_stage(name, context)


def sync(context: Context) -> None:
    """Send the journal to MLflow; while MLflow is away the events wait, and the day goes on."""
    try:
        Tracker(context.store.workspace, context.config.tracking.experiment).sync()
    except RetryableError as error:
        context.report(f"tracking delayed: {error}")


def _event(name: str, context: Context, outcome: Outcome, started_ms: int) -> Event:
    version = outcome.version
    paths = (version.path / entry for entry in _ARTIFACTS.get(name, ()))
    return Event(
        pipeline=context.config.name,
        day=context.day.isoformat(),
        stage=name,
        version=version.hash,
        status="FINISHED",
        started_ms=started_ms,
        ended_ms=_now_ms(),
        metrics=figures_of(version.metrics),
        params=_params(version.commit["config"]),
        tags=run_tags(_causes(context), {version.artifact: version.digest}),
        artifacts=tuple(str(p) for p in paths if Path(p).exists()),
        day_metrics=figures_of(day_report(context.store, context.day)) if name == "monitor" else {},
    )


def _causes(context: Context) -> dict[str, str]:
    """What the configuration was, for tags: its name, the hash of all of it, and the seed."""
    config = context.config
    sections = {
        name: config_section(config, name) if name != "name" else config.name
        for name in Config.model_fields
    }
    digest = hashlib.sha256(json.dumps(sections, sort_keys=True, default=str).encode()).hexdigest()
    return {"name": config.name, "hash": digest[:16], "seed": str(config.training.seed)}


def _journal_failure(name: str, context: Context, started_ms: int, error: Exception) -> None:
    tags = {"error": f"{type(error).__name__}: {error}", **run_tags(_causes(context), {})}
    day = context.day.isoformat()
    event = Event(
        context.config.name,
        day,
        name,
        f"failed-{started_ms}",
        "FAILED",
        started_ms,
        _now_ms(),
        tags=tags,
    )
    Journal(context.store.workspace).append(event)
    if not isinstance(error, RetryableError):
        sync(context)


def _params(sections: object, prefix: str = "") -> dict[str, str]:
    """Flatten configuration sections to `model.deep.l21 = 0.001`; long lists (the fields) are left out."""
    if not isinstance(sections, dict):
        return {prefix: str(sections)} if len(str(sections)) <= 200 else {}
    return {
        k: v
        for name, value in sections.items()
        for k, v in _params(value, f"{prefix}.{name}" if prefix else name).items()
    }


def _now_ms() -> int:
    return int(time.time() * 1000)
