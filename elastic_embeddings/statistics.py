"""Statistics of a table, as a whole and by field: an object, metrics for a tracker, JSON.

`elastic_embeddings.statistics_plot` draws them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.pending import FieldCounters, count_by_field
from elastic_embeddings.slabs.slab import Slab
from elastic_embeddings.state import TableState

HOTTEST = 10
"""The number of most frequent keys that are listed."""

FREQUENCY_EDGES: NDArray[np.float64] = np.exp2(np.arange(32, dtype=np.float64))
NORM_EDGES: NDArray[np.float64] = np.power(10.0, np.arange(-24, 9, dtype=np.float64) / 4)

_ROWS_AT_ONCE = 1 << 18
_VALUES_AT_ONCE = 1 << 20
_NOT_IN_A_METRIC = re.compile(r"[^A-Za-z0-9_.-]")
_SUMS = (
    "rows",
    "keys_seen",
    "zero_rows",
    "events",
    "rejected",
    "admitted",
    "evicted",
    "revived",
    "bytes",
)
_BYTES = ("index_bytes", "weight_bytes", "slot_bytes", "sketch_bytes")


@dataclass(frozen=True)
class HotKey:
    """A frequent key, its field's name and its occurrences."""

    key: int
    field: str
    count: int


@dataclass(frozen=True)
class Histogram:
    """`counts[i]` values are in [`edges[i]`, `edges[i + 1]`), on a logarithmic scale.

    Values outside the edges are counted in the first or last bin.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class FieldStatistics:
    """The statistics of one field.

    Attributes:
        rows: keys that have a row now.
        keys_seen: keys in the index, with or without a row; keys that a sketch counts are not
            included.
        zero_rows: rows that are exactly zero in every slab, by group lasso.
        events: occurrences of keys so far.
        hit_rate: share of the events whose key had a row; 0 before the first event.
        rejected: events whose key had no row.
        admitted: keys that were ever given a row.
        evicted: keys that lost their row.
        revived: rows that were zero at earlier statistics and are not now.
        bytes: rows with their optimizer state, and the field's share of the index by keys, without
            spare capacity.
        norms: slab → histogram of the L2 norms of the rows that are not zero there.
        frequencies: histogram of the occurrences of all keys in the index.
        hottest: the most frequent keys, then the smaller ones.
    """

    rows: int
    keys_seen: int
    zero_rows: int
    events: int
    hit_rate: float
    rejected: int
    admitted: int
    evicted: int
    revived: int
    bytes: int
    norms: Mapping[str, Histogram]
    frequencies: Histogram
    hottest: tuple[HotKey, ...]


@dataclass(frozen=True)
class TableStatistics(FieldStatistics):
    """All fields together. Here `bytes` is all allocated memory: the sum of the four below.

    Attributes:
        index_bytes: keys, counts, stamps, hash slots and deleted keys.
        weight_bytes: vectors.
        slot_bytes: optimizer state.
        sketch_bytes: counting sketches of keys without a row.
        fields: by name.
    """

    index_bytes: int
    weight_bytes: int
    slot_bytes: int
    sketch_bytes: int
    fields: Mapping[str, FieldStatistics]

    def as_metrics(self) -> dict[str, float]:
        """Return the figures by metric name: `table.rows`, `field.user.hit_rate`, …"""
        figures = (*_SUMS[:4], "hit_rate", *_SUMS[4:])
        metrics = {f"table.{name}": float(getattr(self, name)) for name in (*figures, *_BYTES)}
        for field, statistics in self.fields.items():
            # MLflow allows only these characters in names of metrics.
            prefix = f"field.{_NOT_IN_A_METRIC.sub('_', field)}"
            for name in figures:
                metrics[f"{prefix}.{name}"] = float(getattr(statistics, name))
        return metrics

    def write_json(self, path: Path) -> None:
        """Write everything, histograms and hottest keys included."""
        text = json.dumps(asdict(self), indent=1, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True)
class SlabSnapshot:
    """A slab's rows r: those of the admitted keys, in the order of their entries.

    Attributes:
        norms: float32 [r], L2 norm of each row's weights.
        zero: bool [r], all weights are exactly zero.
        row_bytes: of one row's weights and optimizer state.
        weight_bytes: of all weights, allocated.
        slot_bytes: of all optimizer state, allocated.
    """

    norms: NDArray[np.float32]
    zero: NDArray[np.bool_]
    row_bytes: int
    weight_bytes: int
    slot_bytes: int


@dataclass(frozen=True)
class TableSnapshot:
    """The arrays that statistics are computed from; e entries, with or without a row.

    Attributes:
        keys: int64 [e].
        counts: integer [e], occurrences.
        has_row: bool [e], admitted.
        fields: int16 [e], codes.
        field_names: by code.
        slabs: by name.
        counters: running counters by field.
        index_bytes: of keys, counts, stamps, hash slots and deleted keys, allocated.
        sketch_bytes: of the counting sketches.
    """

    keys: NDArray[np.int64]
    counts: NDArray[np.integer]
    has_row: NDArray[np.bool_]
    fields: NDArray[np.int16]
    field_names: Sequence[str]
    slabs: Mapping[str, SlabSnapshot]
    counters: FieldCounters
    index_bytes: int
    sketch_bytes: int


def take_snapshot(state: TableState) -> TableSnapshot:
    """Return the arrays of a table without pending batches, and count the revived rows.

    Rows that were zero at the last snapshot and are not now count as revived.
    """
    index, pending = state.pending.index, state.pending
    entries = index.live()
    has_row = index.rows[entries] > 0
    admitted = entries[has_row]
    slabs = {
        name: _slab_snapshot(slab, index.rows[admitted], index.row_limit)
        for name, slab in state.slabs.items()
    }
    # A row is zero only if it is zero in every slab.
    zero = np.logical_and.reduce([slab.zero for slab in slabs.values()])
    nonzero = admitted[~zero]
    revived = nonzero[np.isin(index.keys[nonzero], state.zero_keys)]
    pending.counters.revived[:] += count_by_field(index.fields[revived], len(state.fields))
    state.zero_keys = index.keys[admitted[zero]]
    return TableSnapshot(
        keys=index.keys[entries],
        counts=index.counts[entries],
        has_row=has_row,
        fields=index.fields[entries].astype(np.int16),
        field_names=state.fields,
        slabs=slabs,
        counters=pending.counters,
        index_bytes=index.nbytes() + state.tombstones.nbytes(),
        sketch_bytes=pending.nbytes() - index.nbytes(),
    )


def _slab_snapshot(slab: Slab, rows: NDArray[np.int32], limit: int) -> SlabSnapshot:
    norms, zero = np.zeros(len(rows), np.float32), np.zeros(len(rows), np.bool_)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        vectors = slab.vectors(rows[block])
        norms[block] = np.linalg.norm(vectors, axis=1)
        zero[block] = ~vectors.any(axis=1)
    # `nbytes` counts the fallback row too; the difference is one row.
    row_bytes = sum(slab.nbytes(1)) - sum(slab.nbytes(0))
    return SlabSnapshot(norms, zero, row_bytes, *slab.nbytes(limit))


def summarise(snapshot: TableSnapshot) -> TableStatistics:
    """Return the statistics of a table: a pass over its entries, and one over each slab's rows."""
    count, slabs = len(snapshot.field_names), snapshot.slabs
    of_row = snapshot.fields[snapshot.has_row].astype(np.int64)

    # 1. Sums by field, int64 [fields].
    zero = np.logical_and.reduce([slab.zero for slab in slabs.values()])
    keys_seen, rows = count_by_field(snapshot.fields, count), count_by_field(of_row, count)
    row_bytes = sum(slab.row_bytes for slab in slabs.values())
    sums = {
        "rows": rows,
        "keys_seen": keys_seen,
        "zero_rows": count_by_field(of_row[zero], count),
        "bytes": rows * row_bytes + keys_seen * snapshot.index_bytes // max(1, len(snapshot.keys)),
        **snapshot.counters.arrays(),
    }

    # 2. Histograms by field, int64 [fields, bins].
    norms = {
        name: _histograms(of_row[~slab.zero], slab.norms[~slab.zero], NORM_EDGES, count)
        for name, slab in slabs.items()
    }
    frequencies = _histograms(snapshot.fields, snapshot.counts, FREQUENCY_EDGES, count)

    def figures(chosen: int | slice, hottest: tuple[HotKey, ...]) -> dict[str, Any]:
        """The arguments of the `FieldStatistics` of one field, or of all fields together."""
        totals = {name: int(values[chosen].sum()) for name, values in sums.items()}
        # Hits are reported as a rate and as rejected events.
        hits, events = totals.pop("hits"), totals["events"]
        return {
            **totals,
            "rejected": events - hits,
            "hit_rate": hits / events if events else 0.0,
            "norms": {name: _histogram(NORM_EDGES, found[chosen]) for name, found in norms.items()},
            "frequencies": _histogram(FREQUENCY_EDGES, frequencies[chosen]),
            "hottest": hottest,
        }

    # 3. The figures of each field, and of all of them.
    hottest = [_hottest(snapshot, code) for code in range(count)]
    whole = figures(slice(None), _most_frequent([key for keys in hottest for key in keys]))
    weight_bytes = sum(int(slab.weight_bytes) for slab in slabs.values())
    slot_bytes = sum(int(slab.slot_bytes) for slab in slabs.values())
    whole["bytes"] = snapshot.index_bytes + weight_bytes + slot_bytes + snapshot.sketch_bytes
    return TableStatistics(
        **whole,
        index_bytes=snapshot.index_bytes,
        weight_bytes=weight_bytes,
        slot_bytes=slot_bytes,
        sketch_bytes=snapshot.sketch_bytes,
        fields={
            name: FieldStatistics(**figures(code, hottest[code]))
            for code, name in enumerate(snapshot.field_names)
        },
    )


