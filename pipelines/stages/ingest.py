"""Stage `ingest`: the raw log of a day or an hour → typed, deduplicated impressions, quarantine and aggregates."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from features.partition import day_of
from pipelines.stages.stage import Context, Inputs, Metrics, Stage
from pipelines.store.source_files import source_files


class Ingest(Stage):
    """Reads the source; a simulated source writes its day first."""

    name = "ingest"
    artifact = "impressions"
    sections = ("source", "features")

    def inputs(self, context: Context) -> Inputs:
        """Nothing committed: the source's own files are the input."""
        _simulate(context)
        return {}

    def fingerprint(self, context: Context) -> object:
        """Names, sizes and modification times of the source's files: late data makes a new version."""
        stats = ((str(f), f.stat()) for f in source_files(context.config.source, context.day))
        return [(name, s.st_size, s.st_mtime_ns) for name, s in stats]

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `spark_jobs.ingest.ingest`."""
        from spark_jobs.ingest import ingest
        from spark_jobs.session import spark_session

        config = context.config
        with spark_session(config.spark) as spark:
            report = ingest(spark, config.source, config.features, context.day, out)
        return asdict(report)


def _simulate(context: Context) -> None:
    """Write the day's simulated log below `<workspace>/logs` unless it is there, made with the same settings."""
    settings = context.config.simulator
    if settings is None:
        return
    from simulator.log import is_simulated, simulate_day

    logs = context.store.workspace / "logs"
    day = day_of(context.day)
    if not is_simulated(settings, day, logs):
        simulated = simulate_day(settings, day, logs)
        context.report(f"simulated {simulated.rows:,} impressions in {simulated.seconds:.1f} s")
