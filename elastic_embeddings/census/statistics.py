"""What a table looks like at one moment, as a whole and by field: an object, metrics for a tracker, JSON.

`elastic_embeddings.census.plot` draws it. Everything here is a function of plain arrays; the table brings them.
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

from elastic_embeddings.tally import Tally, by_field

HOTTEST = 10
"""How many of the most frequent keys are named."""

FREQUENCY_EDGES: NDArray[np.float64] = np.exp2(np.arange(32, dtype=np.float64))
NORM_EDGES: NDArray[np.float64] = np.power(10.0, np.arange(-24, 9, dtype=np.float64) / 4)

_AT_ONCE = 1 << 20
_NOT_IN_A_METRIC = re.compile(r"[^A-Za-z0-9_.-]")
_FIELD_FIGURES = (
    "rows",
    "keys_seen",
    "zero_rows",
    "events",
    "hit_rate",
    "rejected",
    "admitted",
    "evicted",
    "revived",
    "bytes",
)
_BYTES = ("index_bytes", "weight_bytes", "slot_bytes", "sketch_bytes")


@dataclass(frozen=True)
class SlabParts:
    """What statistics need of a slab; r rows, those of the admitted keys in order of their entries.

    Attributes:
        norms: float32 [r], L2 norm of each row's weights.
        zero: bool [r], weights that are all exactly zero.
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
class Parts:
    """What statistics need of a table; e entries, admitted or waiting, in any order.

    Attributes:
        keys: int64 [e].
        counts: integer [e], occurrences.
        has_row: bool [e], admitted.
        fields: int16 [e], codes.
        field_names: by code.
        slabs: by name.
        tally: running counts by field.
        index_bytes: of keys, counts, stamps and hash slots, allocated.
        sketch_bytes: of the counting sketches.
    """

    keys: NDArray[np.int64]
    counts: NDArray[np.integer]
    has_row: NDArray[np.bool_]
    fields: NDArray[np.int16]
    field_names: Sequence[str]
    slabs: Mapping[str, SlabParts]
    tally: Tally
    index_bytes: int
    sketch_bytes: int


@dataclass(frozen=True)
class HotKey:
    """A frequent key, its field's name and its occurrences."""

    key: int
    field: str
    count: int