def merge_statistics(tables: Mapping[str, TableStatistics]) -> TableStatistics:
    """Return the statistics of several tables as those of one.

    Args:
        tables: by name; a slab becomes `name/slab`, or keeps its name if the table's name is empty.
            A field may be in several tables.
    """
    fields: dict[str, dict[str, FieldStatistics]] = {}
    for table, statistics in tables.items():
        for field, figures in statistics.fields.items():
            fields.setdefault(field, {})[table] = figures
    allocated = {name: sum(getattr(part, name) for part in tables.values()) for name in _BYTES}
    return TableStatistics(
        **_merge(tables),
        **allocated,
        fields={name: FieldStatistics(**_merge(parts)) for name, parts in fields.items()},
    )


def _merge(parts: Mapping[str, FieldStatistics]) -> dict[str, Any]:
    """The arguments of the `FieldStatistics` of all parts together."""
    figures = list(parts.values())
    sums = {name: sum(getattr(part, name) for part in figures) for name in _SUMS}
    frequencies = np.sum([part.frequencies.counts for part in figures], axis=0)
    return {
        **sums,
        "hit_rate": 1 - sums["rejected"] / sums["events"] if sums["events"] else 0.0,
        "norms": {
            f"{name}/{slab}" if name else slab: histogram
            for name, part in parts.items()
            for slab, histogram in part.norms.items()
        },
        "frequencies": _histogram(np.array(figures[0].frequencies.edges), frequencies),
        "hottest": _most_frequent([key for part in figures for key in part.hottest]),
    }


