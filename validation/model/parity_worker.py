"""Serve an exported model as a stranger would: a script whose only packages are TensorFlow and NumPy.

Run in a process of its own by `validation.serving.measure`; it must not import this project, or it would prove nothing.
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


class Requests:
    """The requests file, decoded to bytes per value: `columns[field]` is a list of bytes, or of lists of bytes."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            names = [name.removesuffix(".ends") for name in arrays.files if name.endswith(".ends")]
            self.columns = {name: _decode(arrays, name) for name in names}
        self.rows = len(next(iter(self.columns.values())))

    def batch(self, start: int, stop: int) -> dict[str, tf.Tensor]:
        """Tensors of the requests [start, stop): string [batch], multi-valued [batch, longest] padded with `""`."""
        return {
            name: tf.constant(_padded(values[start:stop]), tf.string)
            for name, values in self.columns.items()
        }


def main(saved_model: str, requests: str, out: str, max_calls: str, *batch_sizes: str) -> None:
    """Load the model, answer the requests at each batch size, write the answers and what they cost."""
    asked = Requests(Path(requests))
    before, started = _resident_bytes(), time.perf_counter()
    model = tf.saved_model.load(saved_model)
    serve = model.signatures["serving_default"]
    report: dict[str, Any] = {
        "load_s": time.perf_counter() - started,
        "latency": {},
        "op_types": _op_types(serve),
    }
    report["model_rss_bytes"] = max(0, _resident_bytes() - before)
    sizes, answers = sorted(map(int, batch_sizes)), {}
    for size in sizes:
        starts = _starts(asked.rows, size, asked.rows if size == sizes[-1] else int(max_calls))
        answers[f"starts_{size}"] = starts
        answers[f"probability_{size}"], report["latency"][size] = _answer(
            serve, asked, starts, size
        )
    report["served_rss_bytes"] = max(0, _resident_bytes() - before)
    report["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    np.savez(Path(out) / "answers.npz", allow_pickle=False, **answers)
    (Path(out) / "report.json").write_text(json.dumps(report), encoding="utf-8")


def _decode(arrays: Any, name: str) -> list[Any]:
    values = _split(arrays[f"{name}.bytes"].tobytes(), arrays[f"{name}.ends"])
    return _split(values, arrays[f"{name}.lists"]) if f"{name}.lists" in arrays.files else values


def _split(sequence: Any, ends: np.ndarray) -> list[Any]:
    bounds = [0, *ends.tolist()]
    return [sequence[start:end] for start, end in itertools.pairwise(bounds)]


def _padded(values: list[Any]) -> list[Any]:
    if not values or isinstance(values[0], bytes):
        return values
    width = max(map(len, values))
    return [value + [b""] * (width - len(value)) for value in values]


def _starts(rows: int, size: int, most: int) -> np.ndarray:
    """First requests of the batches: all of them, or `most` spread evenly over the file."""
    starts = np.arange(0, rows, size, dtype=np.int64)
    return (
        starts
        if len(starts) <= most
        else starts[np.linspace(0, len(starts) - 1, most).astype(np.int64)]
    )


def _answer(
    serve: Callable[..., Any], asked: Requests, starts: np.ndarray, size: int
) -> tuple[np.ndarray, dict[str, float]]:
    probabilities, times_s = [np.empty(0, np.float32)], []
    for start in [*starts[:_WARM_UP_CALLS], *starts]:
        batch = asked.batch(start, start + size)
        started = time.perf_counter()
        probabilities.append(serve(**batch)["probability"].numpy())
        times_s.append(time.perf_counter() - started)
    warm = len(starts[:_WARM_UP_CALLS])
    return np.concatenate([probabilities[0], *probabilities[warm + 1 :]]), _latency(times_s[warm:])


def _latency(times_s: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(times_s, [50, 99]) * 1000 if times_s else (0.0, 0.0)
    return {
        "calls": len(times_s),
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "total_s": float(np.sum(times_s)),
    }


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _op_types(serve: Any) -> list[str]:
    graph = serve.graph.as_graph_def()
    functions = {function.signature.name for function in graph.library.function}
    nodes = [
        *graph.node,
        *(node for function in graph.library.function for node in function.node_def),
    ]
    return sorted({node.op for node in nodes} - functions)


if __name__ == "__main__":
    main(*sys.argv[1:])
