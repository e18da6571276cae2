"""Stage `cross_graph`: the co-occurrence graph of declared field pairs, from before the day or hour."""

from __future__ import annotations

from pathlib import Path

from features.partition import HOURS_PER_DAY, disjoint, in_order
from pipelines.stages.cross_counts import counts_of
from pipelines.stages.stage import Context, Inputs, Metrics, Stage
from pipelines.store.artifacts import Version
from pipelines.store.encodings import young_encodings
from pipelines.store.lineage import read_by


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
        """The counts of the window's days and hours before this one; one that lacks a declared relation is counted first."""
        hours = context.config.graph.window_days * HOURS_PER_DAY
        known = (
            context.store.window(artifact, context.day, hours)
            for artifact in ("impressions", "cross_counts")
        )
        window = in_order(disjoint({version.day for versions in known for version in versions}))
        counts = (counts_of(context, day) for day in window)
        return {f"counts-{version.day}": version for version in counts if version is not None}

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `spark_jobs.cross_graph.cross_graph`. Without days or relations there is nothing to wait for Spark for."""
        from spark_jobs.cross_graph import cross_graph, empty_graph

        config = context.config
        if not (inputs and config.graph.relations):
            return empty_graph(config.graph, out)
        from spark_jobs.session import spark_session

        counts = {v.day: v.path for v in inputs.values()}
        with spark_session(config.spark) as spark:
            return cross_graph(spark, config.features, counts, context.day, config.graph, out)
