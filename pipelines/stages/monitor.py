"""Stage `monitor`: the figures of a day or hour in one file, for dashboards, alerts and the next one's comparison."""

from __future__ import annotations

from pathlib import Path

from features.partition import same_kind
from pipelines.stages.report import ARTIFACTS, day_report, figures_of, report_json
from pipelines.stages.stage import Context, Inputs, Metrics, Stage, require


class Monitor(Stage):
    """Writes `metrics.json`: the report of the day, growth of the table included."""

    name = "monitor"
    artifact = "monitor"

    def inputs(self, context: Context) -> Inputs:
        """Everything that the day made."""
        require(context, "promotion", "promote")
        versions = (
            (a, context.store.current(a, context.day)) for a in ARTIFACTS if a != self.artifact
        )
        return {artifact: version for artifact, version in versions if version is not None}

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """Write the report, and beside it how it differs from the last monitored day, or hour."""
        report = day_report(context.store, context.day)
        (out / "metrics.json").write_text(
            report_json({k: v for k, v in report.items() if k != "run_id"}), encoding="utf-8"
        )
        earlier = context.store.latest_before(
            self.artifact, context.day, lambda v: same_kind(v.day, context.day)
        )
        now = figures_of(report)
        before = dict(earlier.metrics) if earlier else {}
        growth = {
            f"{k}_change": now[k] - before[k]
            for k in ("rows", "rows_in_table", "keys_seen")
            if k in now and k in before
        }
        return {**now, **growth}
