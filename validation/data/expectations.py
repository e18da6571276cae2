"""The data gate: a day's aggregates against the expectations made from the schema and the settings.

Great Expectations evaluates the aggregates that ingest wrote, not the records: one row in pandas, no second JVM.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.schema import Schema
from validation.checks import Check
from validation.data import gx as great
from validation.data.aggregates import read_aggregates
from validation.data.checks import data_checks
from validation.data.data_docs import standalone
from validation.settings import DataGateSettings


@dataclass(frozen=True)
class DataVerdict:
    """Whether a day may be learned from, and why not.

    Attributes:
        checks: every check of the day, in the order of the report.
        failed: those whose expectation failed or was not evaluated, in the same order.
        evaluated: how many expectations Great Expectations reports on.
    """

    checks: tuple[Check, ...]
    failed: tuple[Check, ...]
    evaluated: int

    @property
    def passed(self) -> bool:
        """True when there are checks, each was evaluated, and none failed."""
        return bool(self.checks) and self.evaluated == len(self.checks) and not self.failed

    @property
    def reasons(self) -> tuple[str, ...]:
        """What failed, one sentence each; empty when the day passed."""
        findings = [check.finding for check in self.failed]
        if self.evaluated != len(self.checks) or not self.checks:
            findings.append(
                f"{self.evaluated} expectations were evaluated where {len(self.checks)} were asked for"
            )
        return tuple(findings)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        failed = {check.name for check in self.failed}
        checks = [check.as_dict() | {"passed": check.name not in failed} for check in self.checks]
        return {
            "passed": self.passed,
            "reasons": list(self.reasons),
            "evaluated": self.evaluated,
            "checks": checks,
        }


def check_data(
    aggregates: Path, history: Sequence[Path], schema: Schema, settings: DataGateSettings, out: Path
) -> DataVerdict:
    """Judge a day; write `verdict.json` and `data_docs/index.html` into `out`.

    Args:
        aggregates: the day's `aggregates.parquet`.
        history: the same of earlier days; empty is a first day, which has no expectation of its size.
        schema: the fields to expect values of.
        settings: the limits.
        out: an existing folder.

    Returns:
        The verdict. An unsound day is a verdict, not an exception: the caller publishes it first.

    Raises:
        InputError: a file cannot be read, or the settings name an unknown field.
    """
    checks = data_checks(
        read_aggregates(aggregates), [read_aggregates(path) for path in history], schema, settings
    )
    result = great.validate(checks)
    verdict = _verdict(checks, result)
    (out / "verdict.json").write_text(
        json.dumps(verdict.as_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8"
    )
    (out / "data_docs").mkdir(exist_ok=True)
    title = f"Data gate: {'passed' if verdict.passed else f'{len(verdict.failed)} of {len(checks)} expectations failed'}"
    (out / "data_docs" / "index.html").write_text(
        standalone(great.render(result), title), encoding="utf-8"
    )
    return verdict


def _verdict(checks: Sequence[Check], result: Any) -> DataVerdict:
    succeeded = {r.expectation_config.kwargs["column"] for r in result.results if r.success}
    failed = tuple(check for check in checks if check.name not in succeeded or not check.passed)
    return DataVerdict(checks=tuple(checks), failed=failed, evaluated=len(result.results))
