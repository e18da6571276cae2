"""A picture of learning by the hour against learning by the day: progressive AUC over the days."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, time, timedelta
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import DateFormatter, DayLocator
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from globo_parts.report import JUDGED_FROM
from globo_parts.stream import Day
from training.evaluation.metrics import auc
from training.fit.score_then_train import runs

_INK, _GRID, _PALE = "#1c2733", "#e3e8ee", "#c9d6e2"
_COLOURS = ("#1f6fb2", "#d17a00")
_LEAST_ROWS = 500
"""Impressions that an hour needs for a point."""


def plot_hours(
    days: Sequence[Day], probability: Mapping[str, Sequence[NDArray[np.float32]]], path: Path
) -> Path:
    """Draw the AUC of each hour and of each day into a PNG and return its path.

    Args:
        days: in order; the first is not judged.
        probability: what to call a way of learning → its probabilities by day, float32 [n]; two at most.
        path: whose folder is made if missing.
    """
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    for (name, values), colour in zip(probability.items(), _COLOURS, strict=False):
        _draw_auc(upper, days, values, name, colour)
    _draw_rows(lower, days)
    upper.set_ylabel("AUC before it was learned")
    upper.legend(
        frameon=False, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=4, fontsize="small"
    )
    figure.suptitle(_message(days, probability), x=0.01, ha="left", fontweight="bold", color=_INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    return path


def hourly_auc(day: Day, probability: NDArray[np.float32]) -> list[tuple[int, float]]:
    """Return hour and AUC of each hour of a day that has impressions enough."""
    spans = [(start, stop) for start, stop in runs(day.hour) if stop - start >= _LEAST_ROWS]
    return [(int(day.hour[a]), auc(day.inputs.label[a:b], probability[a:b])) for a, b in spans]


def with_gaps(points: Sequence[tuple[datetime, float]]) -> Iterator[tuple[datetime, float]]:
    """Yield the points of hours, with a NaN behind each that the next hour does not follow: no line bridges a gap."""
    hour = timedelta(hours=1)
    for number, (moment, value) in enumerate(points):
        if number and moment - points[number - 1][0] > hour:
            yield points[number - 1][0] + hour, np.nan
        yield moment, value


def _draw_auc(
    axes: Axes,
    days: Sequence[Day],
    probability: Sequence[NDArray[np.float32]],
    name: str,
    colour: str,
) -> None:
    judged = list(zip(days, probability, strict=True))[JUDGED_FROM:]
    points = [
        (_moment(day, hour + 0.5), value) for day, p in judged for hour, value in hourly_auc(day, p)
    ]
    axes.plot(
        *zip(*with_gaps(points), strict=True), color=colour, linewidth=1.6, label=f"{name}: an hour"
    )
    for number, (day, p) in enumerate(judged):
        label = f"{name}: the day" if number == 0 else None
        span = _moment(day, 0), _moment(day, 24)
        axes.hlines(
            auc(day.inputs.label, p), *span, color=colour, linewidth=4, alpha=0.35, label=label
        )
    axes.grid(axis="y", color=_GRID)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_rows(axes: Axes, days: Sequence[Day]) -> None:
    spans = [(day, start, stop) for day in days[JUDGED_FROM:] for start, stop in runs(day.hour)]
    moments = [_moment(day, int(day.hour[start]) + 0.5) for day, start, _ in spans]
    axes.bar(
        moments,
        [stop - start for _, start, stop in spans],
        width=timedelta(minutes=50),
        color=_PALE,
    )
    axes.set(ylabel="impressions\nan hour", xlabel="time, UTC")
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(DayLocator())
    axes.xaxis.set_major_formatter(DateFormatter("%b %d"))
    axes.spines[["top", "right"]].set_visible(False)


def _moment(day: Day, hour: float) -> datetime:
    return datetime.combine(day.date, time()) + timedelta(hours=hour)


def _message(days: Sequence[Day], probability: Mapping[str, Sequence[NDArray[np.float32]]]) -> str:
    labels = [day.inputs.label for day in days[JUDGED_FROM:]]
    means = {
        name: float(np.mean([auc(y, p) for y, p in zip(labels, values[JUDGED_FROM:], strict=True)]))
        for name, values in probability.items()
    }
    told = ", ".join(f"{value:.3f} {name}" for name, value in means.items())
    return f"Mean AUC of a day {told}\n(Globo clicks against drawn negatives)"
