"""Progressive validation: figures of probabilities from before training on them, hour by hour.

Each impression is first used to test and then to train, so the figures are of data that the model
had not seen (Blum, Kalai and Langford, Beating the Hold-Out, COLT 1999; McMahan et al., KDD 2013,
section 5).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from features.json_safe import json_safe
from features.plotting import BLUE, GREEN, GRID, INK, ORANGE, PALE, figure_file
from training.evaluation.metrics import auc, calibration, log_loss

PROGRESSIVE = "progressive.json"


@dataclass(frozen=True)
class HourFigures:
    """Figures of an hour's impressions.

    Attributes:
        hour: of the local day, 0 to 23.
        rows: impressions.
        scored: those that a model scored before training on them; the figures below are of these.
        clicks: on the scored impressions.
        auc: NaN without both classes; the other figures are NaN where they are undefined.
        log_loss: nats per impression.
        calibration: expected over observed clicks.
    """

    hour: int
    rows: int
    scored: int
    clicks: int
    auc: float
    log_loss: float
    calibration: float


def progressive_figures(
    label: NDArray[np.float32], probability: NDArray[np.float32]
) -> dict[str, float]:
    """Return the figures of the whole day.

    Args:
        label: float32 [n], 0 or 1.
        probability: float32 [n]; NaN for impressions that were not scored, which are left out.
    """
    scored = ~np.isnan(probability)
    label, probability = label[scored], probability[scored]
    return {
        "auc_progressive": auc(label, probability),
        "log_loss_progressive": log_loss(label, probability),
    }


def by_hour(
    hour: NDArray[np.int64], label: NDArray[np.float32], probability: NDArray[np.float32]
) -> tuple[HourFigures, ...]:
    """Return the figures of each hour with impressions, ascending.

    Args:
        hour: int64 [n], local hour of the day.
        label: as of `progressive_figures`.
        probability: as of `progressive_figures`.
    """
    figures = []
    for each in np.unique(hour):
        y, p = label[hour == each], probability[hour == each]
        rows, scored = len(y), ~np.isnan(p)
        y, p = y[scored], p[scored]
        figures.append(
            HourFigures(
                hour=int(each),
                rows=rows,
                scored=len(y),
                # float64: float32 holds whole numbers exactly only up to 2²⁴.
                clicks=int(y.sum(dtype=np.float64)),
                auc=auc(y, p),
                log_loss=log_loss(y, p),
                calibration=calibration(y, p),
            )
        )
    return tuple(figures)


def write_progressive(
    hours: Sequence[HourFigures], timezone: str, learn_by: str, path: Path
) -> None:
    """Write `{"timezone", "learn_by", "hours": [one object per hour]}`; NaN becomes null."""
    document = {
        "timezone": timezone,
        "learn_by": learn_by,
        "hours": [asdict(figures) for figures in hours],
    }
    text = json.dumps(json_safe(document), indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def plot_progressive(hours: Sequence[HourFigures], timezone: str, path: Path) -> Path:
    """Plot three figures and the number of impressions by hour of the day.

    Args:
        hours: at least one, ascending.
        timezone: of the hours.
        path: of the PNG, returned.
    """
    panels = {
        "auc": ("AUC", BLUE),
        "log_loss": ("log loss,\nnats an impression", ORANGE),
        "calibration": ("calibration,\nexpected / observed clicks", GREEN),
    }
    places = [each.hour for each in hours]
    with figure_file(path, (11, 9)) as figure:
        heights = [3] * len(panels) + [2]
        *upper, lowest = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        for axes, (name, (label, colour)) in zip(upper, panels.items(), strict=True):
            values = [getattr(each, name) for each in hours]
            axes.plot(places, values, color=colour, marker="o", markersize=4)
            axes.set_ylabel(label)
            axes.grid(axis="y", color=GRID)
        upper[-1].axhline(1.0, color=INK, linewidth=1, linestyle="--")
        _draw_counts(lowest, hours, timezone)
        for axes in (*upper, lowest):
            axes.spines[["top", "right"]].set_visible(False)
        figure.align_ylabels()
        figure.suptitle(_finding(hours), x=0.01, ha="left", fontweight="bold", color=INK)
    return path


def _draw_counts(axes: Axes, hours: Sequence[HourFigures], timezone: str) -> None:
    places = [each.hour for each in hours]
    axes.bar(places, [each.rows for each in hours], color=PALE, label="impressions")
    axes.bar(places, [each.clicks for each in hours], color=INK, label="clicks")
    axes.set(xlabel=f"hour of the day, {timezone}", ylabel="number", xlim=(-0.6, 23.6))
    axes.set_xticks(np.arange(24))
    axes.set_ylim(0, 1.35 * max(each.rows for each in hours))  # space for the legend
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.legend(frameon=False, ncols=2, loc="upper left")


def _finding(hours: Sequence[HourFigures]) -> str:
    defined = [each for each in hours if not math.isnan(each.auc)]
    if not defined:
        return "Before training: no hour had scores and both clicks and non-clicks"
    worst, best = min(defined, key=lambda h: h.auc), max(defined, key=lambda h: h.auc)
    return (
        f"Before training: AUC from {worst.auc:.3f} at {worst.hour} h "
        f"to {best.auc:.3f} at {best.hour} h"
    )
