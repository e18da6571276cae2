"""What serving costs: exports side by side, each in fresh processes of its own, in turns, so that a noisy machine is fair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from validation.model.requests import RawRequests
from validation.serving.measure import BATCH_SIZES, ServingReport, serve


@dataclass(frozen=True)
class BatchCosts:
    """What one batch size costs, medians over the rounds.

    Attributes:
        p50_ms: median latency of a call.
        p99_ms: 99th percentile of it.
        per_second: requests answered per second, one call after the other.
    """

    p50_ms: float
    p99_ms: float
    per_second: float


@dataclass(frozen=True)
class ServingCosts:
    """What an export costs, medians over the rounds.

    Attributes:
        bytes: of the folder.
        load_s: seconds that `tf.saved_model.load` took.
        rss_bytes: growth of the process by loading and answering, above TensorFlow and the requests themselves.
        batches: by batch size.
    """

    bytes: int
    load_s: float
    rss_bytes: int
    batches: Mapping[int, BatchCosts]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {
            "batches": {str(size): asdict(costs) for size, costs in self.batches.items()}
        }


def serving_costs(
    exports: Mapping[str, Path],
    requests: RawRequests | Mapping[str, RawRequests],
    batch_sizes: Sequence[int] = BATCH_SIZES,
    rounds: int = 3,
    max_calls: int = 300,
) -> dict[str, ServingCosts]:
    """Serve the same requests by each export.

    Args:
        exports: SavedModel folders by name.
        requests: raw values by field, the same for all or by name of the export; the largest batch size answers them all in
            every round.
        batch_sizes: at which they are asked.
        rounds: processes of each export; they take turns.
        max_calls: of a round at each batch size but the largest.

    Raises:
        UnsoundError: an export does not load or does not answer.
    """
    reports: dict[str, list[ServingReport]] = {name: [] for name in exports}
    for _ in range(rounds):
        for name, folder in exports.items():
            asked = requests if isinstance(requests, RawRequests) else requests[name]
            reports[name].append(serve(folder, asked, batch_sizes, max_calls))
    return {name: _costs(folder_bytes(exports[name]), runs) for name, runs in reports.items()}


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _costs(size: int, runs: Sequence[ServingReport]) -> ServingCosts:
    batches = {
        batch: BatchCosts(
            p50_ms=median(run.answers[batch].p50_ms for run in runs),
            p99_ms=median(run.answers[batch].p99_ms for run in runs),
            per_second=median(run.answers[batch].per_second for run in runs),
        )
        for batch in runs[0].answers
    }
    return ServingCosts(
        size,
        median(run.load_s for run in runs),
        int(median(r.served_rss_bytes for r in runs)),
        batches,
    )
