"""Statistics of several tables as those of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from elastic_embeddings.census.statistics import (
    HOTTEST,
    FieldStatistics,
    Histogram,
    TableStatistics,
)

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


def merged(tables: Mapping[str, TableStatistics]) -> TableStatistics:
    """Return the statistics of tables that belong together.

    Args:
        tables: by name; a slab is `name/slab`, or as it is where the name is empty. A field may be in several.
    """
    fields: dict[str, dict[str, FieldStatistics]] = {}
    for table, statistics in tables.items():
        for field, figures in statistics.fields.items():
            fields.setdefault(field, {})[table] = figures
    allocated = {name: sum(getattr(part, name) for part in tables.values()) for name in _BYTES}
    return TableStatistics(
        **_joined(tables),
        **allocated,
        fields={name: FieldStatistics(**_joined(parts)) for name, parts in fields.items()},
    )


def _joined(parts: Mapping[str, FieldStatistics]) -> dict[str, Any]:
    """The arguments of the `FieldStatistics` of all parts together."""
    figures = list(parts.values())
    sums = {name: sum(getattr(part, name) for part in figures) for name in _SUMS}
    hottest = sorted(
        (hot for part in figures for hot in part.hottest), key=lambda hot: (-hot.count, hot.key)
    )
    return {
        **sums,
        "hit_rate": 1 - sums["rejected"] / sums["events"] if sums["events"] else 0.0,
        "norms": {
            f"{name}/{slab}" if name else slab: h
            for name, part in parts.items()
            for slab, h in part.norms.items()
        },
        "frequencies": _added([part.frequencies for part in figures]),
        "hottest": tuple(hottest[:HOTTEST]),
    }


def _added(histograms: Sequence[Histogram]) -> Histogram:
    return Histogram(
        histograms[0].edges, tuple(np.sum([h.counts for h in histograms], axis=0).tolist())
    )
