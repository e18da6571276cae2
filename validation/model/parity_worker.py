"""Serve an exported model with TensorFlow and NumPy only, and write its answers and costs.

`validation.serving.measure` runs this script in a fresh process. It must not import this project:
otherwise it would not prove that the export needs nothing of it.
Usage: parity_worker.py SAVED_MODEL REQUESTS_NPZ OUT_FOLDER MAX_CALLS BATCH_SIZE...
Writes `answers.npz` (`starts_<b>`, `probability_<b>` per batch size) and `report.json`.
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

_WARM_UP_CALLS = 3


class DecodedRequests:
    """The requests file, decoded: `columns[field]` is a list of bytes, or of lists of bytes."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            names = [name.removesuffix(".ends") for name in arrays.files if name.endswith(".ends")]
            self.columns = {name: _decoded(arrays, name) for name in names}
        self.rows = len(next(iter(self.columns.values())))

    def batch(self, start: int, stop: int) -> dict[str, tf.Tensor]:
        """Return requests [start, stop): strings [batch], lists [batch, n] padded with `""`."""
        tensors = {}
        for name, column in self.columns.items():
            values = column[start:stop]
            if values and isinstance(values[0], list):
                width = max(map(len, values))
                values = [value + [b""] * (width - len(value)) for value in values]
            tensors[name] = tf.constant(values, tf.string)
        return tensors


def main(saved_model: str, requests: str, out: str, max_calls: str, *batch_sizes: str) -> None:
    """Load the model, answer the requests at each batch size, write answers and costs."""
    asked = DecodedRequests(Path(requests))
    # Memory is measured from here on: TensorFlow and the requests are not costs of the model.
    before, started = _resident_bytes(), time.perf_counter()
    model = tf.saved_model.load(saved_model)
    serve = model.signatures["serving_default"]
    latency: dict[int, dict[str, float]] = {}
    report: dict[str, Any] = {
        "load_s": time.perf_counter() - started,
        "latency": latency,
        "op_types": _op_types(serve),
    }
    report["model_rss_bytes"] = max(0, _resident_bytes() - before)
    sizes, answers = sorted(map(int, batch_sizes)), {}
    for size in sizes:
        # The largest batch size answers all requests, the others a sample spread over the file.
        starts = np.arange(0, asked.rows, size, dtype=np.int64)
        if size != sizes[-1] and len(starts) > int(max_calls):
            starts = starts[np.linspace(0, len(starts) - 1, int(max_calls)).astype(np.int64)]
        answers[f"starts_{size}"] = starts
        answers[f"probability_{size}"], latency[size] = _answer(serve, asked, starts, size)
    report["served_rss_bytes"] = max(0, _resident_bytes() - before)
    report["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    np.savez(Path(out) / "answers.npz", allow_pickle=False, **answers)
    (Path(out) / "report.json").write_text(json.dumps(report), encoding="utf-8")


def _decoded(arrays: Any, name: str) -> list[Any]:
    values = _split(arrays[f"{name}.bytes"].tobytes(), arrays[f"{name}.ends"])
    return _split(values, arrays[f"{name}.lists"]) if f"{name}.lists" in arrays.files else values


def _split(sequence: Any, ends: np.ndarray) -> list[Any]:
    bounds = [0, *ends.tolist()]
    return [sequence[start:end] for start, end in itertools.pairwise(bounds)]


def _answer(
    serve: Callable[..., Any], asked: DecodedRequests, starts: np.ndarray, size: int
) -> tuple[np.ndarray, dict[str, float]]:
    """Answers float32 of the batches, and the latency of the calls."""
    # The first calls trace and allocate: they are made twice, and counted the second time.
    warm_up = len(starts[:_WARM_UP_CALLS])
    probabilities, times_s = [np.empty(0, np.float32)], []
    for number, start in enumerate([*starts[:warm_up], *starts]):
        batch = asked.batch(start, start + size)
        started = time.perf_counter()
        probability = serve(**batch)["probability"].numpy()
        took_s = time.perf_counter() - started
        if number >= warm_up:
            probabilities.append(probability)
            times_s.append(took_s)
    p50, p99 = np.percentile(times_s, [50, 99]) * 1000 if times_s else (0.0, 0.0)
    return np.concatenate(probabilities), {
        "calls": len(times_s),
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "total_s": float(np.sum(times_s)),
    }


def _resident_bytes() -> int:
    # The second number is that of resident pages.
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _op_types(serve: Any) -> list[str]:
    graph = serve.graph.as_graph_def()
    # A call of a function is a node whose op is the function's name: that is no op type.
    functions = {function.signature.name for function in graph.library.function}
    nodes = [
        *graph.node,
        *(node for function in graph.library.function for node in function.node_def),
    ]
    return sorted({node.op for node in nodes} - functions)


if __name__ == "__main__":
    main(*sys.argv[1:])
