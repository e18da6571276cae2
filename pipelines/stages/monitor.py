"""Stage `monitor`: the figures of a day or hour in one file, for dashboards and alerts."""

from __future__ import annotations

from pathlib import Path

from features.partition import same_kind
from pipelines.stages.report import day_report, figures_of, report_json
from pipelines.stages.stage import Context, Inputs, Metrics, Stage

_GROWTH = ("rows", "rows_in_table", "keys_seen")


class Monitor(Stage):
    """Write the day's metrics file, with the growth since the last monitored day."""

    name = "monitor"
    artifact = "monitor"
    reads = (
        "promotion?",
        "impressions?",
        "data_verdict?",
        "feature_statistics?",
        "cross_counts?",
        "cross_graph?",
        "encodings?",
        "checkpoint?",
        "compressed?",
        "export?",
        # A candidate that a person did not approve has no promotion.
        "validation_report",
    )
    tracked = ("metrics.json",)

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """Write `metrics.json`; return its figures and their changes since the last day or hour."""
        report = day_report(context.store, context.day)
        # The id of the MLflow run is left out: it would make the content differ from run to run.
        del report["run_id"]
        (out / "metrics.json").write_text(report_json(report), encoding="utf-8")
        earlier = context.store.latest_before(
            self.artifact, context.day, lambda v: same_kind(v.day, context.day)
        )
        now = figures_of(report)
        before = earlier.metrics if earlier else {}
        changes = {f"{k}_change": now[k] - before[k] for k in _GROWTH if k in now and k in before}
        return {**now, **changes}
