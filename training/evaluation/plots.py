"""Plots of a day's quality: calibration, and the AUC of each slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import blended_transform_factory

from features.plotting import BLUE, COLOURS, INK, MUTED, ORANGE, figure_file, plain_axes, title
from training.evaluation.metrics import CalibrationCurve, SliceFigures

_MOST_SLICES, _LEAST_PLACES = 40, 6
_HEAD_INCHES, _SLICE_INCHES = 1.7, 0.3


def plot_calibration(curves: Mapping[str, CalibrationCurve], path: Path) -> Path:
    """Plot calibration curves against the diagonal.

    Args:
        curves: by the model's name; the title is about the first one.
        path: of the PNG, returned.
    """
    with figure_file(path, (6.6, 6.9)) as figure:
        axes = plain_axes(figure)
        tops = [max(c.predicted.max(initial=0), c.high.max(initial=0)) for c in curves.values()]
        # Not 0: the axes need an extent.
        top = 1.05 * max(1e-6, *map(float, tops))
        style: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": "--"}
        axes.plot([0, top], [0, top], label="perfectly calibrated", **style)
        drawn = list(zip(curves.items(), COLOURS, strict=False))
        for (name, curve), colour in reversed(drawn):  # the first one last, on top
            # Rounding can put a bound on the wrong side of the rate by an ulp.
            reach = np.maximum([curve.observed - curve.low, curve.high - curve.observed], 0)
            bars = axes.errorbar(
                curve.predicted,
                curve.observed,
                reach,
                color=colour,
                label=name,
                elinewidth=1,
                capsize=2.5,
            )
            bars.lines[0].set(marker="o", markersize=4.5, linewidth=1.4)
        axes.set(xlim=(0, top), ylim=(0, top), aspect="equal")
        axes.set_xlabel("mean predicted click probability of the bin, %")
        axes.set_ylabel("click rate of the bin, %; bars: 95 % interval")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0))
        axes.legend(frameon=False, loc="upper left")
        first = next(iter(curves.values()))
        subject = f"{int(first.rows.sum()):,} held-out impressions in bins of equally many"
        title(axes, _calibration_finding(first), subject)
    return path


def plot_slices(
    slices: Sequence[SliceFigures], baseline: Sequence[SliceFigures], path: Path
) -> Path:
    """Plot the AUC of each slice.

    Args:
        slices: of the model, the first one being all impressions; only the first 40 are shown.
        baseline: of the baseline, in the same order.
        path: of the PNG, returned.
    """
    shown, shown_baseline = slices[:_MOST_SLICES], baseline[:_MOST_SLICES]
    places = max(_LEAST_PLACES, len(shown))
    with figure_file(path, (9.6, _HEAD_INCHES + _SLICE_INCHES * places)) as figure:
        axes = plain_axes(figure)
        style: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": "--"}
        axes.axvline(slices[0].auc, label="model, all impressions", **style)
        _draw_aucs(axes, shown, shown_baseline)
        _write_rows(axes, shown)
        axes.set_yticks(range(len(shown)), [row.name for row in shown])
        axes.set_ylim(places - 0.4, -0.6)
        # Without a mark there is nothing to scale the axis by.
        if not np.isfinite([row.auc for row in (*shown, *shown_baseline)]).any():
            axes.set_xlim(0, 1)
        axes.set_xlabel(
            "area under the ROC curve of the slice (1 is perfect, 0.5 is chance); "
            "bars: 95 % interval by user"
        )
        axes.grid(visible=False, axis="y")
        figure.legend(
            *axes.get_legend_handles_labels(), frameon=False, loc="outside lower left", ncols=3
        )
        count, total = len(shown), len(slices)
        which = "slices" if count == total else f"the first {count} of {total} slices"
        subject = (
            f"{which} of the held-out impressions; "
            "those without both clicks and non-clicks have no mark"
        )
        title(axes, _slices_finding(slices), subject)
    return path


def _draw_aucs(
    axes: Axes, slices: Sequence[SliceFigures], baseline: Sequence[SliceFigures]
) -> None:
    places = np.arange(len(slices))
    # The baseline is a little lower: its mark would hide behind one of the same AUC.
    baseline_auc = [row.auc for row in baseline]
    style: dict[str, Any] = {"color": ORANGE, "markersize": 5, "mfc": "white"}
    axes.plot(baseline_auc, places + 0.22, "D", label="baseline", **style)
    low, high = ([getattr(row, name) for row in slices] for name in ("auc_low", "auc_high"))
    axes.hlines(places, low, high, color=BLUE, linewidth=2.2, alpha=0.55)
    axes.plot([row.auc for row in slices], places, "o", color=BLUE, markersize=6.5, label="model")


def _write_rows(axes: Axes, slices: Sequence[SliceFigures]) -> None:
    """Write rows and click rate to the right of the axes, in grey for a slice without an AUC."""
    right_of = blended_transform_factory(axes.transAxes, axes.transData)
    for place, row in enumerate(slices):
        text = f"{row.rows:,} rows, {row.clicks / row.rows:.1%} clicked" if row.rows else "no rows"
        colour = INK if np.isfinite(row.auc) else MUTED
        axes.text(1.02, place, text, transform=right_of, va="center", fontsize=9, color=colour)


def _calibration_finding(curve: CalibrationCurve) -> str:
    clicks = float(curve.observed @ curve.rows)
    if not clicks:
        return "No click to be calibrated on"
    excess = float(curve.predicted @ curve.rows) / clicks - 1
    more = "more" if excess >= 0 else "fewer"
    return f"The model predicts {abs(excess):.1%} {more} clicks than there were"


def _slices_finding(slices: Sequence[SliceFigures]) -> str:
    """Name the slice with the lowest AUC; the intervals show how certain that is."""
    defined = [row for row in slices[1:] if np.isfinite(row.auc)]
    if not np.isfinite(slices[0].auc):
        return "No AUC: the held-out impressions are all clicked or all not"
    if not defined:
        return f"AUC {slices[0].auc:.3f} over all impressions"
    worst = min(defined, key=lambda row: row.auc)
    return f"AUC {slices[0].auc:.3f} over all, lowest on “{worst.name}”: {worst.auc:.3f}"
