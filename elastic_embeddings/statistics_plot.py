"""Six plots about a table: frequencies, norms, memory, rows and hit rates by field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, PercentFormatter

from elastic_embeddings.statistics import FieldStatistics, TableStatistics

_INK, _MUTED, _GRID = "#1c2733", "#8a97a6", "#e3e8ee"
_COLOURS = ("#1f6fb2", "#d17a00", "#5b8c5a", "#7b5ea7", "#b23b4e")
_PALE = "#c9d6e2"
_MOST_FIELDS = 14
_LEAST_BARS = 6  # bars of few fields are as thin as those of this many
_ON_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def plot_statistics(statistics: TableStatistics, path: Path) -> Path:
    """Draw the page into a PNG and return its path.

    Args:
        statistics: of a table. Of many fields, those with the most rows are shown.
        path: its folder is created if missing.
    """
    figure = Figure(figsize=(16, 9.6), layout=ConstrainedLayoutEngine(w_pad=0.18, h_pad=0.18))
    FigureCanvasAgg(figure)
    plots = (
        _plot_frequencies,
        _plot_norms,
        _plot_bytes,
        _plot_rows,
        _plot_field_bytes,
        _plot_hit_rates,
    )
    for axes, plot in zip(figure.subplots(2, 3).flat, plots, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        plot(axes, statistics)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without matplotlib's version in it, the same statistics give the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


def _plot_frequencies(axes: Axes, statistics: TableStatistics) -> None:
    edges, counts = _trimmed(statistics.frequencies.edges, statistics.frequencies.counts)
    bars = axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=_COLOURS[0])
    for bar in bars:
        bar.set(edgecolor="white", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(EngFormatter(sep="", places=0))
    axes.set(xlabel="occurrences of the key so far, bars of doubling width", ylabel="keys")
    # Logarithmic: on a linear axis the few frequent keys would be invisible.
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(0, 2 * max(1, *counts))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(axis="y", color=_GRID)
    once = statistics.frequencies.counts[0] / max(1, statistics.keys_seen)
    what = f"{statistics.keys_seen:,} keys in the index, {statistics.rows:,} of them with a row"
    _title(axes, f"{once:.0%} of the keys were seen once", what)


def _plot_norms(axes: Axes, statistics: TableStatistics) -> None:
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
    what = "the norms of the others; rows may be zero in one slab alone"
    _title(axes, f"{zero:.1%} of the rows are zero", what)


def _plot_bytes(axes: Axes, statistics: TableStatistics) -> None:
    parts = {
        "vectors": statistics.weight_bytes,
        "optimizer state": statistics.slot_bytes,
        "index": statistics.index_bytes,
        "admission sketches": statistics.sketch_bytes,
    }
    unit, name = _unit(max(parts.values()))
    sizes = [count / unit for count in parts.values()]
    bars = axes.barh(list(parts), sizes, color=_COLOURS[0], height=0.62)
    total = max(1, statistics.bytes)
    labels = [f"{_format_bytes(count)} · {count / total:.0%}" for count in parts.values()]
    axes.bar_label(bars, labels, padding=4, color=_INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.4 * max(1, *parts.values()) / unit)
    axes.set(xlabel=name)
    axes.grid(axis="x", color=_GRID)
    per_row = statistics.bytes / max(1, statistics.rows)
    what = f"allocated, spare capacity included: {per_row:,.0f} bytes a row"
    _title(axes, f"The table takes {_format_bytes(statistics.bytes)}", what)


def _plot_rows(axes: Axes, statistics: TableStatistics) -> None:
    names, fields = _largest_fields(statistics)
    zero = [field.zero_rows for field in fields]
    nonzero = [field.rows - field.zero_rows for field in fields]
    axes.barh(names, nonzero, color=_COLOURS[0], label="not zero")
    axes.barh(names, zero, left=nonzero, color=_PALE, label="zero")
    _fields_axis(axes, names)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set(xlabel="rows", xlim=(0, 1.05 * max(1, *(field.rows for field in fields))))
    axes.legend(frameon=False, loc="lower right")
    total = len(statistics.fields)
    what = f"the {_MOST_FIELDS} largest of {total} fields"
    if total <= _MOST_FIELDS:
        what = f"all {total} fields, largest first"
    _title(axes, _largest_share(statistics, lambda f: f.rows, "of the rows are {}'s"), what)


def _plot_field_bytes(axes: Axes, statistics: TableStatistics) -> None:
    names, fields = _largest_fields(statistics)
    unit, name = _unit(max(field.bytes for field in fields))
    axes.barh(names, [field.bytes / unit for field in fields], color=_COLOURS[1])
    _fields_axis(axes, names)
    axes.set(xlabel=name, xlim=(0, 1.05 * max(1, *(field.bytes for field in fields)) / unit))
    message = _largest_share(statistics, lambda f: f.bytes, "of the bytes in use are {}'s")
    _title(axes, message, "rows, optimizer state and share of the index; no spare capacity")


def _plot_hit_rates(axes: Axes, statistics: TableStatistics) -> None:
    names, fields = _largest_fields(statistics)
    rates = [field.hit_rate for field in fields]
    bars = axes.barh(names, rates, color=_COLOURS[2])
    labels = [f"{rate:.1%}" for rate in rates]
    axes.bar_label(bars, labels, padding=4, color=_INK, fontsize=9, bbox=_ON_WHITE)
    axes.axvline(statistics.hit_rate, color=_INK, linewidth=1, linestyle="--")
    _fields_axis(axes, names)
    axes.set(xlim=(0, 1.15), xlabel="share of events whose key had a row; dashed: all fields")
    axes.set_xticks(np.arange(0, 1.01, 0.25))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    what = f"{statistics.events:,} events so far, {statistics.rejected:,} without a row"
    _title(axes, f"{statistics.hit_rate:.1%} of the events met a row", what)


def _title(axes: Axes, message: str, what: str) -> None:
    """Write the message in bold, and below it what is shown."""
    axes.set_title(f"{message}\n", loc="left", fontweight="bold", color=_INK, fontsize=13)
    text = axes.text(0, 1.015, what, transform=axes.transAxes, color=_MUTED, fontsize=9.5)
    # Otherwise a long line would make its plot wider than the others.
    text.set_in_layout(False)


def _trimmed(edges: Sequence[float], counts: Sequence[int]) -> tuple[list[float], list[int]]:
    """The histogram without the empty bins at both ends; all of it if every bin is empty."""
    filled = np.flatnonzero(counts)
    low, high = (int(filled[0]), int(filled[-1])) if len(filled) else (0, len(counts) - 1)
    return list(edges[low : high + 2]), list(counts[low : high + 1])


def _largest_fields(statistics: TableStatistics) -> tuple[list[str], list[FieldStatistics]]:
    """The fields with the most rows, largest first."""
    ranked = sorted(statistics.fields.items(), key=lambda item: -item[1].rows)[:_MOST_FIELDS]
    return [name for name, _ in ranked], [field for _, field in ranked]


def _largest_share(
    statistics: TableStatistics, figure: Callable[[FieldStatistics], float], words: str
) -> str:
    """Such as "41% of the rows are user's"."""
    figures = {name: figure(field) for name, field in statistics.fields.items()}
    name = max(figures, key=lambda name: figures[name])
    return f"{figures[name] / max(1, sum(figures.values())):.0%} {words.format(name)}"


def _fields_axis(axes: Axes, names: Sequence[str]) -> None:
    """Show the largest field at the top."""
    axes.set_ylim(max(len(names), _LEAST_BARS) - 0.4, -0.6)
    axes.grid(axis="x", color=_GRID)


def _unit(largest: float) -> tuple[int, str]:
    """The size and the name of the unit in which to write this number of bytes."""
    power = min(int(np.log2(max(largest, 1)) // 10), len(_UNITS) - 1)
    return 1024**power, _UNITS[power]


def _format_bytes(count: float) -> str:
    """Such as 1.5 MiB."""
    unit, name = _unit(count)
    value = count / unit
    return f"{value:.0f} {name}" if value >= 10 or unit == 1 else f"{value:.1f} {name}"
