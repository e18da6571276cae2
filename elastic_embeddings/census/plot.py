"""A page about a table in six pictures: who is in it, how strong the rows are, which fields hold them, what they cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, PercentFormatter

from elastic_embeddings.census.statistics import FieldStatistics, TableStatistics

_INK, _MUTED, _GRID = "#1c2733", "#8a97a6", "#e3e8ee"
_COLOURS = ("#1f6fb2", "#d17a00", "#5b8c5a", "#7b5ea7", "#b23b4e")
_PALE = "#c9d6e2"
_MOST_FIELDS = 14
_LEAST_PLACES = 6
_ON_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")

Figures = Callable[[FieldStatistics], float]


def plot_statistics(statistics: TableStatistics, path: Path) -> Path:
    """Draw the page into a PNG and return its path.

    Args:
        statistics: of a table. Of many fields, those with the most rows are shown.
        path: whose folder is made if missing.
    """
    figure = Figure(figsize=(16, 9.6), layout=ConstrainedLayoutEngine(w_pad=0.18, h_pad=0.18))
    FigureCanvasAgg(figure)
    for axes, draw in zip(figure.subplots(2, 3).flat, _DRAWINGS, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        draw(axes, statistics)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


def _draw_frequencies(axes: Axes, statistics: TableStatistics) -> None:
    edges, counts = _trimmed(statistics.frequencies.edges, statistics.frequencies.counts)
    axes.bar(
        edges[:-1],
        counts,
        np.diff(edges),
        align="edge",
        color=_COLOURS[0],
        edgecolor="white",
        linewidth=0.8,
    )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(EngFormatter(sep="", places=0))
    axes.set(xlabel="occurrences of the key so far, bars of doubling width", ylabel="keys")
    _keys_up(axes, counts)
    once = statistics.frequencies.counts[0] / max(1, statistics.keys_seen)
    what = f"{statistics.keys_seen:,} keys in the index, {statistics.rows:,} of them with a row"
    _title(axes, f"{once:.0%} of the keys were seen once", what)


def _draw_norms(axes: Axes, statistics: TableStatistics) -> None:
    drawn = {name: _trimmed(h.edges, h.counts) for name, h in statistics.norms.items()}
    for (name, (edges, counts)), colour in zip(drawn.items(), _COLOURS * len(drawn), strict=False):
        axes.stairs(counts, edges, color=colour, fill=True, alpha=0.25)
        axes.stairs(counts, edges, color=colour, linewidth=1.8, label=name)
    axes.set_xscale("log")
    axes.set(xlabel="L2 norm of the row's weights", ylabel="rows")
    axes.set_ylim(0, 1.1 * max(1, *(count for _, counts in drawn.values() for count in counts)))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(axis="y", color=_GRID)
    if len(drawn) > 1:
        axes.legend(frameon=False, title="slab", loc="upper left")
    zero = statistics.zero_rows / max(1, statistics.rows)
    _title(
        axes,
        f"{zero:.1%} of the rows are zero",
        "the norms of the others; rows may be zero in one slab alone",
    )


def _draw_bytes(axes: Axes, statistics: TableStatistics) -> None:
    parts = {
        "vectors": statistics.weight_bytes,
        "optimizer state": statistics.slot_bytes,
        "index": statistics.index_bytes,
        "admission sketches": statistics.sketch_bytes,
    }
    unit, name = _unit(max(parts.values()))
    bars = axes.barh(
        list(parts), [n / unit for n in parts.values()], color=_COLOURS[0], height=0.62
    )
    axes.bar_label(
        bars,
        [f"{_bytes(n)} · {n / max(1, statistics.bytes):.0%}" for n in parts.values()],
        padding=4,
        color=_INK,
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 1.4 * max(1, *parts.values()) / unit)
    axes.set(xlabel=name)
    axes.grid(axis="x", color=_GRID)
    per_row = statistics.bytes / max(1, statistics.rows)
    _title(
        axes,
        f"The table takes {_bytes(statistics.bytes)}",
        f"allocated, spare capacity included: {per_row:,.0f} bytes a row",
    )


def _draw_rows(axes: Axes, statistics: TableStatistics) -> None:
    names, fields = _shown(statistics)
    zero = [field.zero_rows for field in fields]
    axes.barh(
        names,
        [field.rows - z for field, z in zip(fields, zero, strict=True)],
        color=_COLOURS[0],
        label="not zero",
    )
    axes.barh(names, zero, left=[f.rows - f.zero_rows for f in fields], color=_PALE, label="zero")
    _fields_down(axes, names)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(axis="x", color=_GRID)
    axes.set(xlabel="rows", xlim=(0, 1.05 * max(1, *(field.rows for field in fields))))
    axes.legend(frameon=False, loc="lower right")
    _title(
        axes,
        _largest(statistics, lambda f: f.rows, "of the rows are {}'s"),
        _fields_shown(statistics),
    )


def _draw_field_bytes(axes: Axes, statistics: TableStatistics) -> None:
    names, fields = _shown(statistics)
    unit, name = _unit(max(field.bytes for field in fields))
    axes.barh(names, [field.bytes / unit for field in fields], color=_COLOURS[1])
    _fields_down(axes, names)
    axes.set(xlabel=name, xlim=(0, 1.05 * max(1, *(field.bytes for field in fields)) / unit))
    axes.grid(axis="x", color=_GRID)
    message = _largest(statistics, lambda f: f.bytes, "of the bytes in use are {}'s")
    _title(axes, message, "rows, optimizer state and share of the index; no spare capacity")


def _draw_hit_rates(axes: Axes, statistics: TableStatistics) -> None:
    names, fields = _shown(statistics)
    rates = [field.hit_rate for field in fields]
    bars = axes.barh(names, rates, color=_COLOURS[2])
    axes.bar_label(
        bars, [f"{rate:.1%}" for rate in rates], padding=4, color=_INK, fontsize=9, bbox=_ON_WHITE
    )
    axes.axvline(statistics.hit_rate, color=_INK, linewidth=1, linestyle="--")
    _fields_down(axes, names)
    axes.set(xlim=(0, 1.15), xlabel="share of events whose key had a row; dashed: all fields")
    axes.set_xticks(np.arange(0, 1.01, 0.25))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="x", color=_GRID)
    what = f"{statistics.events:,} events so far, {statistics.rejected:,} without a row"
    _title(axes, f"{statistics.hit_rate:.1%} of the events met a row", what)


_DRAWINGS = (
    _draw_frequencies,
    _draw_norms,
    _draw_bytes,
    _draw_rows,
    _draw_field_bytes,
    _draw_hit_rates,
)


def _title(axes: Axes, message: str, what: str) -> None:
    """Say what to see in bold, and below it what is shown."""
    axes.set_title(f"{message}\n", loc="left", fontweight="bold", color=_INK, fontsize=13)
    axes.text(0, 1.015, what, transform=axes.transAxes, color=_MUTED, fontsize=9.5).set_in_layout(
        False
    )


def _keys_up(axes: Axes, counts: Sequence[int]) -> None:
    """A logarithmic axis of keys: a few frequent keys must not vanish beside the many rare ones."""
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(0, 2 * max(1, *counts))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(axis="y", color=_GRID)


def _trimmed(edges: Sequence[float], counts: Sequence[int]) -> tuple[list[float], list[int]]:
    """The histogram without its empty bins at both ends; as it is where all are empty."""
    filled = np.flatnonzero(counts)
    low, high = (int(filled[0]), int(filled[-1])) if len(filled) else (0, len(counts) - 1)
    return list(edges[low : high + 2]), list(counts[low : high + 1])


def _shown(statistics: TableStatistics) -> tuple[list[str], list[FieldStatistics]]:
    """The fields with the most rows, largest first."""
    ranked = sorted(statistics.fields.items(), key=lambda item: -item[1].rows)[:_MOST_FIELDS]
    return [name for name, _ in ranked], [field for _, field in ranked]


def _fields_shown(statistics: TableStatistics) -> str:
    total = len(statistics.fields)
    return (
        f"all {total} fields, largest first"
        if total <= _MOST_FIELDS
        else f"the {_MOST_FIELDS} largest of {total} fields"
    )


def _largest(statistics: TableStatistics, figure: Figures, words: str) -> str:
    """Such as "41% of the rows are user's"."""
    figures = {name: figure(field) for name, field in statistics.fields.items()}
    name = max(figures, key=lambda name: figures[name])
    return f"{figures[name] / max(1, sum(figures.values())):.0%} {words.format(name)}"


def _fields_down(axes: Axes, names: Sequence[str]) -> None:
    """The largest on top; the bars of few fields are as thin as those of many."""
    axes.set_ylim(max(len(names), _LEAST_PLACES) - 0.4, -0.6)


def _unit(largest: float) -> tuple[int, str]:
    """Bytes of the unit to write this number in, and its name."""
    power = min(int(np.log2(max(largest, 1)) // 10), len(_UNITS) - 1)
    return 1024**power, _UNITS[power]


def _bytes(count: float) -> str:
    """Such as 1.5 MiB."""
    unit, name = _unit(count)
    value = count / unit
    return f"{value:.0f} {name}" if value >= 10 or unit == 1 else f"{value:.1f} {name}"
