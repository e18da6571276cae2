"""The stages of a day in order, and what follows from their declarations.

The chain, the DAG's tasks and edges, the report and the clean-up derive from this list. Everything
else about a stage is declared in its class. Importing this module imports no stage.
"""

from __future__ import annotations

import importlib

from pipelines.stages.stage import Stage, parse_read

STAGES: dict[str, str] = {
    "ingest": "pipelines.stages.ingest:Ingest",
    "validate-data": "pipelines.stages.validate_data:ValidateData",
    "feature-statistics": "pipelines.stages.feature_statistics:FeatureStatistics",
    "cross-counts": "pipelines.stages.cross_counts:CrossCounts",
    "cross-graph": "pipelines.stages.cross_graph:BuildCrossGraph",
    "pretrain": "pipelines.stages.pretrain:Pretrain",
    "train": "pipelines.stages.train:Train",
    "compress": "pipelines.stages.compress:Compress",
    "export": "pipelines.stages.export:Export",
    "validate-model": "pipelines.stages.validate_model:ValidateModel",
    "promote": "pipelines.stages.promote:Promote",
    "monitor": "pipelines.stages.monitor:Monitor",
}
"""Command → class. The values are strings, so that a stage's source digest, which follows import
statements, does not cover every other stage through the modules that use this list."""

PHASES: dict[str, tuple[str, str]] = {
    "data": ("Data", "ingest"),
    "graph_and_pretraining": ("Graph and pretraining", "cross-graph"),
    "training": ("Training", "train"),
    "compression_and_release": ("Compression and release", "compress"),
}
"""Phases of a day: id → the name that Airflow shows, and the first stage; the stages after it
belong to the same phase, up to the first one of the next."""

PUBLISHED: dict[str, str] = {
    "ingest": "impressions",
    "pretrain": "encodings",
    "promote": "champion",
}
"""Stage → Airflow's asset that it updates, for other DAGs to be scheduled on."""


def stage_class(name: str) -> type[Stage]:
    """Return the class of a command; imports its module."""
    module, _, attribute = STAGES[name].partition(":")
    found: type[Stage] = getattr(importlib.import_module(module), attribute)
    return found


def make_stage(name: str) -> Stage:
    """Return the stage of a command."""
    return stage_class(name)()


def artifacts() -> tuple[str, ...]:
    """Return every artifact of a day, in the order of the stages that make them."""
    return tuple(stage_class(name).artifact for name in STAGES)


def maker_of(artifact: str) -> str:
    """Return the command of the stage that makes an artifact."""
    return next(name for name in STAGES if stage_class(name).artifact == artifact)


def stages_of_phases() -> dict[str, tuple[str, ...]]:
    """Return the stages of each phase."""
    first = {start: phase for phase, (_, start) in PHASES.items()}
    found: dict[str, tuple[str, ...]] = {}
    phase = ""
    for name in STAGES:
        phase = first.get(name, phase)
        found[phase] = (*found.get(phase, ()), name)
    return found


def dependencies() -> dict[str, set[str]]:
    """Return for each stage the stages that it waits for directly.

    A stage waits for the makers of the day's artifacts that it reads and for the stages it names in
    `after`. A stage that another of these waits for anyway is left out (transitive reduction).
    """
    waits: dict[str, set[str]] = {}
    ancestors: dict[str, set[str]] = {}
    for name in STAGES:
        stage = stage_class(name)
        own = (parse_read(read)[1] for read in stage.reads if not callable(read))
        waits[name] = {maker_of(artifact) for artifact in own} | set(stage.after)
        # The order of STAGES guarantees that the ancestors of every predecessor are known here.
        ancestors[name] = waits[name].union(*(ancestors[before] for before in waits[name]))
    return {
        name: {one for one in needed if not any(one in ancestors[other] for other in needed)}
        for name, needed in waits.items()
    }
