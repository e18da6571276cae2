"""Great Expectations, loaded without telemetry or progress bars; every use of it in this package goes through here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read once, at import

import great_expectations as gx
import pandas as pd
from great_expectations.expectations import ExpectColumnMaxToBeBetween
from great_expectations.render.renderer import ValidationResultsPageRenderer
from great_expectations.render.view import DefaultJinjaPageView

from validation.checks import Check

_SUITE = "data_gate"


def validate(checks: Sequence[Check]) -> Any:
    """Evaluate each check as one expectation on a table of one row, one column per check.

    The context is ephemeral: nothing is read from or written to the disk, so parallel runs cannot meet (GX keeps
    shared state in one YAML file otherwise).

    Returns:
        GX's `ExpectationSuiteValidationResult`.
    """
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("aggregates")
    batch = source.add_dataframe_asset("day").add_batch_definition_whole_dataframe("day")
    suite = context.suites.add(
        gx.ExpectationSuite(name=_SUITE, expectations=[_expectation(c) for c in checks])
    )
    definition = gx.ValidationDefinition(name=_SUITE, data=batch, suite=suite)
    validation = context.validation_definitions.add(definition)
    return validation.run(batch_parameters={"dataframe": _one_row(checks)}, result_format="SUMMARY")


def render(result: Any) -> str:
    """Return GX's own HTML page of a validation result."""
    return str(DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(result)))


def _expectation(check: Check) -> ExpectColumnMaxToBeBetween:
    """The one value of a column is its maximum; unlike the row-wise expectations this one reports what it saw."""
    words = f"{check.words}: {check.limit}"
    return ExpectColumnMaxToBeBetween(
        column=check.name, min_value=check.low, max_value=check.high, description=words
    )


def _one_row(checks: Sequence[Check]) -> pd.DataFrame:
    """Python floats, not NumPy's: GX cannot print the latter in its report."""
    return pd.DataFrame({check.name: pd.Series([_finite(check)], dtype=object) for check in checks})


def _finite(check: Check) -> float | None:
    return check.as_dict()["value"]  # type: ignore[return-value]
