"""The steps as rows of figures."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from compression_parts.spent import Spent

from compression.export.write import SAVED_MODEL, export_model
from compression.search.evaluator import HeldOutHalves
from training.evaluation.day_report import HELDOUT, METRICS
from training.evaluation.metrics import auc, interval, resample_users
from validation.model.requests import RawRequests, read_requests
from validation.serving.measure import ServingCosts, serving_costs
from whole_path_parts.path import Step

_BATCHES = (32, 512)


def rows_of(
    steps: Sequence[Step], heldout: HeldOutHalves, requests: int, rounds: int
) -> list[dict[str, Any]]:
    """Return a row for each step: quality against the start's, bytes, seconds, and requests a second of its export.

    Args:
        steps: the start first.
        heldout: the impressions that were scored.
        requests: of them that each export answers in every round.
        rounds: processes of each export.
    """
    drawn = resample_users(heldout.label, {step.name: step.scores for step in steps}, heldout.user)
    costs, first = _served(steps, requests, rounds), steps[0]
    rows = []
    for step in steps:
        gain = interval(drawn[step.name].auc - drawn[first.name].auc)
        value = auc(heldout.label, step.scores)
        quality = {
            "auc": value,
            "gain": value - auc(heldout.label, first.scores),
            "low": gain.low,
            "high": gain.high,
        }
        rows.append(
            {
                "step": step.name,
                **quality,
                **_size(step, first),
                **_seconds(step, first),
                **_speed(costs[step.name]),
            }
        )
    return rows


def verdict(rows: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """Return what the last row reached: AUC not below the start's, a loss that is in doubt, half the seconds of learning.

    A wide interval excuses much: that it reaches 0 (`loss_in_doubt`) is not that nothing was lost (`no_auc_loss`).
    """
    last = rows[-1]
    return {
        "no_auc_loss": last["gain"] >= 0,
        "loss_in_doubt": last["gain"] < 0 <= last["high"],
        "training_half": last["training_share"] <= 0.5,
    }


def _size(step: Step, first: Step) -> dict[str, Any]:
    size, told = step.model.nbytes, step.model.description
    return {
        "bytes": size,
        "bytes_share": size / first.model.nbytes,
        "bytes_of_rows": step.model.rows_nbytes,
        "bytes_of_statistics": sum(encoding.nbytes for encoding in step.model.encodings.values()),
        "statistics": sorted(step.model.encodings),
        "rows": step.model.rows,
        "inputs": len(told.schema.names()) + len(told.relations),
        "dropped": step.dropped,
    }


def _seconds(step: Step, first: Step) -> dict[str, Any]:
    """Of learning, and of everything beside it; shares are of processor seconds. `steps_clock`: of reading and steps alone."""
    spent, slices = (
        {"training": step.learned.spent, **step.beside},
        range(int(step.learned.checkpoint.name) + 1),
    )
    beside = sum(step.beside.values(), Spent())
    before = first.learned.spent.cpu + sum(first.beside.values(), Spent()).cpu
    return {
        "seconds": {name: asdict(one) for name, one in spent.items()},
        "steps_clock": sum(_steps_clock(step.learned.of_day(number)) for number in slices),
        "training_share": step.learned.spent.cpu / first.learned.spent.cpu,
        "whole_share": (step.learned.spent.cpu + beside.cpu) / before,
    }


def _steps_clock(checkpoint: Path) -> float:
    figures = json.loads((checkpoint / METRICS).read_text(encoding="utf-8"))
    return float(figures["rows_learned"] / figures["examples_per_s"])


def _speed(costs: ServingCosts) -> dict[str, Any]:
    told = {f"qps_b{size}": costs.batches[size].per_second for size in _BATCHES}
    return {**told, "bytes_exported": costs.bytes, "rss_bytes": costs.rss_bytes}


def _served(steps: Sequence[Step], requests: int, rounds: int) -> dict[str, ServingCosts]:
    """Export every model, and let each answer in fresh processes, in turns."""
    with tempfile.TemporaryDirectory() as scratch:
        exports: dict[str, Path] = {}
        for number, step in enumerate(steps):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            export_model(step.model, folder)
            exports[step.name] = folder / SAVED_MODEL
        return serving_costs(
            exports, {step.name: _asked(step, requests) for step in steps}, _BATCHES, rounds
        )


def _asked(step: Step, requests: int) -> RawRequests:
    records = pq.read_table(step.learned.checkpoint / HELDOUT, columns=["record_id"])[
        "record_id"
    ].to_numpy()
    return read_requests(step.learned.partition, step.model.description.schema, records[:requests])
