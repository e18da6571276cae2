"""The data gate: a day's aggregates against the expectations made from the schema and the settings.

Great Expectations evaluates the aggregates that ingest wrote, not the records: one row in pandas,
without another JVM.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Great Expectations reads it once, at import: no telemetry.
os.environ["GX_ANALYTICS_ENABLED"] = "false"

import great_expectations as gx
import pandas as pd
from great_expectations.expectations import ExpectColumnMaxToBeBetween
from great_expectations.render.renderer import ValidationResultsPageRenderer
from great_expectations.render.view import DefaultJinjaPageView

from features.schema import Schema
from validation.checks import Check
from validation.data.checks import data_checks, read_aggregates
from validation.data.drift import Day, drift_checks, read_values, sound_value_checks
from validation.settings import DataGateSettings

VALUES = "values.parquet"
_SUITE = "data_gate"


@dataclass(frozen=True)
class DataVerdict:
    """Whether a day may be trained on, and why not.

    Attributes:
        checks: every check of the day, in the order of the report.
        failed: those whose expectation failed or was not evaluated, in the same order, but for
            drift that is only reported.
        evaluated: number of expectations that Great Expectations reports on.
        drifted: those of them that compare the day's values with earlier days and failed.
        notes: what was not judged, one sentence each.
    """

    checks: tuple[Check, ...]
    failed: tuple[Check, ...]
    evaluated: int
    drifted: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True if there are checks, each was evaluated, and none failed."""
        return bool(self.checks) and self.evaluated == len(self.checks) and not self.failed

    @property
    def reasons(self) -> tuple[str, ...]:
        """What failed, one sentence each; empty if the day passed."""
        findings = [check.finding for check in self.failed]
        if self.evaluated != len(self.checks) or not self.checks:
            findings.append(
                f"{self.evaluated} expectations were evaluated where {len(self.checks)} were asked "
                "for"
            )
        return tuple(findings)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        failed = {check.name for check in (*self.failed, *self.drifted)}
        checks = [check.as_dict() | {"passed": check.name not in failed} for check in self.checks]
        return {
            "passed": self.passed,
            "reasons": list(self.reasons),
            "drift": [check.finding for check in self.drifted],
            "notes": list(self.notes),
            "evaluated": self.evaluated,
            "checks": checks,
        }


def check_data(
    aggregates: Path,
    history: Sequence[Path],
    schema: Schema,
    settings: DataGateSettings,
    out: Path,
    *,
    hours: bool = True,
) -> DataVerdict:
    """Validate a day; write `verdict.json` and `data_docs/index.html` into `out`.

    Args:
        aggregates: the day's `aggregates.parquet`; `values.parquet` is next to it.
        history: the same of earlier days; empty for a first day, whose size is not checked.
        schema: fields to check.
        settings: the limits.
        out: an existing folder.
        hours: see `validation.data.drift.drift_checks`.

    Returns:
        The verdict. An unsound day is no exception: the caller publishes the verdict first.

    Raises:
        InputError: a file cannot be read, or the settings name an unknown field.
    """
    earlier = [read_aggregates(path) for path in history]
    today = read_aggregates(aggregates)
    checks = data_checks(today, earlier, schema, settings)
    paths, notes = [*history, aggregates], []
    days = [
        Day(counted, read_values(path.with_name(VALUES)))
        for counted, path in zip([*earlier, today], paths, strict=True)
        if path is aggregates or path.with_name(VALUES).is_file()
    ]
    checks += tuple(sound_value_checks(days[-1], schema, settings))
    drift: set[str] = set()
    if settings.drift != "off":
        if len(days) <= settings.drift_min_days:
            notes.append(
                f"drift is not judged: {len(days) - 1} earlier ones to compare with, "
                f"`data_gate.drift_min_days` asks for {settings.drift_min_days}"
            )
        else:
            found = drift_checks(days[-1], days[:-1], schema, settings, hours=hours)
            drift, checks = {check.name for check in found}, (*checks, *found)
    result = _evaluate(checks)
    succeeded = {r.expectation_config.kwargs["column"] for r in result.results if r.success}
    # A check fails if either side says so, or if GX did not report on it.
    failed = tuple(check for check in checks if check.name not in succeeded or not check.passed)
    drifted = tuple(check for check in failed if check.name in drift)
    if settings.drift == "warn":
        failed = tuple(check for check in failed if check.name not in drift)
    verdict = DataVerdict(checks, failed, len(result.results), drifted, tuple(notes))

    document = json.dumps(verdict.as_dict(), indent=2, allow_nan=False)
    (out / "verdict.json").write_text(document + "\n", encoding="utf-8")
    outcome = "passed" if verdict.passed else f"{len(failed)} of {len(checks)} expectations failed"
    outcome += f", drift: {len(drifted)}" if drifted else ""
    page = str(DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(result)))
    (out / "data_docs").mkdir(exist_ok=True)
    page = standalone(page, f"Data gate: {outcome}")
    (out / "data_docs" / "index.html").write_text(page, encoding="utf-8")
    return verdict


