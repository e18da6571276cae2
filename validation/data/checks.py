"""What must hold of a day before it may be learned from: the checks, built from the schema and the gate's settings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from features.errors import InputError
from features.schema import ColumnField, Numeric, Schema
from validation.checks import Check
from validation.data.aggregates import Aggregates
from validation.settings import DataGateSettings

_BOUNDS = ("mean", "std", "min", "max")
_ROUNDING = 1e-9  # ingest rounds each share, so two that make one may fall short of it


def data_checks(
    day: Aggregates, history: Sequence[Aggregates], schema: Schema, settings: DataGateSettings
) -> tuple[Check, ...]:
    """Return every check of a day, passed or not, in the order of the report.

    Args:
        day: the day's aggregates.
        history: aggregates of earlier days; empty on the first day, which then has no `rows_ratio` check.
        schema: its column fields are each checked for nulls, its numeric fields for unreadable and infinite numbers.
        settings: the limits.

    Raises:
        InputError: `null_share_by_field` names a field that the schema does not have.
    """
    _refuse_unknown_fields(schema, settings)
    checks = [*_day_checks(day, settings), *_history_checks(day, history, settings)]
    for field in schema.column_fields():
        checks += _field_checks(day, field, settings)
    return tuple(checks)


def _refuse_unknown_fields(schema: Schema, settings: DataGateSettings) -> None:
    unknown = sorted(set(settings.null_share_by_field) - {f.name for f in schema.column_fields()})
    if unknown:
        raise InputError(
            f"data_gate.null_share_by_field: {unknown} are not fields that read a column; use names of the schema"
        )


def _day_checks(day: Aggregates, settings: DataGateSettings) -> list[Check]:
    rows_in, kept, quarantined = (day.day(m) for m in ("rows_in", "rows_kept", "rows_quarantined"))
    share = quarantined / rows_in if rows_in else math.nan
    return [
        Check("rows_kept", kept, settings.min_rows, None, "records kept for training"),
        Check(
            "rows_unaccounted",
            rows_in - kept - quarantined,
            0,
            0,
            "records read that were neither kept nor quarantined",
        ),
        Check(
            "quarantined_share",
            share,
            None,
            settings.max_quarantined_share,
            "share of the records that went to quarantine",
        ),
        Check(
            "ctr",
            day.day("ctr"),
            settings.min_ctr,
            settings.max_ctr,
            "click-through rate of the day",
        ),
    ]


def _history_checks(
    day: Aggregates, history: Sequence[Aggregates], settings: DataGateSettings
) -> list[Check]:
    if not history:
        return []
    mean = sum(earlier.day("rows_kept") for earlier in history) / len(history)
    ratio = day.day("rows_kept") / mean if mean else math.nan
    limit = settings.max_rows_ratio
    return [
        Check(
            "rows_ratio",
            ratio,
            1 / limit,
            limit,
            f"records kept, over the mean of {len(history)} earlier days",
        )
    ]


def _field_checks(day: Aggregates, field: ColumnField, settings: DataGateSettings) -> list[Check]:
    allowed = settings.null_share_by_field.get(field.name, settings.max_null_share)
    nulls = day.of(field.name, "null_share")
    checks = [
        Check(
            f"{field.name}.null_share",
            nulls,
            None,
            allowed,
            f"share of records without a value in {field.name}",
        )
    ]
    if isinstance(field, Numeric):
        unreadable, broken = day.of(field.name, "unreadable_share"), _broken_bounds(day, field.name)
        words = f"share of values in {field.name} that are no number"
        checks.append(Check(f"{field.name}.unreadable_share", unreadable, None, allowed, words))
        words = f"figures of {field.name} (mean, std, min, max) that are not finite"
        checks.append(Check(f"{field.name}.not_finite", broken, 0, 0, words))
    return checks


def _broken_bounds(day: Aggregates, field: str) -> float:
    """How many of a numeric field's bounds are not finite; none is expected where no value could be read."""
    missing = day.of(field, "null_share") + day.of(field, "unreadable_share")
    bounds = [day.of(field, metric) for metric in _BOUNDS]
    if missing > 1 - _ROUNDING and all(math.isnan(bound) for bound in bounds):
        return 0
    return sum(not math.isfinite(bound) for bound in bounds)
