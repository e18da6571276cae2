"""Stage `pretrain`: what predicts the cross graph's edge statistics, for the click model to read frozen."""

from __future__ import annotations

from pathlib import Path

from pipelines.stages.stage import Context, Inputs, Metrics, Stage, require
from pipelines.store.artifacts import Version
from pipelines.store.encodings import young_encodings


class Pretrain(Stage):
    """Made every `pretraining.every_days`; on the days between, the last ones serve."""

    name = "pretrain"
    artifact = "encodings"
    sections = ("features", "graph", "pretraining")

    def instead(self, context: Context) -> Version | None:
        """The encodings of a day before, when they are young enough."""
        return young_encodings(context)

    def inputs(self, context: Context) -> Inputs:
        """The day's graph, which holds no row of the day, and the encodings before, to start from."""
        previous = context.store.latest_before(self.artifact, context.day)
        graph = require(context, "cross_graph", "cross-graph")
        return {"graph": graph, "previous": previous} if previous else {"graph": graph}

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `training.pretraining.pretrain.pretrain`."""
        from spark_jobs.graph_files import require_before
        from training.pretraining.pretrain import pretrain

        require_before(inputs["graph"].path, context.day)
        previous = inputs["previous"].path if "previous" in inputs else None
        return pretrain(
            inputs["graph"].path, context.config.pretraining, out, previous, context.report
        )
