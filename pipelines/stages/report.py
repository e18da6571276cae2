"""The figures of a day or an hour, read from what its stages committed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from features.errors import InputError
from features.partition import Partition, day_of, folder_of, in_order
from pipelines.stages.registry import artifacts, maker_of
from pipelines.store.artifacts import Store, Version
from pipelines.tracking.journal import TrackingJournal
from simulator.settings import SETTINGS_FILE

log = logging.getLogger(__name__)

_SOURCES = {
    "rows": ("impressions", "rows_kept"),
    "rows_quarantined": ("impressions", "rows_quarantined"),
    "auc_progressive": ("checkpoint", "auc_progressive"),
    "auc": ("checkpoint", "auc"),
    "auc_exported": ("validation_report", "auc_exported"),
    "auc_champion": ("validation_report", "auc_champion"),
    "log_loss": ("checkpoint", "log_loss"),
    "calibration": ("checkpoint", "calibration"),
    "auc_lr_baseline": ("checkpoint", "auc_lr_baseline"),
    "days_missing": ("checkpoint", "days_missing"),
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
"""Figure of the report → artifact and the name that its stage gives the figure."""

_POSSIBLE = ("auc_possible", "log_loss_possible")
"""Figures of `best_possible`, which are next to the checkpoint's own in MLflow."""


def day_report(store: Store, day: Partition) -> dict[str, Any]:
    """Return the figures of a day or hour; those of stages that have not run are None."""
    current = ((artifact, store.current(artifact, day)) for artifact in artifacts())
    versions = {artifact: version for artifact, version in current if version is not None}
    figures = {
        key: versions[artifact].metrics.get(name) if artifact in versions else None
        for key, (artifact, name) in _SOURCES.items()
    }
    return {
        "date": day.isoformat(),
        **figures,
        **best_possible(store, versions),
        "revisions": sorted({v.commit.get("revision", "") for v in versions.values()}),
        "run_id": TrackingJournal(store.workspace).run_id(day),
        "seconds": {v.commit["stage"]: v.commit["seconds"] for v in versions.values()},
    }


def best_possible(store: Store, versions: Mapping[str, Version]) -> dict[str, float]:
    """Return AUC and log loss of the true probabilities on the held-out impressions.

    No model can be better on average. Empty unless the day's log is a simulated one.

    Args:
        store: holds the log, with the settings that it was simulated with.
        versions: of the day, by artifact; impressions and checkpoint are needed.
    """
    impressions, checkpoint = versions.get("impressions"), versions.get("checkpoint")
    if impressions is None or checkpoint is None:
        return {}
    settings = store.workspace / "logs" / folder_of(day_of(impressions.day)) / SETTINGS_FILE
    if not settings.is_file():
        return {}
    # Imported here: without a simulated log nothing of this is needed, nor in DAG files.
    import pyarrow as pa
    import pyarrow.parquet as pq

    from simulator.impressions import logged_share
    from simulator.settings import SimulatorSettings
    from simulator.truth import TRUTH_COLUMNS, true_probability
    from training.evaluation.metrics import auc, log_loss

    heldout = pq.read_table(checkpoint.path / "heldout.parquet", columns=["label"])
    label = heldout["label"].to_numpy().astype("float32")
    try:
        table = pq.read_table(impressions.path / "impressions", columns=list(TRUTH_COLUMNS))
        world = SimulatorSettings.model_validate_json(settings.read_bytes())
        table = pa.table(table.slice(len(table) - len(label)))
        # The labels lack the clicks that came after the log was written.
        times = table["timestamp_ms"].to_numpy().astype("int64")
        truth = true_probability(world, table) * logged_share(world, times)
    except (ValueError, InputError) as error:
        log.warning("no best possible figures of %s: %s", impressions.day, error)
        return {}
    return dict(zip(_POSSIBLE, (auc(label, truth), log_loss(label, truth)), strict=True))


def figures_of(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a report, which MLflow stores as metrics."""
    return {k: float(v) for k, v in report.items() if isinstance(v, bool | int | float)}


def day_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a day report as MLflow's metrics: `train/auc`, `export/bytes_exported`.

    The name is the stage and the name that the stage gives the figure.
    """
    return {
        f"{maker_of(artifact)}/{name}": value
        for key, value in figures_of(report).items()
        if key in _SOURCES or key in _POSSIBLE
        for artifact, name in [_SOURCES.get(key, ("checkpoint", key))]
    }


def days_with_artifacts(store: Store) -> Iterator[Partition]:
    """Yield every day and hour that has any current artifact, in order."""
    yield from in_order({day for artifact in artifacts() for day in store.days(artifact)})


def report_json(report: Mapping[str, Any]) -> str:
    """Return a report as JSON; numbers that are not finite are null."""
    # Imported here: it loads NumPy, which nothing else that Airflow imports for a DAG file needs.
    from features.json_safe import json_safe

    return json.dumps(json_safe(report), indent=1)
