"""The index alone: keys a second on one core, and what a key costs in a large table against a small one."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings import ElasticTable
from elastic_embeddings.index.key_index import KeyIndex
from elastic_peers.systems.ours import fill, new_table
from elastic_peers.workload import Workload, keys_of, traffic

_PART = 1_000_000
_ROUNDS = 4


def measure(warm: int, small: int, large: int) -> dict[str, float]:
    """Return keys a second a core over `warm` keys, and nanoseconds a key of `prepare` over `small` and `large` rows.

    The traffic is the workload's law over that many ids, every one of which is in the index already. `assign` runs in one
    thread. The tables for `prepare` have width 1, for memory's sake: it touches the index and no slab.
    """
    over_small, over_large = prepare_ns_per_key((small, large))
    return {
        "index_keys_per_s_core": assign_keys_per_s(warm),
        "prepare_ns_per_key_small": over_small,
        "prepare_ns_per_key_large": over_large,
        "key_cost_50m_over_10m": over_large / over_small,
    }


def assign_keys_per_s(rows: int) -> float:
    """Return the keys that `KeyIndex.assign` finds, deduplicates, counts and stamps in a second of its thread's CPU time."""
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
    """Return nanoseconds a key of `ElasticTable.prepare` for tables of such sizes: by the clock, medians, in rounds A B A B …"""
    tables = [_filled(rows) for rows in sizes]
    traffics = [_batches(rows) for rows in sizes]
    times: list[list[int]] = [[] for _ in sizes]
    for _ in range(_ROUNDS):
        for table, batches, taken in zip(tables, traffics, times, strict=True):
            taken.extend(_prepare_ns(table, keys) for keys in batches)
    return [
        float(np.median(taken[len(batches) :])) / batches.shape[1]
        for taken, batches in zip(times, traffics, strict=True)
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
