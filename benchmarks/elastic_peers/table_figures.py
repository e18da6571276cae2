"""The whole table: how it grows, what a row takes in memory, and what a save and a restore cost."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from elastic_embeddings import ElasticTable
from elastic_peers.systems.ours import new_table
from elastic_peers.workload import Workload, keys_of

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_SLOTS, _KEY_BYTES = 3, 8  # z, m and v of GroupAdam
_FIRST_RATIO_AT = 100_000


def measure(rows: int, dim: int = 16) -> dict[str, Any]:
    """Grow a table to `rows` rows, a workload's batch of new keys at a time, then save it, free it and restore it."""
    before = _resident("VmRSS")
    table = new_table(dim)
    figures: dict[str, Any] = _grown(table, rows, dim)
    ideal = rows * _row_bytes(dim)
    figures["bytes_per_row_ratio"] = table.memory_bytes() / ideal
    figures["bytes_per_row_ratio_resident"] = _ratio(_minus(_resident("VmRSS"), before), ideal)
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
    return figures | {"restore_peak_over_table": _ratio(restore_peak, size)}


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
    """Return the seconds and the most memory it took beyond what was resident before; None where Linux does not tell."""
    if _CLEAR.exists():
        _CLEAR.write_text(_RESET_PEAK)
    before = _resident("VmRSS")
    started = time.perf_counter()
    act()
    return time.perf_counter() - started, _minus(_resident("VmHWM"), before)


def _resident(field: str) -> int | None:
    if not _STATUS.exists():
        return None
    found = re.search(rf"{field}:\s+(\d+) kB", _STATUS.read_text())
    return int(found[1]) * 1024 if found else None


def _minus(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before


def _ratio(part: float | None, whole: float) -> float | None:
    return None if part is None else part / whole
