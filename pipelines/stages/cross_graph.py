"""Stage `cross_graph`: co-occurrence edges of declared field pairs, from days strictly before the day."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pipelines.artifacts import Version
from pipelines.encodings import young_encodings
from pipelines.lineage import read_by
from pipelines.stages.stage import Context, Inputs, Metrics, Stage


class CrossGraph(Stage):
    """Reads no row of the day itself, so no label leaks into its own feature."""

    name = "cross-graph"
    artifact = "cross_graph"
    sections = ("features", "graph")

    def instead(self, context: Context) -> Version | None:
        """The graph of the encodings that serve this day too: nothing else reads a graph."""
        encodings = young_encodings(context)
        return read_by(context.store, encodings, "graph") if encodings else None

    def inputs(self, context: Context) -> Inputs:
        """The impressions of the window's days before the day."""
        first = context.day - timedelta(days=context.config.graph.window_days)
        window = [v for v in context.store.before("impressions", context.day) if v.day >= first]
        return {f"impressions-{v.day}": v for v in window}

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `spark_jobs.cross_graph.cross_graph`."""
        from spark_jobs.cross_graph import cross_graph
        from spark_jobs.session import spark_session

        config = context.config
        partitions = {v.day: v.path for v in inputs.values()}
        return cross_graph(spark_session(config.spark), config.features, partitions, config.graph, out)