def _histograms(
    groups: NDArray[Any], values: NDArray[Any], edges: NDArray[np.float64], count: int
) -> NDArray[np.int64]:
    """Return int64 [count, bins]: how many values of each group are in each bin."""
    bins = len(edges) - 1
    total = np.zeros(count * bins, np.int64)
    # In parts, because the temporary arrays are several times as large as the values.
    for start in range(0, len(values), _VALUES_AT_ONCE):
        part = slice(start, start + _VALUES_AT_ONCE)
        at = np.clip(np.searchsorted(edges, values[part], side="right") - 1, 0, bins - 1)
        total += np.bincount(groups[part] * np.int64(bins) + at, minlength=count * bins)
    return total.reshape(count, bins)


def _histogram(edges: NDArray[np.float64], counts: NDArray[np.int64]) -> Histogram:
    summed = counts.reshape(-1, len(edges) - 1).sum(axis=0)
    return Histogram(tuple(edges.tolist()), tuple(summed.tolist()))


def _hottest(snapshot: TableSnapshot, code: int) -> tuple[HotKey, ...]:
    """The most frequent keys of a field."""
    entries = np.flatnonzero(snapshot.fields == code)
    if len(entries) > HOTTEST:
        # Select before sorting: a table has millions of keys, and ten are wanted. Of the keys with
        # the least count that is still selected, the smallest are kept.
        counts = snapshot.counts[entries]
        least = np.partition(counts, -HOTTEST)[-HOTTEST]
        above, equal = entries[counts > least], entries[counts == least]
        wanted = HOTTEST - len(above)
        smallest = np.argpartition(snapshot.keys[equal], wanted - 1)[:wanted]
        entries = np.concatenate([above, equal[smallest]])
    keys, counts = snapshot.keys[entries].tolist(), snapshot.counts[entries].tolist()
    name = snapshot.field_names[code]
    return _most_frequent([HotKey(k, name, c) for k, c in zip(keys, counts, strict=True)])


def _most_frequent(keys: Sequence[HotKey]) -> tuple[HotKey, ...]:
    return tuple(sorted(keys, key=lambda hot: (-hot.count, hot.key))[:HOTTEST])
