"""The plot of `explain-admission`: rows against the share of events trained, by policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter
from matplotlib.transforms import Bbox

from elastic_embeddings.admission.replay import OFFLINE, Explanation
from features.plotting import BLUE, INK, MUTED, ORANGE, PURPLE, RED, figure_file, plain_axes, title

_COLOURS = {"always": MUTED, "count": BLUE, "sketch": PURPLE, "plug-in": RED, "poisson": ORANGE}

_NEAR = 0.01
"""Policies that train this close to the offline filter, as a share of events, count as equal."""

_SIDES = ((10, "left"), (-10, "right"))
_OFFSETS = tuple((x, y, side) for y in (0, 11, -11, 24, -24, 40, -40) for x, side in _SIDES)
"""Where a label may stand relative to its point, in typographic points, best first."""


def plot_policies(lines: Sequence[Explanation], min_count: int, what: str, path: Path) -> Path:
    """Plot rows (logarithmic) against the share of events trained, one labelled point per policy.

    Args:
        lines: one line per policy, including the offline filter.
        min_count: threshold of the offline filter.
        what: name of the traffic, for the subtitle.
        path: PNG file to write; its folder is made if missing.

    Returns:
        `path`.
    """
    offline, best = next(line for line in lines if line.policy == OFFLINE), nearest(lines)
    finding = "Nothing to compare: no key reaches the count"
    if best is not None:
        ratio = f"{best.rows / offline.rows:.2f}× the offline filter's rows"
        finding = f"{best.policy} trains {best.share_trained:.1%} of events on {ratio}"
    counts = f"{offline.events:,} events, {offline.keys:,} distinct keys"
    with figure_file(path, (8.2, 5.4)) as figure:
        axes = plain_axes(figure)
        drawn = [line for line in lines if line.rows]
        for line in drawn:
            _draw(axes, line)
        _frame(axes, drawn, min_count)
        title(axes, finding, f"{what}: {counts}; offline filter {offline.share_trained:.1%}")
        # The extents of texts are known once the figure is drawn.
        figure.canvas.draw()
        _label(axes, drawn)
    return path


def nearest(lines: Sequence[Explanation]) -> Explanation | None:
    """Return the policy whose share of events trained is nearest to the offline filter's.

    Among the policies within 1 % of all events, it is the one with the fewest rows. None if no
    policy admits a key.
    """
    offline = next(line for line in lines if line.policy == OFFLINE)
    admitting = [line for line in lines if line.policy != OFFLINE and line.rows]
    if not admitting or not offline.rows:
        return None
    gap = {line.policy: abs(line.share_trained - offline.share_trained) for line in admitting}
    return min(admitting, key=lambda line: (max(gap[line.policy], _NEAR), line.rows))


def _colour(line: Explanation) -> str:
    return _COLOURS.get(line.policy.partition(":")[0].removesuffix("-half"), INK)


def _draw(axes: Axes, line: Explanation) -> None:
    marker, size = "o", 90
    if line.policy == OFFLINE:
        marker, size = "*", 260
        axes.axhline(line.share_trained, color=INK, linewidth=1, linestyle="--", zorder=1)
        axes.axvline(line.rows, color=INK, linewidth=1, linestyle="--", zorder=1)
    point = [line.rows], [line.share_trained]
    axes.scatter(*point, size, color=_colour(line), marker=marker, edgecolor="white", zorder=3)


def _frame(axes: Axes, drawn: Sequence[Explanation], min_count: int) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rows, _: f"{rows:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    # Whole percents would give neighbouring ticks the same label where shares differ little.
    shares = [line.share_trained for line in drawn]
    decimals = 0 if not shares or np.ptp(shares) > 0.05 else 1
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=decimals))
    axes.margins(x=0.16, y=0.16)
    axes.set(xlabel="rows in the table, logarithmic", ylabel="share of events whose key has a row")
    place: dict[str, Any] = {"transform": axes.transAxes, "color": MUTED}
    axes.text(0.005, 0.985, "↖ better", fontsize=10, va="top", **place)
    note = f"★ keeps keys that occur {min_count} times or more in the whole pass; needs two passes"
    axes.text(0.995, 0.015, note, fontsize=9, ha="right", **place)


def _label(axes: Axes, lines: Sequence[Explanation]) -> None:
    """Write each name at the first offset where it covers no point, line or other text."""
    points = [axes.transData.transform((line.rows, line.share_trained)) for line in lines]
    occupied = [Bbox.from_bounds(x - 9, y - 9, 18, 18) for x, y in points]
    occupied += [drawn.get_window_extent() for drawn in (*axes.lines, *axes.texts)]
    for line in lines:
        for offset in _OFFSETS:
            label = _annotate(axes, line, *offset)
            box = label.get_window_extent()
            inside = axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max)
            if inside and not any(box.overlaps(other) for other in occupied):
                break
            label.remove()
        else:
            # Every offset covers something: the first one is as good as any other.
            box = _annotate(axes, line, 10, 0, "left").get_window_extent()
        occupied.append(box)


def _annotate(axes: Axes, line: Explanation, offset_x: int, offset_y: int, side: str) -> Annotation:
    """Write the name of a policy. A label far from its point is connected to it by a thin line."""
    far = abs(offset_y) > 11
    return axes.annotate(
        f"{line.policy}  {line.rows:,}",
        (line.rows, line.share_trained),
        xytext=(offset_x, offset_y),
        textcoords="offset points",
        ha=side,
        va="center",
        color=_colour(line),
        fontsize=10.5,
        arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.8} if far else None,
    )
