"""From what the three processes wrote down to seconds from event to served model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from follow_parts.producer import LIVE

Lines = Sequence[Mapping[str, Any]]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines; a missing one has none."""
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if path.exists()
        else []
    )


def served_at(applied: Lines, content: int) -> float:
    """Return when a server first answered by this content or a later one, epoch seconds; infinite: it never did."""
    return min((line["applied_s"] for line in applied if line["number"] >= content), default=np.inf)


def latencies(landing: Path, batches: Lines, applied: Lines) -> np.ndarray:
    """Return seconds from each live event to the moment that a server answered by a model which had learned it, float64 [n]."""
    parts = [np.zeros(0)]
    for batch in batches:
        served_s = served_at(applied, batch["content"])
        for name in (name for name in batch["files"] if name.startswith(LIVE)):
            moments_ms = pq.read_table(landing / name, columns=["timestamp_ms"])[
                "timestamp_ms"
            ].to_numpy()
            parts.append(served_s - moments_ms / 1000)
    return np.concatenate(parts)


def report(landing: Path, batches: Lines, applied: Lines) -> dict[str, float]:
    """Return the figures of a run."""
    seconds = latencies(landing, batches, applied)
    live = [batch for batch in batches if any(name.startswith(LIVE) for name in batch["files"])]
    deltas = [batch for batch in live if batch.get("delta_bytes")]
    p50, p95 = np.percentile(seconds, [50, 95])
    rows = sum(batch["rows_in"] for batch in live)
    return {
        "events": rows,
        "event_to_served_p50_s": float(p50),
        "event_to_served_p95_s": float(p95),
        "event_to_served_max_s": float(seconds.max()),
        "events_per_s": rows
        / (served_at(applied, live[-1]["content"]) - _first_event_s(landing, live)),
        "micro_batches": len(live),
        "deltas": len(deltas),
        "delta_rows_median": float(np.median([batch["delta_rows"] for batch in deltas])),
        "delta_bytes_median": float(np.median([batch["delta_bytes"] for batch in deltas])),
        "delta_bytes_sum": float(sum(batch["delta_bytes"] for batch in deltas)),
        "learn_s_median": float(np.median([batch["seconds"] for batch in live])),
        "between_publications_s_median": _median_gap([batch["published_s"] for batch in live]),
        "apply_s_median": float(
            np.median([line["seconds"] for line in applied if line["kind"] == "delta"])
        ),
        "rows_served": applied[-1]["rows"],
        "auc_last_quarter": float(np.mean([batch["auc"] for batch in live[3 * len(live) // 4 :]])),
    }


def _first_event_s(landing: Path, live: Lines) -> float:
    first = next(name for name in live[0]["files"] if name.startswith(LIVE))
    return (
        float(pq.read_table(landing / first, columns=["timestamp_ms"])["timestamp_ms"][0].as_py())
        / 1000
    )


def _median_gap(moments_s: Sequence[float]) -> float:
    return float(np.median(np.diff(moments_s))) if len(moments_s) > 1 else float("nan")
