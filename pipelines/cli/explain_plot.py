"""The picture of `explain-admission`: what each policy's rows buy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter
from matplotlib.transforms import Bbox

from elastic_embeddings.admission.dry_run import OFFLINE, Explanation

_INK, _MUTED, _GRID = "#1c2733", "#8a97a6", "#e3e8ee"
_COLOURS = {
    "always": "#8a97a6",
    "count": "#1f6fb2",
    "sketch": "#7b5ea7",
    "plug-in": "#b23a48",
    "poisson": "#d17a00",
}
_NEAR = 0.01
_SIDES = ((10, "left"), (-10, "right"))
_PLACES = tuple((x, y, side) for y in (0, 11, -11, 24, -24, 40, -40) for x, side in _SIDES)
"""Where a name may stand, in points from its own point, best first."""


def plot_policies(lines: Sequence[Explanation], min_count: int, what: str, path: Path) -> Path:
    """Draw rows (logarithmic) against the share of events trained, one labelled point a policy; return the path.

    Args:
        lines: one line a policy, the offline filter's among them.
        min_count: what the offline filter asks for.
        what: says what traffic it is.
        path: PNG to write; its folder is made if missing.
    """
    figure = Figure(figsize=(8.2, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    drawn = [line for line in lines if line.rows]
    for line in drawn:
        _draw(axes, line)
    _frame(axes, lines, min_count)
    _title(axes, lines, what)
    figure.canvas.draw()
    _label(axes, drawn)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return path


def nearest(lines: Sequence[Explanation]) -> Explanation | None:
    """Return the policy that trains most nearly what the offline filter trains; None where nothing was admitted.

    Of those within 1 % of all events it is the one with the fewest rows.
    """
    offline = next(line for line in lines if line.policy == OFFLINE)
    admitting = [line for line in lines if line.policy != OFFLINE and line.rows]
    if not admitting or not offline.rows:
        return None
    gap = {line.policy: abs(line.share_trained - offline.share_trained) for line in admitting}
    return min(admitting, key=lambda line: (max(gap[line.policy], _NEAR), line.rows))


def _draw(axes: Axes, line: Explanation) -> None:
    if line.policy == OFFLINE:
        axes.axhline(line.share_trained, color=_INK, linewidth=1, linestyle="--", zorder=1)
        axes.axvline(line.rows, color=_INK, linewidth=1, linestyle="--", zorder=1)
    marker, size = ("*", 260) if line.policy == OFFLINE else ("o", 90)
    axes.scatter(
        [line.rows],
        [line.share_trained],
        size,
        color=_colour(line),
        marker=marker,
        edgecolor="white",
        zorder=3,
    )


def _colour(line: Explanation) -> str:
    kind = line.policy.partition(":")[0].removesuffix("-half")
    return _COLOURS.get(kind, _INK)


def _frame(axes: Axes, lines: Sequence[Explanation], min_count: int) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rows, _: f"{rows:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=_decimals(lines)))
    axes.margins(x=0.16, y=0.16)
    axes.set(xlabel="rows in the table, logarithmic", ylabel="share of events whose key has a row")
    axes.text(
        0.005, 0.985, "↖ better", transform=axes.transAxes, color=_MUTED, fontsize=10, va="top"
    )
    note = f"★ keeps keys seen {min_count} times or more in the whole pass; needs two passes"
    axes.text(0.995, 0.015, note, transform=axes.transAxes, color=_MUTED, fontsize=9, ha="right")


def _decimals(lines: Sequence[Explanation]) -> int:
    shares = [line.share_trained for line in lines if line.rows]
    return 0 if not shares or np.ptp(shares) > 0.05 else 1


def _title(axes: Axes, lines: Sequence[Explanation], what: str) -> None:
    offline, best = next(line for line in lines if line.policy == OFFLINE), nearest(lines)
    message = "Nothing to compare: no key reaches the count"
    if best is not None:
        rows = f"{best.rows / offline.rows:.2f}× the offline filter's rows"
        message = f"{best.policy} trains {best.share_trained:.1%} of events on {rows}"
    axes.set_title(f"{message}\n", loc="left", fontweight="bold", color=_INK, fontsize=13)
    shown = f"{what}: {offline.events:,} events, {offline.keys:,} distinct keys; offline filter {offline.share_trained:.1%}"
    axes.text(0, 1.015, shown, transform=axes.transAxes, color=_MUTED, fontsize=9.5)


def _label(axes: Axes, lines: Sequence[Explanation]) -> None:
    """Write each name beside its point, at the first place that no point, name or dashed line takes."""
    points = [axes.transData.transform((line.rows, line.share_trained)) for line in lines]
    taken = [Bbox.from_bounds(x - 9, y - 9, 18, 18) for x, y in points]
    taken += [drawn.get_window_extent() for drawn in (*axes.lines, *axes.texts)]
    for line in lines:
        taken.append(_place(axes, line, taken))


def _place(axes: Axes, line: Explanation, taken: Sequence[Bbox]) -> Bbox:
    for offset_x, offset_y, side in _PLACES:
        label = _annotate(axes, line, offset_x, offset_y, side)
        box = label.get_window_extent()
        if (
            not any(box.overlaps(other) for other in taken)
            and axes.bbox.contains(*box.min)
            and axes.bbox.contains(*box.max)
        ):
            return box
        label.remove()
    return _annotate(axes, line, 10, 0, "left").get_window_extent()


def _annotate(axes: Axes, line: Explanation, offset_x: int, offset_y: int, side: str) -> Annotation:
    """The name, with a thin line to the point where it stands off."""
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
        arrowprops={"arrowstyle": "-", "color": _MUTED, "linewidth": 0.8} if far else None,
    )
