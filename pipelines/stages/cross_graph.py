"""Stage `cross_graph`: the co-occurrence graph of declared field pairs, from earlier days."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from features.partition import HOURS_PER_DAY, Partition, disjoint, in_order
from pipelines.stages.cross_counts import CrossCounts
from pipelines.stages.encodings import recent_encodings
from pipelines.stages.stage import Context, Inputs, Metrics, Stage, execute
from pipelines.store.artifacts import Version
from pipelines.store.lineage import input_of


def counts_of_window(context: Context) -> Inputs:
    """Return the counts of the window's days and hours before this one.

    Days that were not counted for every declared relation are counted now.
    """
    store, hours = context.store, context.config.graph.window_days * HOURS_PER_DAY
    known = (
        store.window(artifact, context.day, hours) for artifact in ("impressions", "cross_counts")
    )
    window = in_order(disjoint({version.day for versions in known for version in versions}))
    counts = (_counts_of(context, day) for day in window)
    return {f"counts-{version.day}": version for version in counts if version is not None}


class BuildCrossGraph(Stage):
    """Build the graph of the days before, where encodings are due.

    It reads no row of the day itself, so no label leaks into a feature of the same impression.
    """

    name = "cross-graph"
    artifact = "cross_graph"
    reads = (counts_of_window,)
    # A day without data skips every stage, and with them the graph.
    after = ("ingest",)
    sections = ("features", "graph")
    tracked = ("graph.json", "plots")
    pool = "spark"

    def reusable_version(self, context: Context) -> Version | None:
        """Return the graph of encodings that are still valid: nothing else reads a graph."""
        encodings = recent_encodings(context)
        return input_of(context.store, encodings, "graph") if encodings else None

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `spark_jobs.cross_graph.cross_graph`."""
        from spark_jobs.cross_graph import cross_graph, empty_graph

        config = context.config
        if not (inputs and config.graph.relations):
            # Without days or relations the graph is empty, and Spark is not started for it.
            return empty_graph(config.graph, out)
        from spark_jobs.session import spark_session

        counts = {v.day: v.path for v in inputs.values()}
        with spark_session(config.spark) as spark:
            return cross_graph(spark, config.features, counts, context.day, config.graph, out)


def _counts_of(context: Context, day: Partition) -> Version | None:
    """Return an earlier day's counts of the relations that are declared now, or None.

    A day is left out, and the report says so, if its data failed its gate, or if it must be counted
    and its impressions were deleted.
    """
    store, relations = context.store, context.config.graph.relations
    verdict, impressions = store.current("data_verdict", day), store.current("impressions", day)
    if verdict and not verdict.metrics["passed"]:
        context.report(f"the graph leaves out {day}: its data failed its gate")
        return None

    # Counts are valid if they hold every relation and are of the day's current impressions. Without
    # impressions they cannot be made again, and the ones there are count as current.
    counts = store.current("cross_counts", day)
    if counts is not None:
        from spark_jobs.graph_files import read_counts

        counted = impressions is None or (
            counts.commit["inputs"]["impressions"]["hash"] == impressions.hash
        )
        missing = relations and read_counts(counts.path).lacks(context.config.features, relations)
        if counted and not missing:
            return counts
    if impressions is None:
        context.report(
            f"the graph leaves out {day}: its counts lack a relation that is declared, "
            "and its impressions were deleted"
        )
        return None
    return execute(CrossCounts(), replace(context, day=day)).version
