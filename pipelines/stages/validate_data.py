"""Stage `validate_data`: checks the day's aggregates against the schema and the data gate."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

from features.errors import UnsoundError
from features.partition import Hour, Partition, same_kind
from pipelines.stages.stage import Context, Inputs, Metrics, Stage
from pipelines.store.artifacts import Version

HISTORY_DAYS = 7


def comparable_history(context: Context) -> Inputs:
    """Return the impressions of up to seven earlier days, for an hour of the same hour of them."""
    earlier = context.store.before("impressions", context.day)
    comparable = (v for v in earlier if _is_comparable(v.day, context.day))
    return {f"history-{v.day}": v for v in islice(comparable, HISTORY_DAYS)}


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
        verdict = check_data(today, history, config.features, config.data_gate, out)
        return {
            "passed": verdict.passed,
            "expectations": verdict.evaluated,
            "failed": len(verdict.failed),
        }

    def check_result(self, version: Version) -> None:
        """Stop the day (exit code 3) when an expectation failed."""
        if not version.metrics["passed"]:
            verdict = json.loads((version.path / "verdict.json").read_text(encoding="utf-8"))
            raise UnsoundError(
                f"data of {version.day} failed its gate: {'; '.join(verdict['reasons'])}. "
                f"Report: {version.path / 'data_docs'}. The last champion stays."
            )


def _is_comparable(earlier: Partition, now: Partition) -> bool:
    # The number of records depends on the hour of the day.
    if isinstance(earlier, Hour) and isinstance(now, Hour):
        return earlier.hour == now.hour
    return same_kind(earlier, now)
