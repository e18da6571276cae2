"""Stage `train`: warm start from the last sound checkpoint before the day, score the day, learn it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import InputError
from pipelines.artifacts import Version
from pipelines.encodings import encodings_for
from pipelines.lineage import sound_checkpoint
from pipelines.stages.stage import Context, Inputs, Metrics, Stage, require

if TYPE_CHECKING:
    from training.online.meter import Progress


class Train(Stage):
    """Nothing of the future is read: checkpoint, statistics and graph come from days strictly before."""

    name = "train"
    artifact = "checkpoint"
    sections = ("features", "model", "training", "graph")

    def inputs(self, context: Context) -> Inputs:
        """The day's impressions, the last encodings; checkpoint, its day's impressions and statistics of days before."""
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
        """See `training.trainer.train_day`."""
        from training.trainer import TrainRequest, train_day

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
        )
        return train_day(request, out, lambda p: context.report(_words(p)), context.report)


def gap_days(context: Context, checkpoint: Version | None) -> int:
    """Days from the checkpoint's day to this one; 1 where there is no gap, or no checkpoint."""
    return (context.day - checkpoint.day).days if checkpoint else 1


def _words(progress: Progress) -> str:
    """Spell progress as one line of a log."""
    share = f"{progress.done:,} of {progress.total:,} examples"
    return f"{progress.phase}: {share}, {progress.examples_per_s:,.0f}/s, loss {progress.loss:.4f}"


def _sound_data(context: Context) -> Version:
    verdict = require(context, "data_verdict", "validate-data")
    if not verdict.metrics["passed"]:
        raise InputError(f"data of {context.day} failed its gate; see {verdict.path / 'verdict.json'}")
    return verdict


def _learned_from(context: Context, checkpoint: Version | None) -> Version | None:
    """The very partition whose held-out slice the checkpoint has not learned yet."""
    if checkpoint is None:
        return None
    source = checkpoint.commit["inputs"]["impressions"]
    return context.store.find("impressions", checkpoint.day, source["hash"])
