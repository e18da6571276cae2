"""Stage `cross_counts`: the day's own edge counts, which the graphs of later days merge."""

from __future__ import annotations

from pathlib import Path

from pipelines.stages.stage import Context, Inputs, Metrics, Stage


class CrossCounts(Stage):
    """Count the day's co-occurrences, for the graphs of later days.

    A day is counted once, so the cost of a graph does not depend on the impressions in its window.
    """

    name = "cross-counts"
    artifact = "cross_counts"
    reads = ("impressions",)
    # Days whose data failed its gate need no counts: graphs leave them out.
    after = ("validate-data",)
    sections = ("features",)
    pool = "spark"

    def fingerprint(self, context: Context) -> object:
        """Return the declared relations: the rest of `graph` matters only when days are merged."""
        return [relation.name for relation in context.config.graph.relations]

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `spark_jobs.cross_counts.cross_counts`."""
        config = context.config
        if not config.graph.relations:
            # Without relations the counts are empty, and Spark is not started for them.
            from spark_jobs.graph_files import no_counts

            return no_counts(out)
        from spark_jobs.cross_counts import cross_counts
        from spark_jobs.session import spark_session

        partition = inputs["impressions"].path
        with spark_session(config.spark) as spark:
            return cross_counts(spark, config.features, partition, config.graph.relations, out)
