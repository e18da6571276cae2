"""Stage `validate_data`: the day's aggregates against the expectations of schema and gate."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

from features.errors import UnsoundError
from features.partition import Hour, Partition, same_kind
from pipelines.stages.stage import Context, Inputs, Metrics, Stage, require
from pipelines.store.artifacts import Version

HISTORY_DAYS = 7


class ValidateData(Stage):
    """A day that fails is published with its verdict and Data Docs, and stops there (exit 3)."""

    name = "validate-data"
    artifact = "data_verdict"
    sections = ("features", "data_gate")

    def inputs(self, context: Context) -> Inputs:
        """The impressions, and those of up to seven earlier days to compare with, of an hour in the same hour."""
        alike = (
            v
            for v in context.store.before("impressions", context.day)
            if _comparable(v.day, context.day)
        )
        earlier = islice(alike, HISTORY_DAYS)
        return {
            "impressions": require(context, "impressions", "ingest"),
            **{f"history-{v.day}": v for v in earlier},
        }

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `validation.data.expectations.check_data`."""
        from validation.data.expectations import check_data

        aggregates = inputs["impressions"].path / "aggregates.parquet"
        history = [
            v.path / "aggregates.parquet"
            for name, v in inputs.items()
            if name.startswith("history-")
        ]
        verdict = check_data(
            aggregates, history, context.config.features, context.config.data_gate, out
        )
        return {
            "passed": verdict.passed,
            "expectations": verdict.evaluated,
            "failed": len(verdict.failed),
        }

    def judge(self, version: Version) -> None:
        """Stop the day when an expectation failed."""
        if not version.metrics["passed"]:
            verdict = json.loads((version.path / "verdict.json").read_text(encoding="utf-8"))
            words = "; ".join(verdict["reasons"])
            raise UnsoundError(
                f"data of {version.day} failed its gate: {words}. Report: {version.path / 'data_docs'}. The last champion stays."
            )


def _comparable(earlier: Partition, now: Partition) -> bool:
    """Whether as many records are to be expected: traffic has its rhythm by the hour."""
    if isinstance(earlier, Hour) and isinstance(now, Hour):
        return earlier.hour == now.hour
    return same_kind(earlier, now)
