"""Stage `pretrain`: node encodings that predict the cross graph's edge statistics."""

from __future__ import annotations

from pathlib import Path

from pipelines.stages.stage import Context, Inputs, Metrics, Stage, require


class Pretrain(Stage):
    """Frozen afterwards; the click model reads the predicted statistic of each declared pair."""

    name = "pretrain"
    artifact = "encodings"
    sections = ("features", "pretraining")

    def inputs(self, context: Context) -> Inputs:
        """The day's graph, which holds no row of the day."""
        return {"graph": require(context, "cross_graph", "cross-graph")}

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `training.pretraining.pcf_gnn.pretrain`."""
        from spark_jobs.graph_files import require_before
        from training.pretraining.pcf_gnn import pretrain

        require_before(inputs["graph"].path, context.day)
        return pretrain(inputs["graph"].path, context.config.pretraining, out, None)