@dataclass(frozen=True)
class Histogram:
    """`counts[i]` values lie in [`edges[i]`, `edges[i + 1]`), log-spaced; what lies outside is in the first or last bin."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class FieldStatistics:
    """One field's share of a table.

    Attributes:
        rows: keys that have a row now.
        keys_seen: keys in the index, waiting ones included; those counted in a sketch are not known one by one.
        zero_rows: rows that are exactly zero in every slab: what group lasso freed.
        events: occurrences of keys so far.
        hit_rate: share of the events whose key had a row; 0 before the first event.
        rejected: events whose key had no row.
        admitted: keys that were ever given a row.
        evicted: keys that lost their row.
        revived: rows that were zero when last looked at and came back (`Tally.revived`).
        bytes: rows with their optimizer state, and the field's share of the index by keys; spare capacity is left out.
        norms: slab → histogram of the L2 norms of the rows that are not zero there.
        frequencies: histogram of the occurrences of all keys in the index.
        hottest: the most frequent keys; of equals the smaller key first.
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
    """All fields together. Here `bytes` is everything that is allocated: the sum of the four below.

    Attributes:
        index_bytes: keys, counts, stamps and hash slots.
        weight_bytes: vectors.
        slot_bytes: optimizer state.
        sketch_bytes: counting sketches of keys that wait for admission.
        fields: by name.
    """

    index_bytes: int
    weight_bytes: int
    slot_bytes: int
    sketch_bytes: int
    fields: Mapping[str, FieldStatistics]

    def as_metrics(self) -> dict[str, float]:
        """Return the figures under names that MLflow takes: `table.rows`, `table.index_bytes`, `field.user.hit_rate`, …"""
        metrics = {
            f"table.{name}": float(getattr(self, name)) for name in (*_FIELD_FIGURES, *_BYTES)
        }
        for field, statistics in self.fields.items():
            prefix = f"field.{_NOT_IN_A_METRIC.sub('_', field)}"
            metrics.update(
                {f"{prefix}.{name}": float(getattr(statistics, name)) for name in _FIELD_FIGURES}
            )
        return metrics

    def write_json(self, path: Path) -> None:
        """Write everything, histograms and hottest keys included."""
        path.write_text(
            json.dumps(asdict(self), indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )


def summarise(parts: Parts) -> TableStatistics:
    """Return the statistics of a table; one pass over its entries and one over its rows for each slab."""
    table = _Counted.of(parts)
    fields = {
        name: FieldStatistics(**table.field(code)) for code, name in enumerate(parts.field_names)
    }
    weight_bytes = sum(int(slab.weight_bytes) for slab in parts.slabs.values())
    slot_bytes = sum(int(slab.slot_bytes) for slab in parts.slabs.values())
    whole = table.whole() | {
        "bytes": parts.index_bytes + weight_bytes + slot_bytes + parts.sketch_bytes
    }
    return TableStatistics(
        **whole,
        index_bytes=parts.index_bytes,
        weight_bytes=weight_bytes,
        slot_bytes=slot_bytes,
        sketch_bytes=parts.sketch_bytes,
        fields=fields,
    )


@dataclass(frozen=True)
class _Counted:
    """Every figure by field: sums int64 [fields], histograms int64 [fields, bins]."""

    sums: Mapping[str, NDArray[np.int64]]
    norms: Mapping[str, NDArray[np.int64]]
    frequencies: NDArray[np.int64]
    hottest: tuple[tuple[HotKey, ...], ...]

    @classmethod
    def of(cls, parts: Parts) -> _Counted:
        """Count the parts."""
        count = len(parts.field_names)
        of_row = parts.fields[parts.has_row].astype(np.int64)
        return cls(
            sums=_sums(parts, of_row),
            norms={
                name: _histograms(of_row[~slab.zero], slab.norms[~slab.zero], NORM_EDGES, count)
                for name, slab in parts.slabs.items()
            },
            frequencies=_histograms(parts.fields, parts.counts, FREQUENCY_EDGES, count),
            hottest=tuple(_hottest(parts, code) for code in range(count)),
        )

    def field(self, code: int) -> dict[str, Any]:
        """The arguments of one field's `FieldStatistics`."""
        return self._figures(np.arange(len(self.hottest)) == code, self.hottest[code])

    def whole(self) -> dict[str, Any]:
        """The same of all fields together."""
        every = [key for hottest in self.hottest for key in hottest]
        return self._figures(
            slice(None), tuple(sorted(every, key=lambda hot: (-hot.count, hot.key))[:HOTTEST])
        )

    def _figures(
        self, chosen: NDArray[np.bool_] | slice, hottest: tuple[HotKey, ...]
    ) -> dict[str, Any]:
        sums = {name: int(values[chosen].sum()) for name, values in self.sums.items()}
        hits = sums.pop("hits")
        return {
            **sums,
            "rejected": sums["events"] - hits,
            "hit_rate": hits / sums["events"] if sums["events"] else 0.0,
            "norms": {
                name: _histogram(NORM_EDGES, counts[chosen]) for name, counts in self.norms.items()
            },
            "frequencies": _histogram(FREQUENCY_EDGES, self.frequencies[chosen]),
            "hottest": hottest,
        }


def _sums(parts: Parts, of_row: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    count = len(parts.field_names)
    zero = np.logical_and.reduce([slab.zero for slab in parts.slabs.values()])
    keys_seen, rows = by_field(parts.fields, count), by_field(of_row, count)
    row_bytes = sum(slab.row_bytes for slab in parts.slabs.values())
    index_share = keys_seen * parts.index_bytes // max(1, len(parts.keys))
    found = {"rows": rows, "keys_seen": keys_seen, "zero_rows": by_field(of_row[zero], count)}
    return found | {"bytes": rows * row_bytes + index_share} | parts.tally.arrays()


def _histograms(
    groups: NDArray[Any], values: NDArray[Any], edges: NDArray[np.float64], count: int
) -> NDArray[np.int64]:
    """Return int64 [count, bins]: how many values of each group lie in each bin; a part of them in memory at a time."""
    bins = len(edges) - 1
    total = np.zeros(count * bins, np.int64)
    for start in range(0, len(values), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        at = np.clip(np.searchsorted(edges, values[part], side="right") - 1, 0, bins - 1)
        total += np.bincount(groups[part] * np.int64(bins) + at, minlength=count * bins)
    return total.reshape(count, bins)


def _histogram(edges: NDArray[np.float64], counts: NDArray[np.int64]) -> Histogram:
    return Histogram(
        tuple(edges.tolist()), tuple(counts.reshape(-1, len(edges) - 1).sum(axis=0).tolist())
    )


def _hottest(parts: Parts, code: int) -> tuple[HotKey, ...]:
    entries = np.flatnonzero(parts.fields == code)
    if len(entries) > HOTTEST:
        entries = _most_frequent(parts, entries)
    order = entries[np.lexsort((parts.keys[entries], -parts.counts[entries].astype(np.int64)))]
    pairs = zip(parts.keys[order].tolist(), parts.counts[order].tolist(), strict=True)
    return tuple(HotKey(key, parts.field_names[code], count) for key, count in pairs)


def _most_frequent(parts: Parts, entries: NDArray[np.int64]) -> NDArray[np.int64]:
    """The `HOTTEST` entries of the highest counts, of equal ones those of the smallest keys; sorts nothing."""
    counts = parts.counts[entries]
    least = np.partition(counts, -HOTTEST)[-HOTTEST]
    above, equal = entries[counts > least], entries[counts == least]
    wanted = HOTTEST - len(above)
    return np.concatenate([above, equal[np.argpartition(parts.keys[equal], wanted - 1)[:wanted]]])
