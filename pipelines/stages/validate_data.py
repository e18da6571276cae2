"""Stage `validate_data`: checks the day's aggregates against the schema and the data gate."""

from __future__ import annotations

import json
from datetime import datetime, time, timedelta
from itertools import islice
from pathlib import Path

from features.errors import UnsoundError
from features.partition import Hour, Partition, comparable
from features.timezones import parse_timezone
from pipelines.stages.stage import Context, Inputs, Metrics, Stage
from pipelines.store.artifacts import Version

HISTORY_DAYS = 7


def comparable_history(context: Context) -> Inputs:
    """Return the impressions of up to seven earlier days, for an hour of the same hour of them.

    Days that failed the gate are no yardstick: a fault that stays would pass on its second day.
    """
    earlier = context.store.before("impressions", context.day)
    found = (v for v in earlier if comparable(v.day, context.day) and not _failed(context, v.day))
    return {f"history-{v.day}": v for v in islice(found, HISTORY_DAYS)}


class ValidateData(Stage):
    """Check the day's aggregates (Great Expectations); an unsound day stops here."""

    name = "validate-data"
    artifact = "data_verdict"
    reads = ("impressions", comparable_history)
    sections = ("features", "data_gate")
    tracked = ("verdict.json", "data_docs")

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `validation.data.expectations.check_data`."""
        from validation.data.expectations import check_data

        config = context.config
        # The inputs are in the order of `reads`.
        today, *history = (v.path / "aggregates.parquet" for v in inputs.values())
        verdict = check_data(
            today,
            history,
            config.features,
            config.data_gate,
            out,
            hours=_has_24_hours(context.day, config.features.timezone),
        )
        for note in verdict.notes:
            context.report(note)
        if verdict.passed:
            for check in verdict.drifted:
                context.report(f"drift: {check.finding}")
        return {
            "passed": verdict.passed,
            "expectations": verdict.evaluated,
            "failed": len(verdict.failed),
            "drifted": len(verdict.drifted),
        }

    def check_result(self, version: Version) -> None:
        """Stop the day (exit code 3) when an expectation failed."""
        if not version.metrics["passed"]:
            verdict = json.loads((version.path / "verdict.json").read_text(encoding="utf-8"))
            raise UnsoundError(
                f"data of {version.day} failed its gate: {'; '.join(verdict['reasons'])}. "
                f"Report: {version.path / 'data_docs'}. The last champion stays."
            )


def _failed(context: Context, day: Partition) -> bool:
    verdict = context.store.current("data_verdict", day)
    return verdict is not None and not verdict.metrics["passed"]


def _has_24_hours(day: Partition, timezone: str) -> bool:
    if isinstance(day, Hour):
        return False
    zone = parse_timezone(timezone)
    starts = (datetime.combine(each, time(), zone) for each in (day, day + timedelta(days=1)))
    first, following = (start.utcoffset() for start in starts)
    return first == following
