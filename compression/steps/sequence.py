"""Run steps in order: each is fitted to the result of the previous one, applied, and reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compression.steps import settings as step_settings
from compression.steps.dense import DenseReduction
from compression.steps.drop_fields import FieldRemoval
from compression.steps.fine_tune import FineTuning
from compression.steps.product import ProductQuantization
from compression.steps.prune_rows import RowPruning
from compression.steps.quantize import EncodingPrecision, Quantization
from compression.steps.step import CompressionState, Step
from compression.steps.widths import WidthReduction

_STEPS: dict[type[Any], type[Step[Any, Any]]] = {
    step_settings.DropFields: FieldRemoval,
    step_settings.PruneRows: RowPruning,
    step_settings.Widths: WidthReduction,
    step_settings.Quantize: Quantization,
    step_settings.ProductCodes: ProductQuantization,
    step_settings.Dense: DenseReduction,
    step_settings.FloatEncodings: EncodingPrecision,
    step_settings.FineTune: FineTuning,
}


@dataclass(frozen=True)
class StepReport:
    """What a step did.

    Attributes:
        kind: of the step.
        settings: of the step, with defaults filled in.
        plan: the result of fitting.
        bytes_before: of keys, rows, dense weights and encodings in stored form.
        bytes_after: the same after the step.
        rows_before: keys of all tables.
        rows_after: the same after the step.
    """

    kind: str
    settings: dict[str, Any]
    plan: dict[str, Any]
    bytes_before: int
    bytes_after: int
    rows_before: int
    rows_after: int


def run_steps(
    state: CompressionState, steps: Sequence[step_settings.StepSettings]
) -> tuple[CompressionState, tuple[StepReport, ...]]:
    """Return the state after all steps, and what each of them did.

    Raises:
        InputError: a step's settings do not fit the model; the message names the step.
        UnsoundError: the model holds values that a form cannot.
    """
    reports = []
    for settings in steps:
        state, report = run_step(state, settings)
        reports.append(report)
    return state, tuple(reports)


def run_step(
    state: CompressionState, settings: step_settings.StepSettings
) -> tuple[CompressionState, StepReport]:
    """Fit one step, apply it, and report; see `run_steps` for what it raises."""
    step: Step[Any, Any] = _STEPS[type(settings)](settings)
    # The plan is all that `apply` may use: written as YAML, it says what was done.
    plan = step.fit(state)
    after = step.apply(state, plan)
    report = StepReport(
        kind=settings.kind,
        settings=settings.model_dump(mode="json"),
        plan=plan.model_dump(mode="json"),
        bytes_before=state.model.nbytes,
        bytes_after=after.model.nbytes,
        rows_before=state.model.rows,
        rows_after=after.model.rows,
    )
    return after, report
