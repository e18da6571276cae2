"""Pictures of a day's quality: is the model calibrated, and on which impressions does it rank well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import blended_transform_factory

from training.evaluation.metrics import CalibrationCurve, SliceFigures

_INK, _MUTED, _GRID = "#1c2733", "#8a97a6", "#e3e8ee"
_COLOURS = ("#1f6fb2", "#d17a00", "#5b8c5a", "#7b5ea7", "#b23b4e")
_MOST_SLICES = 40
_HEAD_INCHES, _SLICE_INCHES = 1.7, 0.3


def plot_calibration(curves: Mapping[str, CalibrationCurve], path: Path) -> Path:
    """Draw calibration curves against the diagonal into a PNG and return its path.

    Args:
        curves: by the model's name; the first is the one that is judged.
        path: whose folder is made if missing.
    """
    with _drawing(path, (6.6, 6.9)) as axes:
        top = 1.05 * max(_highest(curve) for curve in curves.values())
        axes.plot(
            [0, top],
            [0, top],
            color=_INK,
            linewidth=1,
            linestyle="--",
            label="perfectly calibrated",
        )
        drawn = list(zip(curves.items(), _COLOURS, strict=False))
        for (name, curve), colour in reversed(drawn):  # the judged one last, on top
            _draw_curve(axes, name, curve, colour)
        axes.set(xlim=(0, top), ylim=(0, top), aspect="equal")
        axes.set(
            xlabel="mean predicted click probability of the bin, %",
            ylabel="click rate of the bin, %; bars: 95 % interval",
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0))
        axes.legend(frameon=False, loc="upper left")
        judged = next(iter(curves.values()))
        _title(
            axes,
            _calibration_words(judged),
            f"{int(judged.rows.sum()):,} held-out impressions in bins of equally many",
        )
    return path


def plot_slices(
    slices: Sequence[SliceFigures], baseline: Sequence[SliceFigures], path: Path
) -> Path:
    """Draw the AUC of each slice into a PNG and return its path.

    Args:
        slices: of the model, the first one being all impressions; of many, the first are shown.
        baseline: of the baseline, in the same order.
        path: whose folder is made if missing.
    """
    shown, beside = slices[:_MOST_SLICES], baseline[:_MOST_SLICES]
    with _drawing(path, (9.6, _HEAD_INCHES + _SLICE_INCHES * max(6, len(shown)))) as axes:
        axes.axvline(
            slices[0].auc, color=_INK, linewidth=1, linestyle="--", label="model, all impressions"
        )
        _draw_baseline(axes, beside)
        _draw_model(axes, shown)
        _write_rows(axes, shown)
        axes.set_yticks(range(len(shown)), [row.name for row in shown])
        axes.set_ylim(max(6, len(shown)) - 0.4, -0.6)
        if not np.isfinite([row.auc for row in (*shown, *beside)]).any():
            axes.set_xlim(0, 1)
        axes.set(
            xlabel="area under the ROC curve of the slice (1 is perfect, 0.5 is chance); bars: 95 % interval by user"
        )
        axes.grid(visible=False, axis="y")
        axes.figure.legend(
            *axes.get_legend_handles_labels(), frameon=False, loc="outside lower left", ncols=3
        )
        _title(axes, _slice_words(slices), _slices_shown(len(shown), len(slices)))
    return path


@contextmanager
def _drawing(path: Path, inches: tuple[float, float]) -> Iterator[Axes]:
    """Axes whose figure is saved at the end; without pyplot: no global list of figures, no display."""
    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    yield axes
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _draw_curve(axes: Axes, name: str, curve: CalibrationCurve, colour: str) -> None:
    reach = np.maximum([curve.observed - curve.low, curve.high - curve.observed], 0)
    bars = axes.errorbar(
        curve.predicted, curve.observed, reach, color=colour, label=name, elinewidth=1, capsize=2.5
    )
    bars.lines[0].set(marker="o", markersize=4.5, linewidth=1.4)


def _draw_model(axes: Axes, slices: Sequence[SliceFigures]) -> None:
    auc, low, high = (
        np.array([getattr(row, name) for row in slices]) for name in ("auc", "auc_low", "auc_high")
    )
    places = np.arange(len(slices))
    axes.hlines(places, low, high, color=_COLOURS[0], linewidth=2.2, alpha=0.55)
    axes.plot(auc, places, "o", color=_COLOURS[0], markersize=6.5, label="model")


def _draw_baseline(axes: Axes, slices: Sequence[SliceFigures]) -> None:
    """A little below the model's mark, which would hide one of the same AUC."""
    places = np.arange(len(slices)) + 0.22
    axes.plot(
        [row.auc for row in slices],
        places,
        "D",
        color=_COLOURS[1],
        markersize=5,
        mfc="white",
        label="baseline",
    )


def _write_rows(axes: Axes, slices: Sequence[SliceFigures]) -> None:
    """Write rows and click rate right of the axes, or why a slice has no AUC."""
    beside = blended_transform_factory(axes.transAxes, axes.transData)
    for place, row in enumerate(slices):
        words = f"{row.rows:,} rows, {row.clicks / row.rows:.1%} clicked" if row.rows else "no rows"
        axes.text(
            1.02,
            place,
            words,
            transform=beside,
            va="center",
            fontsize=9,
            color=_INK if np.isfinite(row.auc) else _MUTED,
        )


def _highest(curve: CalibrationCurve) -> float:
    return float(max(curve.predicted.max(initial=0), curve.high.max(initial=0), 1e-6))


def _calibration_words(curve: CalibrationCurve) -> str:
    clicks = float(curve.observed @ curve.rows)
    if not clicks:
        return "No click to be calibrated on"
    excess = float(curve.predicted @ curve.rows) / clicks - 1
    return f"The model predicts {abs(excess):.1%} {'more' if excess >= 0 else 'fewer'} clicks than there were"


def _slice_words(slices: Sequence[SliceFigures]) -> str:
    """Name the slice that the model ranks worst; intervals tell how sure that is."""
    defined = [row for row in slices[1:] if np.isfinite(row.auc)]
    if not np.isfinite(slices[0].auc):
        return "No AUC: the held-out impressions are all clicked or all not"
    if not defined:
        return f"AUC {slices[0].auc:.3f} over all impressions"
    worst = min(defined, key=lambda row: row.auc)
    return f"AUC {slices[0].auc:.3f} over all, lowest on “{worst.name}”: {worst.auc:.3f}"


def _slices_shown(shown: int, total: int) -> str:
    which = "slices" if shown == total else f"the first {shown} of {total} slices"
    return f"{which} of the held-out impressions; those without both clicks and non-clicks have no mark"


def _title(axes: Axes, message: str, what: str) -> None:
    """Say what to see in bold, and below it what is shown."""
    axes.set_title(f"{message}\n", loc="left", fontweight="bold", color=_INK, fontsize=12.5)
    axes.annotate(
        what, (0, 1), (0, 6), "axes fraction", "offset points", color=_MUTED, fontsize=9.5
    ).set_in_layout(False)
