"""Stage `pretrain`: encodings that predict the cross graph's edge statistics."""

from __future__ import annotations

from pathlib import Path

from pipelines.stages.encodings import recent_encodings
from pipelines.stages.stage import Context, Inputs, Metrics, Stage
from pipelines.store.artifacts import Version


def previous_encodings(context: Context) -> Inputs:
    """Return the encodings that training starts from, if there are any."""
    previous = context.store.latest_before("encodings", context.day)
    return {"previous": previous} if previous else {}


class Pretrain(Stage):
    """Fit encodings of the graph's nodes, where the last ones are too old.

    Training reads them frozen.
    """

    name = "pretrain"
    artifact = "encodings"
    reads = ("graph=cross_graph", previous_encodings)
    sections = ("features", "graph", "pretraining")
    tracked = ("metrics.json", "plots")

    def reusable_version(self, context: Context) -> Version | None:
        """Return the encodings of an earlier day while they are younger than `every_days`."""
        return recent_encodings(context)

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `training.pretraining.pretrain.pretrain`."""
        from spark_jobs.graph_files import require_before
        from training.pretraining.pretrain import pretrain

        graph, settings = inputs["graph"].path, context.config.pretraining
        # A graph that holds the day itself would leak labels into the features of their own day.
        require_before(graph, context.day)
        previous = inputs["previous"].path if "previous" in inputs else None
        return pretrain(graph, settings, out, previous, context.report)
