"""Answers and costs of an exported model, measured in fresh processes without this project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import UnsoundError
from features.files import folder_bytes
from validation.model.requests import RawRequests

BATCH_SIZES = (1, 32, 512)
"""Batch sizes at which a model is tried; the largest answers every request, the others a sample."""

_WORKER = Path(__file__).parents[1] / "model" / "parity_worker.py"
_TIMEOUT_S = 1800
_COSTS = ("load_s", "model_rss_bytes", "served_rss_bytes", "peak_rss_bytes")
_LATENCY = ("calls", "p50_ms", "p99_ms", "per_second")
# Latency is that of a CPU: a graphics card of the machine would make it incomparable.
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}


@dataclass(frozen=True)
class BatchAnswers:
    """The answers at one batch size, and their latency.

    Attributes:
        positions: int64 [rows], which requests were answered, ascending.
        probability: float32 [rows], the answers.
        calls: number of timed calls, without warm-up.
        p50_ms: median latency of a call.
        p99_ms: 99th percentile of it.
        total_s: seconds of all timed calls.
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
    """A model's answers and costs.

    Attributes:
        answers: by batch size.
        load_s: seconds of `tf.saved_model.load`.
        model_rss_bytes: growth of the process by loading.
        served_rss_bytes: the same after all answers, with what TensorFlow keeps for its calls.
        peak_rss_bytes: the largest size of the process, TensorFlow included.
        op_types: every op of the served graph; the process loaded no op library, so all are stock.
    """

    answers: Mapping[int, BatchAnswers]
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
            str(size): {name: getattr(answers, name) for name in _LATENCY}
            for size, answers in self.answers.items()
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
        batch_sizes: the largest answers all requests, the others a sample spread over them.
        max_calls: calls of a sample at most; 300 are enough for a 99th percentile.
        python: interpreter of another environment that has TensorFlow; None: this one's.

    Raises:
        UnsoundError: the model does not load or does not answer; the message has its output.
    """
    with tempfile.TemporaryDirectory(prefix="serving-") as scratch:
        folder = Path(scratch)
        # By files, because the process shares no code with this one.
        requests.save(folder / "requests.npz")
        arguments = [saved_model.resolve(), folder / "requests.npz", folder, max_calls]
        arguments += sorted(set(batch_sizes))
        # Isolated mode (-I): neither the current folder nor PYTHONPATH is on the worker's path.
        command = [python or sys.executable, "-I", _WORKER, *arguments]
        _run([str(part) for part in command], saved_model)
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        answers = {}
        with np.load(folder / "answers.npz", allow_pickle=False) as arrays:
            for name, cost in report["latency"].items():
                size = int(name)
                positions = [np.empty(0, np.int64)]
                for start in arrays[f"starts_{size}"]:
                    end = min(start + size, len(requests))
                    positions.append(np.arange(start, end, dtype=np.int64))
                answers[size] = BatchAnswers(
                    np.concatenate(positions), arrays[f"probability_{size}"], **cost
                )
    costs = {name: report[name] for name in _COSTS}
    return ServingReport(answers=answers, op_types=tuple(report["op_types"]), **costs)


def _run(command: list[str], saved_model: Path) -> None:
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
        output = "\n".join(error.stderr.strip().splitlines()[-5:])
        raise UnsoundError(
            f"{saved_model}: the exported model cannot be served; export it again. The process "
            f"said:\n{output}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise UnsoundError(
            f"{saved_model}: the exported model gave no answer in {_TIMEOUT_S} s"
        ) from error


@dataclass(frozen=True)
class BatchCosts:
    """The costs of one batch size as in `BatchAnswers`, medians over the rounds."""

    p50_ms: float
    p99_ms: float
    per_second: float


@dataclass(frozen=True)
class ServingCosts:
    """The costs of an export, medians over the rounds.

    Attributes:
        bytes: of the folder.
        load_s: seconds of `tf.saved_model.load`.
        rss_bytes: growth of the process by loading and answering, above TensorFlow and requests.
        batches: by batch size.
    """

    bytes: int
    load_s: float
    rss_bytes: int
    batches: Mapping[int, BatchCosts]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        batches = {str(size): asdict(costs) for size, costs in self.batches.items()}
        return asdict(self) | {"batches": batches}


def serving_costs(
    exports: Mapping[str, Path],
    requests: RawRequests | Mapping[str, RawRequests],
    batch_sizes: Sequence[int] = BATCH_SIZES,
    rounds: int = 3,
    max_calls: int = 300,
) -> dict[str, ServingCosts]:
    """Measure the costs of several exports for the same requests.

    Args:
        exports: SavedModel folders by name.
        requests: raw values by field, the same for all or by name of the export; the largest batch
            size answers them all in every round.
        batch_sizes: to measure.
        rounds: processes of each export.
        max_calls: of a round at each batch size but the largest.

    Raises:
        UnsoundError: an export does not load or does not answer.
    """
    runs: dict[str, list[ServingReport]] = {name: [] for name in exports}
    # The exports take turns, so that a load of the machine from outside affects all of them.
    for _ in range(rounds):
        for name, folder in exports.items():
            asked = requests if isinstance(requests, RawRequests) else requests[name]
            runs[name].append(serve(folder, asked, batch_sizes, max_calls))
    return {name: _median_costs(folder_bytes(exports[name]), each) for name, each in runs.items()}


def _median_costs(size: int, runs: Sequence[ServingReport]) -> ServingCosts:
    batches = {}
    for batch in runs[0].answers:
        answers = [run.answers[batch] for run in runs]
        batches[batch] = BatchCosts(
            p50_ms=median(answer.p50_ms for answer in answers),
            p99_ms=median(answer.p99_ms for answer in answers),
            per_second=median(answer.per_second for answer in answers),
        )
    # Medians, not means: one disturbed round does not count.
    load_s, rss = (
        median(getattr(r, name) for r in runs) for name in ("load_s", "served_rss_bytes")
    )
    return ServingCosts(size, load_s, int(rss), batches)
