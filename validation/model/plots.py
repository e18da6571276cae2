"""Plots of a candidate: ranking, calibration, distribution of scores, and sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from features import plotting
from features.errors import InputError
from features.plotting import INK, MUTED, title
from training.evaluation.metrics import calibration_curve

Labels = NDArray[np.generic]
Scores = NDArray[np.floating]

_COLOURS = (plotting.BLUE, MUTED, plotting.ORANGE, plotting.GREEN, plotting.PURPLE)
_BINS = 10


@dataclass(frozen=True)
class _ScoredModel:
    """One model's finite scores with their labels, and its colour."""

    name: str
    label: Labels
    probability: Scores
    colour: str

    @property
    def auc(self) -> float:
        """NaN unless there are both clicks and non-clicks."""
        if len(np.unique(self.label)) < 2:
            return float("nan")
        return float(roc_auc_score(self.label, self.probability))


def plot_model(
    label: Labels,
    probability: Mapping[str, Scores],
    out: Path,
    bytes_by_form: Mapping[str, int] | None = None,
) -> tuple[Path, ...]:
    """Write `calibration.png`, `roc.png`, `scores.png` and, with sizes, `bytes.png`.

    Args:
        label: [n], 0 or 1, of held-out impressions.
        probability: [n] of each model, by its name in the legend; the candidate first. Values that
            are not finite are left out of the plots: the gate fails on them.
        out: created if missing.
        bytes_by_form: size of each form of the model, largest first; the last one is served.

    Returns:
        The paths of the files.

    Raises:
        InputError: no model, no impression, or scores of other impressions.
    """
    wrong = {name: p.shape for name, p in probability.items() if p.shape != label.shape}
    if wrong or not probability or not len(label):
        raise InputError(
            f"plots: {len(label)} labels, models {sorted(probability)}, of another shape {wrong}: "
            "score the same impressions with each"
        )
    # A value that is not finite would make every plot of its model empty.
    models = []
    for number, (name, scores) in enumerate(probability.items()):
        finite, colour = np.isfinite(scores), _COLOURS[number % len(_COLOURS)]
        models.append(_ScoredModel(name, label[finite], scores[finite], colour))
    drawings: dict[str, Callable[[Axes], None]] = {
        "calibration": lambda axes: _draw_calibration(axes, models),
        "roc": lambda axes: _draw_roc(axes, models),
        "scores": lambda axes: _draw_scores(axes, models[0]),
    }
    if bytes_by_form:
        drawings["bytes"] = lambda axes: _draw_bytes(axes, bytes_by_form)
    paths = []
    for name, draw in drawings.items():
        paths.append(out / f"{name}.png")
        with plotting.figure_file(paths[-1], (7.2, 5.2)) as figure:
            draw(plotting.plain_axes(figure))
    return tuple(paths)


def _in_percent(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _draw_calibration(axes: Axes, models: list[_ScoredModel]) -> None:
    top = 0.0
    # The candidate is drawn last, on top of the others.
    for model in reversed(models):
        curve = calibration_curve(model.label.astype(np.float64), model.probability, _BINS)
        # Rounding can put an observed rate just outside its interval.
        interval = np.maximum(0, [curve.observed - curve.low, curve.high - curve.observed])
        style: dict[str, Any] = {"color": model.colour, "marker": "o", "capsize": 3}
        axes.errorbar(curve.predicted, curve.observed, interval, label=model.name, **style)
        top = max([top, *curve.predicted, *curve.observed])
    ideal: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": "--"}
    axes.plot([0, top], [0, top], label="perfectly calibrated", **ideal)
    axes.set(
        xlabel="mean predicted click probability of the bin",
        ylabel="observed click rate of the bin (95 % interval)",
    )
    _in_percent(axes)
    axes.legend(frameon=False)
    label, probability = models[0].label, models[0].probability
    finding, observed = "There are no clicks to calibrate on", float(label.sum())
    if observed:
        excess = float(probability.sum(dtype=np.float64)) / observed - 1
        more = "more" if excess >= 0 else "fewer"
        finding = f"Predicts {abs(excess):.1%} {more} clicks than there were"
    title(axes, finding, f"{_BINS} bins of equal size, {len(label):,} held-out impressions")


def _draw_roc(axes: Axes, models: list[_ScoredModel]) -> None:
    for model in reversed(models):
        if len(np.unique(model.label)) == 2:
            false_positive, true_positive, _ = roc_curve(model.label, model.probability)
            label = f"{model.name}: {model.auc:.4f}"
            axes.plot(false_positive, true_positive, color=model.colour, linewidth=2, label=label)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--", label="chance: 0.5000")
    axes.set(
        xlabel="share of non-clicks ranked above the threshold",
        ylabel="share of clicks ranked above the threshold",
    )
    axes.set_aspect("equal")
    axes.legend(frameon=False, loc="lower right", title="area under the curve")
    finding = f"Ranks clicks above non-clicks: AUC {models[0].auc:.4f}"
    title(axes, finding, f"{len(models[0].label):,} held-out impressions")


def _draw_scores(axes: Axes, model: _ScoredModel) -> None:
    edges = np.linspace(0, max(float(model.probability.max(initial=0)), 1e-6), 41).tolist()
    groups = {
        "not clicked": model.probability[model.label == 0],
        "clicked": model.probability[model.label == 1],
    }
    for (name, chosen), colour in zip(groups.items(), (MUTED, model.colour), strict=True):
        # Each group sums to 1: there are far fewer clicks than other impressions.
        share = np.full(len(chosen), 1 / max(len(chosen), 1))
        label = f"{name} ({len(chosen):,})"
        axes.hist(chosen, edges, weights=share, color=colour, alpha=0.6, label=label)
    axes.set(
        xlabel=f"predicted click probability of the {model.name}",
        ylabel="share of the group's impressions",
    )
    _in_percent(axes)
    axes.legend(frameon=False)
    means = [float(chosen.mean()) if len(chosen) else float("nan") for chosen in groups.values()]
    finding = f"Clicked impressions score {means[1]:.1%} on average, others {means[0]:.1%}"
    title(axes, finding, "scores by outcome")


def _draw_bytes(axes: Axes, bytes_by_form: Mapping[str, int]) -> None:
    names, megabytes = list(bytes_by_form), np.array(list(bytes_by_form.values())) / 1e6
    colours = [*[MUTED] * (len(names) - 1), _COLOURS[0]]
    bars = axes.barh(names, megabytes, color=colours, height=0.6)
    axes.bar_label(bars, [f"{size:,.2f} MB" for size in megabytes], padding=4, color=INK)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.18)
    axes.set(xlabel="size on disk, MB")
    change = megabytes[-1] / megabytes[0] - 1 if megabytes[0] else 0.0
    finding = (
        f"{names[-1].capitalize()}: {abs(change):.0%} {'smaller' if change <= 0 else 'larger'}"
    )
    title(axes, finding, f"against {names[0]}")
