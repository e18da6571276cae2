"""Stage `cross_counts`: the day's own edge counts, which the graphs of later days merge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from features.partition import Partition
from pipelines.stages.stage import Context, Inputs, Metrics, Stage, execute, require
from pipelines.store.artifacts import Version


class CrossCounts(Stage):
    """Counted once a day: what a graph's window costs does not depend on the impressions in it."""

    name = "cross-counts"
    artifact = "cross_counts"
    sections = ("features",)

    def inputs(self, context: Context) -> Inputs:
        """The day's impressions."""
        return {"impressions": require(context, "impressions", "ingest")}

    def fingerprint(self, context: Context) -> object:
        """The declared relations: nothing else of `graph` matters before days are merged."""
        return [relation.name for relation in context.config.graph.relations]

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `spark_jobs.cross_counts.cross_counts`. Without relations there is nothing to wait for Spark for."""
        config = context.config
        if not config.graph.relations:
            from spark_jobs.graph_files import no_counts

            return no_counts(out)
        from spark_jobs.cross_counts import cross_counts
        from spark_jobs.session import spark_session

        partition = inputs["impressions"].path
        with spark_session(config.spark) as spark:
            return cross_counts(spark, config.features, partition, config.graph.relations, out)


def counts_of(context: Context, day: Partition) -> Version | None:
    """Return an earlier day's counts of the relations that are declared now, counted now where they are not there yet.

    A day is left out, and the report says so, when its data failed its gate, or when it would have to be counted and its
    impressions are gone.
    """
    store = context.store
    verdict, impressions = store.current("data_verdict", day), store.current("impressions", day)
    if verdict and not verdict.metrics["passed"]:
        context.report(f"the graph leaves out {day}: its data failed its gate")
        return None
    found = store.current("cross_counts", day)
    if (
        found
        and not _lacks(found, context)
        and (impressions is None or _made_of(found, impressions))
    ):
        return found
    if impressions is None:
        context.report(
            f"the graph leaves out {day}: its counts lack a relation that is declared, and its impressions are gone"
        )
        return None
    return execute(CrossCounts(), replace(context, day=day)).version


def _lacks(counts: Version, context: Context) -> bool:
    from spark_jobs.graph_files import read_counts

    relations = context.config.graph.relations
    return bool(relations and read_counts(counts.path).lacks(context.config.features, relations))


def _made_of(counts: Version, impressions: Version) -> bool:
    return bool(counts.commit["inputs"]["impressions"]["hash"] == impressions.hash)
