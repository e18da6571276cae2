"""Steps one after the other: each fitted to what the one before left, applied, and reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from compression.steps.dense import DenseReduction
from compression.steps.drop_fields import FieldRemoval
from compression.steps.encodings import EncodingPrecision
from compression.steps.fine_tune import FineTuning
from compression.steps.product import ProductQuantization
from compression.steps.prune_rows import RowPruning
from compression.steps.quantize import Quantization
from compression.steps.settings import (
    Dense,
    DropFields,
    FineTune,
    FloatEncodings,
    ProductCodes,
    PruneRows,
    Quantize,
    StepSettings,
    Widths,
)
from compression.steps.step import Step
from compression.steps.widths import WidthReduction
from compression.steps.work import Work

_STEPS: dict[type[Any], type[Step[Any, Any]]] = {
    DropFields: FieldRemoval,
    PruneRows: RowPruning,
    Widths: WidthReduction,
    Quantize: Quantization,
    ProductCodes: ProductQuantization,
    Dense: DenseReduction,
    FloatEncodings: EncodingPrecision,
    FineTune: FineTuning,
}


@dataclass(frozen=True)
class StepReport:
    """What a step did.

    Attributes:
        kind: of the step.
        settings: what the YAML says of it, defaults filled in.
        plan: what fitting made of that.
        bytes_before: of keys, rows, dense weights and encodings, as they are stored.
        bytes_after: of the same.
        rows_before: keys of all tables.
        rows_after: of the same.
    """

    kind: str
    settings: dict[str, Any]
    plan: dict[str, Any]
    bytes_before: int
    bytes_after: int
    rows_before: int
    rows_after: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def step_of(settings: StepSettings) -> Step[Any, Any]:
    """Return the step that settings are of."""
    return _STEPS[type(settings)](settings)


def run_steps(work: Work, steps: Sequence[StepSettings]) -> tuple[Work, tuple[StepReport, ...]]:
    """Return the work after all steps, and what each of them did.

    Raises:
        InputError: a step's settings do not fit the model; the message names the step.
        UnsoundError: the model holds values that a form cannot.
    """
    reports = []
    for settings in steps:
        work, report = run_step(work, settings)
        reports.append(report)
    return work, tuple(reports)


def run_step(work: Work, settings: StepSettings) -> tuple[Work, StepReport]:
    """Fit one step, apply it, and report; see `run_steps` for what it raises."""
    step, before = step_of(settings), work.model
    plan = step.fit(work)
    after = step.apply(work, plan)
    report = StepReport(
        kind=settings.kind,
        settings=settings.model_dump(mode="json"),
        plan=plan.model_dump(mode="json"),
        bytes_before=before.nbytes,
        bytes_after=after.model.nbytes,
        rows_before=before.rows,
        rows_after=after.model.rows,
    )
    return after, report
