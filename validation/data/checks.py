"""The checks of a day before it may be trained on, built from its aggregates and the settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import InputError
from features.schema import ColumnField, Numeric, Schema
from validation.checks import Check
from validation.settings import DataGateSettings

WHOLE_DAY = ""
"""The field name of metrics of the whole day."""

_COLUMNS = ["field", "metric", "value"]
_BOUNDS = ("mean", "std", "min", "max")
_ROUNDING = 1e-9
"""Ingest rounds each share, so two shares that make up 1 may sum to slightly less."""


@dataclass(frozen=True)
class Aggregates:
    """The metrics of one day; one that ingest did not write is NaN, which no gate accepts."""

    values: Mapping[tuple[str, str], float]

    def day(self, metric: str) -> float:
        """Return a metric of the whole day."""
        return self.values.get((WHOLE_DAY, metric), math.nan)

    def of(self, field: str, metric: str) -> float:
        """Return a metric of one field."""
        return self.values.get((field, metric), math.nan)


def read_aggregates(path: Path) -> Aggregates:
    """Read `aggregates.parquet` of an `impressions` artifact.

    Raises:
        InputError: the file is missing, is no Parquet file, lacks a column or repeats a metric.
    """
    try:
        table = pq.read_table(path, columns=_COLUMNS)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise InputError(
            f"{path}: cannot read the day's aggregates ({error}); run `ingest` for that day again"
        ) from error
    if table.num_rows and set(table.column_names) != set(_COLUMNS):
        raise InputError(
            f"{path}: expected the columns {_COLUMNS}, found {table.column_names}; run `ingest` "
            "again"
        )
    values: dict[tuple[str, str], float] = {}
    for record in table.to_pylist():
        name = (record["field"], record["metric"])
        if name in values:
            raise InputError(
                f"{path}: the metric {name} appears twice; run `ingest` for that day again"
            )
        values[name] = math.nan if record["value"] is None else float(record["value"])
    return Aggregates(values)


def data_checks(
    day: Aggregates, history: Sequence[Aggregates], schema: Schema, settings: DataGateSettings
) -> tuple[Check, ...]:
    """Return every check of a day, passed or not, in the order of the report.

    Args:
        day: the day's aggregates.
        history: aggregates of earlier days; empty for a first day, which has no `rows_ratio` check.
        schema: its column fields are checked for nulls, its numeric fields for unreadable and
            infinite numbers.
        settings: the limits.

    Raises:
        InputError: `null_share_by_field` names a field that the schema does not have.
    """
    fields = schema.column_fields()
    unknown = sorted(set(settings.null_share_by_field) - {field.name for field in fields})
    if unknown:
        raise InputError(
            f"data_gate.null_share_by_field: {unknown} are not fields that read a column; use "
            "names of the schema"
        )
    checks = _day_checks(day, settings)
    if history:
        mean = sum(earlier.day("rows_kept") for earlier in history) / len(history)
        ratio = day.day("rows_kept") / mean if mean else math.nan
        limit = settings.max_rows_ratio
        words = f"records kept, over the mean of {len(history)} earlier days"
        setting = "data_gate.max_rows_ratio"
        checks.append(Check("rows_ratio", ratio, 1 / limit, limit, words, "", setting))
    for field in fields:
        checks += _field_checks(day, field, settings)
    return tuple(checks)


def _day_checks(day: Aggregates, settings: DataGateSettings) -> list[Check]:
    # NaN or a division by zero gives NaN, and the check fails.
    rows_in, kept, quarantined = (day.day(m) for m in ("rows_in", "rows_kept", "rows_quarantined"))
    lost = rows_in - kept - quarantined
    lost_words = "records read that were neither kept nor quarantined"
    share = quarantined / rows_in if rows_in else math.nan
    share_words = "share of the records that went to quarantine"
    prefix, most = "quarantined:", settings.max_quarantined_share
    found = {m: n for (_, m), n in day.values.items() if m.startswith(prefix) and n > 0}
    reasons = ", ".join(f"{m.removeprefix(prefix)}: {n:.0f}" for m, n in sorted(found.items()))
    quarantine = "data_gate.max_quarantined_share"
    kept_words, ctr_words = "records kept for training", "click-through rate of the day"
    ctr, low, high = day.day("ctr"), settings.min_ctr, settings.max_ctr
    return [
        Check("rows_kept", kept, settings.min_rows, None, kept_words, "", "data_gate.min_rows"),
        Check("rows_unaccounted", lost, 0, 0, lost_words),
        Check("quarantined_share", share, None, most, share_words, reasons, quarantine),
        Check("ctr", ctr, low, high, ctr_words, "", "data_gate.min_ctr, max_ctr"),
    ]


def _field_checks(day: Aggregates, field: ColumnField, settings: DataGateSettings) -> list[Check]:
    name = field.name
    allowed = settings.null_share_by_field.get(name, settings.max_null_share)
    nulls = day.of(name, "null_share")
    words = f"share of records without a value in {name}"
    setting = f"data_gate.null_share_by_field.{name}"
    checks = [Check(f"{name}.null_share", nulls, None, allowed, words, "", setting)]
    if isinstance(field, Numeric):
        unreadable = day.of(name, "unreadable_share")
        words = f"share of values in {name} that are no number"
        checks.append(
            Check(f"{name}.unreadable_share", unreadable, None, allowed, words, "", setting)
        )

        bounds = [day.of(name, metric) for metric in _BOUNDS]
        broken = sum(not math.isfinite(bound) for bound in bounds)
        # Where no value could be read, ingest has no bounds to write.
        if nulls + unreadable > 1 - _ROUNDING and all(math.isnan(bound) for bound in bounds):
            broken = 0
        words = f"figures of {name} (mean, std, min, max) that are not finite"
        checks.append(Check(f"{name}.not_finite", broken, 0, 0, words))
    return checks
