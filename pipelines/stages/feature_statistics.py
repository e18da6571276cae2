"""Stage `feature_statistics`: per field and value, over a window that ends with the day or hour."""

from __future__ import annotations

from pathlib import Path

from features.partition import HOURS_PER_DAY, length_h
from pipelines.stages.stage import Context, Inputs, Metrics, Stage, require


class FeatureStatistics(Stage):
    """What is earlier in the window enters as kept partial aggregates, so the cost of a day does not grow."""

    name = "feature-statistics"
    artifact = "feature_statistics"
    sections = ("features", "statistics")

    def inputs(self, context: Context) -> Inputs:
        """The impressions, and the statistics of the window's earlier days and hours."""
        hours = context.config.statistics.window_days * HOURS_PER_DAY - length_h(context.day)
        earlier = context.store.window("feature_statistics", context.day, hours)
        return {
            "impressions": require(context, "impressions", "ingest"),
            **{f"statistics-{v.day}": v for v in earlier},
        }

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `spark_jobs.feature_statistics.feature_statistics`."""
        from spark_jobs.feature_statistics import feature_statistics
        from spark_jobs.session import spark_session

        config = context.config
        today = {context.day: inputs["impressions"].path}
        earlier = {v.day: v.path for name, v in inputs.items() if name.startswith("statistics-")}
        with spark_session(config.spark) as spark:
            return feature_statistics(
                spark, config.features, today, earlier, context.day, config.statistics, out
            )
