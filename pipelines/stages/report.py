"""The figures of a day or an hour, read from what its stages committed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from features.partition import Partition, in_order
from pipelines.store.artifacts import Store, Version
from pipelines.tracking.journal import Journal

ARTIFACTS = (
    "impressions",
    "data_verdict",
    "feature_statistics",
    "cross_counts",
    "cross_graph",
    "encodings",
    "checkpoint",
    "compressed",
    "export",
    "validation_report",
    "promotion",
    "monitor",
)
"""Every artifact of a day, in the order of the stages that make them."""

_FROM = {
    "rows": ("impressions", "rows_kept"),
    "rows_quarantined": ("impressions", "rows_quarantined"),
    "auc_progressive": ("checkpoint", "auc_progressive"),
    "auc": ("checkpoint", "auc"),
    "auc_exported": ("validation_report", "auc_exported"),
    "auc_champion": ("validation_report", "auc_champion"),
    "log_loss": ("checkpoint", "log_loss"),
    "calibration": ("checkpoint", "calibration"),
    "auc_lr_baseline": ("checkpoint", "auc_lr_baseline"),
    "rows_in_table": ("checkpoint", "rows_in_table"),
    "keys_seen": ("checkpoint", "keys_seen"),
    "zero_rows": ("checkpoint", "zero_rows"),
    "bytes_trained": ("checkpoint", "bytes_trained"),
    "bytes_exported": ("export", "bytes_exported"),
    "parity_max_abs_diff": ("validation_report", "parity_max_abs_diff"),
    "p99_ms": ("validation_report", "p99_ms"),
    "lift_auc_vs_baseline": ("validation_report", "lift_auc_vs_baseline"),
    "lift_auc_vs_champion": ("validation_report", "lift_auc_vs_champion"),
    "verdict": ("validation_report", "verdict"),
    "promoted": ("promotion", "promoted"),
    "model_version": ("promotion", "model_version"),
}


def day_report(store: Store, day: Partition) -> dict[str, Any]:
    """Return the figures of a day or hour; what a stage has not made yet is null."""
    versions = {a: store.current(a, day) for a in ARTIFACTS}
    figures = {key: _figure(versions[artifact], name) for key, (artifact, name) in _FROM.items()}
    seconds = {v.commit["stage"]: v.commit["seconds"] for v in versions.values() if v}
    return {
        "date": day.isoformat(),
        **figures,
        "run_id": Journal(store.workspace).run_id(day),
        "seconds": seconds,
    }


def figures_of(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a report: what MLflow takes as metrics."""
    return {k: float(v) for k, v in report.items() if isinstance(v, bool | int | float)}


def days_with_artifacts(store: Store) -> Iterator[Partition]:
    """Yield every day and hour that has any current artifact, in order."""
    yield from in_order({day for artifact in ARTIFACTS for day in store.days(artifact)})


def report_json(report: Mapping[str, Any]) -> str:
    """Return a report as JSON; what is not a finite number is null, as JSON knows neither NaN nor infinity."""
    return json.dumps(
        {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in report.items()
        },
        indent=1,
    )


def _figure(version: Version | None, name: str) -> Any:
    return None if version is None else version.metrics.get(name)
