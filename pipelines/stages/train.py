"""Stage `train`: warm start from the last sound checkpoint before the day or hour, score it, learn it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import InputError
from features.partition import HOURS_PER_DAY, day_of, end_h
from pipelines.stages.stage import Context, Inputs, Metrics, Stage, require
from pipelines.store.artifacts import Version
from pipelines.store.encodings import encodings_for
from pipelines.store.lineage import sound_checkpoint

if TYPE_CHECKING:
    from training.fit.meter import Progress


class Train(Stage):
    """Nothing of the future is read: checkpoint, statistics and graph come from days and hours that ended before."""

    name = "train"
    artifact = "checkpoint"
    sections = ("features", "model", "training", "graph")

    def inputs(self, context: Context) -> Inputs:
        """Impressions and the last encodings; the checkpoint before, the impressions it is of, and statistics of before."""
        store, day = context.store, context.day
        checkpoint = store.latest_before("checkpoint", day, lambda v: sound_checkpoint(store, v))
        found = {
            "impressions": require(context, "impressions", "ingest"),
            "encodings": encodings_for(context),
            "data_verdict": _sound_data(context),
            "statistics": store.latest_before("feature_statistics", day),
            "checkpoint": checkpoint,
            "previous_impressions": _learned_from(context, checkpoint),
        }
        return {name: version for name, version in found.items() if version is not None}

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `training.fit.trainer.train_day`."""
        from training.fit.trainer import TrainRequest, train_day

        config = context.config
        paths = {name: version.path for name, version in inputs.items()}
        request = TrainRequest(
            schema=config.features,
            model=config.model,
            training=config.training,
            relations=config.graph.relations,
            partition=paths["impressions"],
            previous_partition=paths.get("previous_impressions"),
            previous_checkpoint=paths.get("checkpoint"),
            statistics=paths.get("statistics"),
            encodings=paths.get("encodings"),
            gap_days=gap_days(context, inputs.get("checkpoint")),
            begins_day=begins_day(context, inputs.get("checkpoint")),
        )
        return train_day(request, out, lambda p: context.report(_words(p)), context.report)


def gap_days(context: Context, checkpoint: Version | None) -> float:
    """Days from the end of the checkpoint's day or hour to the end of this one; 1 between neighbouring days, or without one."""
    return (end_h(context.day) - end_h(checkpoint.day)) / HOURS_PER_DAY if checkpoint else 1


def begins_day(context: Context, checkpoint: Version | None) -> bool:
    """Whether nothing of this calendar day is learned yet: an hour goes on with the day of the hours before it."""
    return checkpoint is None or day_of(checkpoint.day) != day_of(context.day)


def _words(progress: Progress) -> str:
    """Spell progress as one line of a log."""
    share = f"{progress.done:,} of {progress.total:,} examples"
    speed = f"{progress.examples_per_s:,.0f}/s, {progress.examples_per_cpu_s:,.0f} a CPU-second"
    return f"{progress.phase}: {share}, {speed}, loss {progress.loss:.4f}"


def _sound_data(context: Context) -> Version:
    verdict = require(context, "data_verdict", "validate-data")
    if not verdict.metrics["passed"]:
        raise InputError(
            f"data of {context.day} failed its gate; see {verdict.path / 'verdict.json'}"
        )
    return verdict


def _learned_from(context: Context, checkpoint: Version | None) -> Version | None:
    """The very partition whose held-out slice the checkpoint has not learned yet."""
    if checkpoint is None:
        return None
    source = checkpoint.commit["inputs"]["impressions"]
    return context.store.find("impressions", checkpoint.day, source["hash"])
