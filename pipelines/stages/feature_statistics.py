"""Stage `feature_statistics`: statistics per field and value, over a window of days."""

from __future__ import annotations

from pathlib import Path

from features.partition import HOURS_PER_DAY, length_h
from pipelines.stages.stage import Context, Inputs, Metrics, Stage


def statistics_of_window(context: Context) -> Inputs:
    """Return the statistics of the window's earlier days and hours.

    They hold partial aggregates, so the cost of a day does not grow with the window.
    """
    hours = context.config.statistics.window_days * HOURS_PER_DAY - length_h(context.day)
    earlier = context.store.window("feature_statistics", context.day, hours)
    return {f"statistics-{v.day}": v for v in earlier}


class FeatureStatistics(Stage):
    """Count impressions and clicks per field and value."""

    name = "feature-statistics"
    artifact = "feature_statistics"
    reads = ("impressions", statistics_of_window)
    # Days whose data failed its gate must not enter the windows of later days.
    after = ("validate-data",)
    sections = ("features", "statistics")
    pool = "spark"

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `spark_jobs.feature_statistics.feature_statistics`."""
        from spark_jobs.feature_statistics import feature_statistics
        from spark_jobs.session import spark_session

        config = context.config
        today = {context.day: inputs["impressions"].path}
        earlier = {v.day: v.path for name, v in inputs.items() if name != "impressions"}
        with spark_session(config.spark) as spark:
            return feature_statistics(
                spark, config.features, today, earlier, context.day, config.statistics, out
            )
