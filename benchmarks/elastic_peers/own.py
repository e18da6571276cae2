"""The elastic table as a system, and figures that are of it alone."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from harness.options import difference, ratio
from numpy.typing import NDArray

from elastic_embeddings import Batch, ElasticTable, GroupAdam, SlabSpec
from elastic_embeddings.core.threads import set_threads
from elastic_embeddings.index.key_index import KeyIndex
from elastic_embeddings.slabs.slab import as_tensor
from elastic_peers.tf_systems import BETA_1, BETA_2, EPSILON, LEARNING_RATE, DenseTf, dense_step
from elastic_peers.worker import Step
from elastic_peers.workload import Traffic, Workload, initial_layers, keys_of, traffic
from training.fit.learner import ahead

L21 = 1e-7  # the cost of a step does not depend on it
INIT_SCALE = 0.01
_PREFILL = 200_000
_FIRST_GRADIENT = 1e-5  # none at all would leave the group lasso no reason to keep a row


def new_table(dim: int, l21: float = L21, seed: int = 17) -> ElasticTable:
    """Return an empty table as this benchmark measures it."""
    return ElasticTable(SlabSpec(dim, GroupAdam(LEARNING_RATE, l21=l21), INIT_SCALE), seed=seed)


def fill(table: ElasticTable, first: int, last: int, dim: int, part: int = _PREFILL) -> None:
    """Give the keys of ids first … last - 1 a row each, in that order, by a step with a small
    random gradient a part.
    """
    gradients = (
        np.random.default_rng(first).standard_normal((part, dim)) * _FIRST_GRADIENT
    ).astype(np.float32)
    for start in range(first, last, part):
        keys = keys_of(np.arange(start, min(start + part, last)))
        table.apply_gradients(table.prepare(keys), gradients[: len(keys)])


class Ours:
    """One table for all MLPs; batches come from one stream, in order."""

    def __init__(self, work: Workload, drawn: Traffic) -> None:
        self._work, self._drawn = work, drawn
        self._labels = [tf.constant(label) for label in drawn.labels]
        self._table = new_table(work.dim)
        fill(self._table, 0, work.rows, work.dim)
        self._stream = ahead(self._prepare, cycle(enumerate(drawn.keys)))

    def step(self, mlp: str) -> Step:
        """Return the whole step: rows gathered on the host, one `tf.function` for the dense part,
        rows updated on the host.
        """
        dense = DenseTf(initial_layers(self._work, mlp))
        shape = [self._work.batch, self._work.fields * self._work.dim]

        @tf.function(input_signature=[tf.TensorSpec(shape), tf.TensorSpec(shape[:1])])
        def learn(inputs: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            """Return the loss and the gradients of the vectors; the dense weights learn."""
            loss, by_inputs, by_variables = dense.loss_and_gradients(inputs, label)
            dense.apply(by_variables)
            return loss, by_inputs

        def step(_: int) -> float:
            """Take one step; return its loss."""
            number, prepared = next(self._stream)
            batch = self._table.begin(prepared)
            vectors = self._table.gather(batch)
            loss, gradients = learn(as_tensor(vectors.reshape(shape)), self._labels[number])
            self._table.apply(batch, {"vectors": gradients})
            return float(loss)

        return step

    def dense(self, mlp: str) -> Step:
        """Return the dense part of an MLP."""
        return dense_step(self._work, self._drawn, mlp)

    def _prepare(self, numbered: tuple[int, np.ndarray]) -> tuple[int, Batch]:
        number, keys = numbered
        return number, self._table.prepare(keys, ahead=True)


_WORK = Workload(rows=3000, fields=6, dim=8, batch=256, smallest=100, batches=20, hidden=("16x8",))
_LARGE = Workload(
    rows=100_000, dim=8, batch=1024, smallest=500, batches=20, hidden=("16x8",)
)  # or nothing would be split
_LARGE_STEPS = 40
_THREADS = (1, 2, 4)
Float64 = NDArray[np.float64]


def measure_correctness(steps: int) -> dict[str, Any]:
    """Return the largest difference of a vector from the reference, and whether 1, 2 and 4 threads
    give the same bytes.
    """
    drawn = traffic(_LARGE)
    trained = {_trained_bytes(drawn, threads, min(steps, _LARGE_STEPS)) for threads in _THREADS}
    return {
        "steps": steps,
        "max_difference": largest_difference(steps),
        "same_for_1_2_4_threads": len(trained) == 1,
    }


def largest_difference(steps: int) -> float:
    """Return the largest difference of a number in a vector, without group lasso, after so many
    steps.
    """
    drawn = traffic(_WORK)
    keys, places = np.unique(drawn.keys, return_inverse=True)
    fresh = new_table(_WORK.dim, l21=0)
    fresh.prepare(keys)
    expected = _reference(
        fresh.lookup(keys).astype(np.float64), places.reshape(drawn.keys.shape), drawn.labels, steps
    )
    table = new_table(_WORK.dim, l21=0)
    train(table, _WORK, drawn, steps)
    seen = np.isin(keys, table.keys())
    return float(np.abs(table.lookup(keys)[seen] - expected[seen]).max())


def train(table: ElasticTable, work: Workload, drawn: Traffic, steps: int) -> None:
    """Train the table and an MLP on the batches, round and round."""
    dense = DenseTf(initial_layers(work, work.hidden[0]))
    for number in range(steps):
        keys, labels = drawn.keys[number % work.batches], drawn.labels[number % work.batches]
        batch = table.prepare(keys)
        inputs = tf.constant(table.lookup(keys).reshape(work.batch, -1))
        _, by_inputs, by_variables = dense.loss_and_gradients(inputs, tf.constant(labels))
        dense.apply(by_variables)
        table.apply_gradients(batch, by_inputs.numpy().reshape(len(keys), -1))


def _trained_bytes(drawn: Traffic, threads: int, steps: int) -> bytes:
    set_threads(threads)
    table = new_table(_LARGE.dim, l21=L21)
    train(table, _LARGE, drawn, steps)
    return table.lookup(np.unique(drawn.keys)).tobytes()


def _reference(
    vectors: Float64, places: NDArray[np.int64], labels: NDArray[np.float32], steps: int
) -> Float64:
    weights = [
        array.astype(np.float64)
        for layer in initial_layers(_WORK, _WORK.hidden[0])
        for array in layer
    ]
    moments = [np.zeros((2, *array.shape)) for array in (vectors, *weights)]
    for step in range(1, steps + 1):
        rows = places[(step - 1) % _WORK.batches]
        gradients = _gradients(
            vectors[rows].reshape(_WORK.batch, -1), weights, labels[(step - 1) % _WORK.batches]
        )
        touched, inverse = np.unique(rows, return_inverse=True)
        summed = np.zeros((len(touched), _WORK.dim))
        np.add.at(summed, inverse, gradients[0].reshape(-1, _WORK.dim))
        moments[0][:, touched], vectors[touched] = _adam(
            moments[0][:, touched], vectors[touched], summed, step
        )
        for i, gradient in enumerate(gradients[1:]):
            moments[i + 1], weights[i] = _adam(moments[i + 1], weights[i], gradient, step)
    return vectors


def _adam(
    moments: Float64, weights: Float64, gradients: Float64, step: int
) -> tuple[Float64, Float64]:
    m = BETA_1 * moments[0] + (1 - BETA_1) * gradients
    v = BETA_2 * moments[1] + (1 - BETA_2) * gradients**2
    rate = LEARNING_RATE * np.sqrt(1 - BETA_2**step) / (1 - BETA_1**step)
    return np.stack([m, v]), weights - rate * m / (np.sqrt(v) + EPSILON)


def _gradients(
    inputs: Float64, weights: list[Float64], labels: NDArray[np.float32]
) -> list[Float64]:
    """Return the gradients of the mean sigmoid cross-entropy by the inputs and by each weight and
    bias.
    """
    activations = [inputs]
    for weight, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        activations.append(np.maximum(activations[-1] @ weight + bias, 0))
    logits = (activations[-1] @ weights[-2] + weights[-1])[:, 0]
    back = ((1 / (1 + np.exp(-logits)) - labels) / len(labels))[:, np.newaxis]
    by_weights: list[Float64] = []
    for weight, below in zip(weights[-2::-2], activations[::-1], strict=True):
        by_weights[:0] = [below.T @ back, back.sum(axis=0)]
        back = (back @ weight.T) * ((below > 0) if below is not inputs else 1)
    return [back, *by_weights]


_PART = 1_000_000
_ROUNDS = 4


def measure_index(warm: int, small: int, large: int) -> dict[str, float]:
    """Return keys a second a core over `warm` keys, and nanoseconds a key of `prepare` over `small`
    and `large` rows.

    The traffic is the workload's law over that many ids, every one of which is in the index
    already. `assign` runs in one thread. The tables for `prepare` have width 1, for memory's sake:
    it touches the index and no slab.
    """
    over_small, over_large = prepare_ns_per_key((small, large))
    return {
        "index_keys_per_s_core": assign_keys_per_s(warm),
        "prepare_ns_per_key_small": over_small,
        "prepare_ns_per_key_large": over_large,
        "key_cost_50m_over_10m": over_large / over_small,
    }


def assign_keys_per_s(rows: int) -> float:
    """Return the keys that `KeyIndex.assign` finds, deduplicates, counts and stamps in a second of
    its thread's CPU time.
    """
    index = KeyIndex()
    for start in range(0, rows, _PART):
        index.find_or_insert(keys_of(np.arange(start, min(start + _PART, rows))), 1)
    batches = _batches(rows)
    times = []
    for number in range(_ROUNDS * len(batches)):
        started = time.thread_time_ns()
        index.find_or_insert(batches[number % len(batches)], number + 2)
        times.append(time.thread_time_ns() - started)
    return (
        1e9 * batches.shape[1] / float(np.median(times[len(batches) :]))
    )  # the first time round warms the caches up


def prepare_ns_per_key(sizes: Sequence[int]) -> list[float]:
    """Return nanoseconds a key of `ElasticTable.prepare` for tables of such sizes: by the clock,
    medians, in rounds A B A B …
    """
    tables = [_filled(rows) for rows in sizes]
    traffics = [_batches(rows) for rows in sizes]
    times: list[list[int]] = [[] for _ in sizes]
    for _ in range(_ROUNDS):
        for table, batches, measured in zip(tables, traffics, times, strict=True):
            measured.extend(_prepare_ns(table, keys) for keys in batches)
    return [
        float(np.median(measured[len(batches) :])) / batches.shape[1]
        for measured, batches in zip(times, traffics, strict=True)
    ]


def _filled(rows: int) -> ElasticTable:
    table = new_table(1)
    fill(table, 0, rows, 1, _PART)
    return table


def _prepare_ns(table: ElasticTable, keys: NDArray[np.int64]) -> int:
    """Time one `prepare` and undo it, untimed."""
    started = time.perf_counter_ns()
    table.prepare(keys)
    elapsed = time.perf_counter_ns() - started
    table.discard()
    return elapsed


def _batches(rows: int) -> NDArray[np.int64]:
    return traffic(Workload(rows, smallest=min(Workload.smallest, rows // 100))).keys


_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_SLOTS, _KEY_BYTES = 3, 8  # z, m and v of GroupAdam
_FIRST_RATIO_AT = 100_000


def measure_table(rows: int, dim: int = 16) -> dict[str, Any]:
    """Grow a table to `rows` rows, a workload's batch of new keys at a time, then save it, free it
    and restore it.
    """
    before = _resident("VmRSS")
    table = new_table(dim)
    figures: dict[str, Any] = _grown(table, rows, dim)
    ideal = rows * _row_bytes(dim)
    figures["bytes_per_row_ratio"] = table.memory_bytes() / ideal
    figures["bytes_per_row_ratio_resident"] = ratio(difference(_resident("VmRSS"), before), ideal)
    size = figures["table_bytes"] = table.memory_bytes()
    sample = keys_of(np.arange(0, rows, max(1, rows // 1000)))
    expected = table.lookup(sample)
    with tempfile.TemporaryDirectory() as folder:
        save_s, save_peak = _with_peak(partial(table.save, Path(folder) / "table"))
        del table
        restored = new_table(dim)
        restore_s, restore_peak = _with_peak(partial(restored.restore, Path(folder) / "table"))
    if not np.array_equal(expected, restored.lookup(sample)):
        raise AssertionError("the restored table gives other vectors: its times mean nothing")
    figures |= {"table_rows": rows, "save_s": save_s, "restore_s": restore_s}
    figures["save_peak_over_table"] = None if save_peak is None else 1 + save_peak / size
    return figures | {"restore_peak_over_table": ratio(restore_peak, size)}


def _grown(table: ElasticTable, rows: int, dim: int) -> dict[str, float]:
    work = Workload(dim=dim)
    generator = np.random.default_rng(work.seed)
    gradients = (generator.standard_normal((work.keys_per_batch, dim)) * 1e-3).astype(np.float32)
    prepares, learns, ratios = [], [], [0.0]
    for start in range(0, rows, work.keys_per_batch):
        keys = keys_of(np.arange(start, min(start + work.keys_per_batch, rows)))
        started = time.perf_counter()
        batch = table.prepare(keys)
        prepared = time.perf_counter()
        table.apply_gradients(batch, gradients[: len(keys)])
        prepares.append(prepared - started)
        learns.append(time.perf_counter() - prepared)
        if len(table) > _FIRST_RATIO_AT:
            ratios.append(table.memory_bytes() / (len(table) * _row_bytes(dim)))
    return {
        "growth_stall_s": max(prepares[1:]),  # the first compiles
        "growth_stall_learning_s": max(learns[1:]),
        "grow_s": sum(prepares) + sum(learns),
        "bytes_per_row_ratio_worst": max(ratios),
    }


def _row_bytes(dim: int) -> int:
    """What a row cannot do without: weights, slots and key."""
    return 4 * dim * (1 + _SLOTS) + _KEY_BYTES


def _with_peak(act: Callable[[], object]) -> tuple[float, int | None]:
    """Return the seconds and the most memory it took beyond what was resident before; None where
    Linux does not tell.
    """
    if _CLEAR.exists():
        _CLEAR.write_text(_RESET_PEAK)
    before = _resident("VmRSS")
    started = time.perf_counter()
    act()
    return time.perf_counter() - started, difference(_resident("VmHWM"), before)


def _resident(field: str) -> int | None:
    if not _STATUS.exists():
        return None
    found = re.search(rf"{field}:\s+(\d+) kB", _STATUS.read_text())
    return int(found[1]) * 1024 if found else None