def _evaluate(checks: Sequence[Check]) -> Any:
    """Evaluate each check as one expectation on a table of one row, with one column per check.

    Returns GX's `ExpectationSuiteValidationResult`.
    """
    # An ephemeral context reads and writes no files. Others keep their state in a YAML file that
    # parallel runs would share.
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("aggregates")
    batch = source.add_dataframe_asset("day").add_batch_definition_whole_dataframe("day")
    # The only value of a column is its maximum. Unlike expectations by row, this one reports the
    # value that it saw.
    expectations = [
        ExpectColumnMaxToBeBetween(
            column=check.name,
            min_value=check.low,
            max_value=check.high,
            description=f"{check.words}: {check.limit}",
        )
        for check in checks
    ]
    suite = context.suites.add(gx.ExpectationSuite(name=_SUITE, expectations=expectations))
    definition = gx.ValidationDefinition(name=_SUITE, data=batch, suite=suite)
    validation = context.validation_definitions.add(definition)
    # Columns of Python floats: GX cannot print NumPy's in its report.
    row = pd.DataFrame({c.name: pd.Series([c.finite_value], dtype=object) for c in checks})
    return validation.run(batch_parameters={"dataframe": row}, result_format="SUMMARY")


_REMOVED = (
    r"<script\b.*?</script>",
    r"<link\b[^>]*>",
    r"<img\b[^>]*>",
    r"<style>.*?</style>",
    r"<footer>.*?</footer>",
    r"<title>.*?</title>",
)

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px;
  padding: 0 1rem; color: #1c2733; }
nav, .d-none, .collapse, .card, .mb-4, [data-toggle="collapse"] { display: none; }
table { border-collapse: collapse; width: 100%; margin: .3rem 0 1rem; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #d8dee6;
  vertical-align: top; }
th:first-child, td:first-child { width: 5rem; } th:last-child, td:last-child { width: 12rem; }
h5 { font-size: 1.05rem; margin: 1.2rem 0 .2rem; font-family: ui-monospace, monospace; }
h6, .h6 { font-weight: 600; }
.text-danger { color: #b3261e; } .text-success { color: #1b7f3b; }
i { font-style: normal; font-weight: 700; }
.fa-check-circle::before { content: "✔ passed"; } .fa-times::before { content: "✘ failed"; }
"""


def standalone(page: str, title: str) -> str:
    """Return a Data Docs page that contacts no host, with a title of this project.

    GX's page loads Bootstrap, jQuery, fonts and a logo from content networks: offline it would have
    no style, and online these networks would see who looks at the data. A few lines of CSS replace
    them.
    """
    for pattern in _REMOVED:
        page = re.sub(pattern, "", page, flags=re.DOTALL)
    # Links within the page are kept, all others point nowhere.
    page = re.sub(r'href="(?!#)[^"]*"', 'href="#"', page)
    title = html.escape(title)
    head, body = f"<head><title>{title}</title><style>{_STYLE}</style>", f"<body><h1>{title}</h1>"
    return page.replace("<head>", head, 1).replace("<body>", body, 1)
