"""What an exported model answers and costs, measured in a fresh process that knows nothing of this project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import UnsoundError
from validation.model.requests import RawRequests

BATCH_SIZES = (1, 32, 512)
"""Batch sizes at which a model is tried; the largest answers every request, the others a sample."""

_WORKER = Path(__file__).parents[1] / "model" / "parity_worker.py"
_TIMEOUT_S = 1800
_COSTS = ("load_s", "model_rss_bytes", "served_rss_bytes", "peak_rss_bytes")
_LATENCY = ("calls", "p50_ms", "p99_ms", "per_second")
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}


@dataclass(frozen=True)
class Answers:
    """What the model said at one batch size, and how long it took.

    Attributes:
        positions: int64 [rows], which requests were answered, ascending.
        probability: float32 [rows], the answers.
        calls: how many timed calls were made (warm-up excluded).
        p50_ms: median latency of a call.
        p99_ms: 99th percentile of it.
        total_s: seconds of all timed calls together.
    """

    positions: NDArray[np.int64]
    probability: NDArray[np.float32]
    calls: int
    p50_ms: float
    p99_ms: float
    total_s: float

    @property
    def per_second(self) -> float:
        """Requests answered per second, one call after the other."""
        return len(self.positions) / self.total_s if self.total_s else 0.0


@dataclass(frozen=True)
class ServingReport:
    """A model's answers and costs by batch size.

    Attributes:
        answers: by batch size.
        load_s: seconds that `tf.saved_model.load` took.
        model_rss_bytes: growth of the process by loading.
        served_rss_bytes: the same after all answers, with what TensorFlow keeps for its calls.
        peak_rss_bytes: the process at its largest, TensorFlow included.
        op_types: every op of the served graph; the process loaded no op library, so all are stock.
    """

    answers: Mapping[int, Answers]
    load_s: float
    model_rss_bytes: int
    served_rss_bytes: int
    peak_rss_bytes: int
    op_types: tuple[str, ...]

    @property
    def probability(self) -> NDArray[np.float32]:
        """float32 [requests]: the answer to every request, from the largest batch size."""
        return self.answers[max(self.answers)].probability

    def as_dict(self) -> dict[str, Any]:
        """The costs as plain data, without the answers."""
        costs = {name: getattr(self, name) for name in _COSTS}
        latency = {
            str(b): {name: getattr(a, name) for name in _LATENCY} for b, a in self.answers.items()
        }
        return {**costs, "latency": latency, "op_types": list(self.op_types)}


def serve(
    saved_model: Path,
    requests: RawRequests,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    max_calls: int = 300,
    python: Path | None = None,
) -> ServingReport:
    """Load a SavedModel in a fresh process and answer requests at each batch size.

    Args:
        saved_model: an exported folder.
        requests: raw values by field.
        batch_sizes: the largest answers all requests; each other makes at most `max_calls` calls spread over them.
        max_calls: see above; 300 calls give a 99th percentile worth reading.
        python: interpreter of another environment that has TensorFlow; None: this one's.

    Raises:
        UnsoundError: the model does not load or does not answer; the message ends with the process's own words.
    """
    with tempfile.TemporaryDirectory(prefix="serving-") as scratch:
        folder = Path(scratch)
        requests.save(folder / "requests.npz")
        arguments = [
            saved_model.resolve(),
            folder / "requests.npz",
            folder,
            max_calls,
            *sorted(set(batch_sizes)),
        ]
        _run(python or Path(sys.executable), [str(argument) for argument in arguments], saved_model)
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        with np.load(folder / "answers.npz", allow_pickle=False) as arrays:
            answers = {
                int(size): _answers(arrays, size, cost, len(requests))
                for size, cost in report["latency"].items()
            }
    costs = {name: report[name] for name in _COSTS}
    return ServingReport(answers=answers, op_types=tuple(report["op_types"]), **costs)


def _run(python: Path, arguments: list[str], saved_model: Path) -> None:
    """Isolated mode (`-I`) keeps the current folder and `PYTHONPATH` out of the worker's way."""
    command = [str(python), "-I", str(_WORKER), *arguments]
    try:
        subprocess.run(
            command,
            env=os.environ | _QUIET,
            capture_output=True,
            text=True,
            check=True,
            timeout=_TIMEOUT_S,
        )
    except subprocess.CalledProcessError as error:
        words = "\n".join(error.stderr.strip().splitlines()[-5:])
        raise UnsoundError(
            f"{saved_model}: the exported model cannot be served; export it again. The process said:\n{words}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise UnsoundError(
            f"{saved_model}: the exported model gave no answer in {_TIMEOUT_S} s"
        ) from error


def _answers(arrays: Any, size: str, cost: Mapping[str, float], rows: int) -> Answers:
    starts = arrays[f"starts_{size}"]
    spans = [np.arange(start, min(start + int(size), rows), dtype=np.int64) for start in starts]
    positions = np.concatenate([np.empty(0, np.int64), *spans])
    times = {name: cost[name] for name in ("p50_ms", "p99_ms", "total_s")}
    return Answers(positions, arrays[f"probability_{size}"], int(cost["calls"]), **times)
