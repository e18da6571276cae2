"""Stage `cross_graph`: co-occurrence edges of declared field pairs, from before the day or hour."""

from __future__ import annotations

from pathlib import Path

from features.partition import HOURS_PER_DAY
from pipelines.stages.stage import Context, Inputs, Metrics, Stage


class CrossGraph(Stage):
    """Reads no row of the day itself, so no label leaks into its own feature."""

    name = "cross-graph"
    artifact = "cross_graph"
    sections = ("features", "graph")

    def inputs(self, context: Context) -> Inputs:
        """The impressions of the window's days and hours before this one."""
        hours = context.config.graph.window_days * HOURS_PER_DAY
        window = context.store.window("impressions", context.day, hours)
        return {f"impressions-{v.day}": v for v in window}

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `spark_jobs.cross_graph.cross_graph`."""
        from spark_jobs.cross_graph import cross_graph
        from spark_jobs.session import spark_session

        config = context.config
        partitions = {v.day: v.path for v in inputs.values()}
        return cross_graph(spark_session(config.spark), config.features, partitions, config.graph, out)
