"""Pictures of a candidate: does it rank, is it calibrated, how do its scores lie, what did compression save."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from features.errors import InputError
from training.evaluation.metrics import calibration_curve

Labels = NDArray[np.generic]
Scores = NDArray[np.floating]

_INK, _MUTED, _GRID = "#1c2733", "#8a97a6", "#e3e8ee"
_COLOURS = ("#1f6fb2", "#8a97a6", "#d17a00", "#5b8c5a", "#7b5ea7")
_BINS = 10


def plot_model(
    label: Labels,
    probability: Mapping[str, Scores],
    out: Path,
    bytes_by_form: Mapping[str, int] | None = None,
) -> tuple[Path, ...]:
    """Write `calibration.png`, `roc.png`, `scores.png` and, where sizes are given, `bytes.png`; return their paths.

    Args:
        label: [n], 0 or 1, of held-out impressions.
        probability: each model's, [n], by its name in the legend; the first model is the one to be judged.
            Probabilities that are not finite are left out of the pictures: judging them is the gate's business.
        out: made if missing.
        bytes_by_form: size of each form of the model, largest first; the last one is the form that is served.

    Raises:
        InputError: no model, no impression, or scores of other impressions.
    """
    models = _models(label, probability)
    drawings: dict[str, Callable[[Axes], None]] = {
        "calibration": lambda axes: _draw_calibration(axes, models),
        "roc": lambda axes: _draw_roc(axes, models),
        "scores": lambda axes: _draw_scores(axes, models[0]),
    }
    if bytes_by_form:
        drawings["bytes"] = lambda axes: _draw_bytes(axes, bytes_by_form)
    out.mkdir(parents=True, exist_ok=True)
    return tuple(_picture(draw, out / f"{name}.png") for name, draw in drawings.items())


@dataclass(frozen=True)
class _Model:
    """One model's scores where they are finite, and how it is drawn."""

    name: str
    label: Labels
    probability: Scores
    colour: str


def _models(label: Labels, probability: Mapping[str, Scores]) -> list[_Model]:
    wrong = {name: p.shape for name, p in probability.items() if p.shape != label.shape}
    if wrong or not probability or not len(label):
        what = f"{len(label)} labels, models {sorted(probability)}, of another shape {wrong}"
        raise InputError(f"plots: {what}: score the same impressions with each")
    colours = itertools.cycle(_COLOURS)
    return [
        _finite(name, label, p, colour)
        for (name, p), colour in zip(probability.items(), colours, strict=False)
    ]


def _finite(name: str, label: Labels, probability: Scores, colour: str) -> _Model:
    kept = np.isfinite(probability)
    return _Model(name, label[kept], probability[kept], colour)


def _picture(draw: Callable[[Axes], None], path: Path) -> Path:
    """Draw without pyplot: no global list of figures, no display, safe in any thread."""
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    draw(axes)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return path


def _title(axes: Axes, message: str, what: str) -> None:
    """Say what to see in bold, and below it what is shown."""
    axes.set_title(f"{message}\n", loc="left", fontweight="bold", color=_INK, fontsize=13)
    axes.text(0, 1.015, what, transform=axes.transAxes, color=_MUTED, fontsize=9.5)


def _in_percent(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _draw_calibration(axes: Axes, models: list[_Model]) -> None:
    top = 0.0
    for model in reversed(models):  # the judged one last, on top
        curve = calibration_curve(model.label.astype(np.float64), model.probability, _BINS)
        interval = np.maximum(
            0, [curve.observed - curve.low, curve.high - curve.observed]
        )  # rounding can cross
        axes.errorbar(
            curve.predicted,
            curve.observed,
            interval,
            color=model.colour,
            marker="o",
            capsize=3,
            label=model.name,
        )
        top = max([top, *curve.predicted, *curve.observed])
    axes.plot(
        [0, top], [0, top], color=_INK, linewidth=1, linestyle="--", label="perfectly calibrated"
    )
    axes.set(
        xlabel="mean predicted click probability of the bin",
        ylabel="observed click rate of the bin (95 % interval)",
    )
    _in_percent(axes)
    axes.legend(frameon=False)
    _title(
        axes,
        _calibration_words(models[0]),
        f"{_BINS} bins of equal size, {len(models[0].label):,} held-out impressions",
    )


def _calibration_words(model: _Model) -> str:
    observed = float(model.label.sum())
    if not observed:
        return "No click to be calibrated on"
    excess = float(model.probability.sum(dtype=np.float64)) / observed - 1
    return f"Predicts {abs(excess):.1%} {'more' if excess >= 0 else 'fewer'} clicks than there were"


def _draw_roc(axes: Axes, models: list[_Model]) -> None:
    for model in reversed(models):
        if len(np.unique(model.label)) == 2:
            false_positive, true_positive, _ = roc_curve(model.label, model.probability)
            axes.plot(
                false_positive,
                true_positive,
                color=model.colour,
                linewidth=2,
                label=f"{model.name}: {_auc(model):.4f}",
            )
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=1, linestyle="--", label="chance: 0.5000")
    axes.set(
        xlabel="share of non-clicks ranked above the threshold",
        ylabel="share of clicks ranked above the threshold",
    )
    axes.set_aspect("equal")
    axes.legend(frameon=False, loc="lower right", title="area under the curve")
    _title(
        axes,
        f"Ranks clicks above non-clicks: AUC {_auc(models[0]):.4f}",
        f"{len(models[0].label):,} held-out impressions",
    )


def _auc(model: _Model) -> float:
    """NaN where there are not both clicks and non-clicks."""
    return (
        float(roc_auc_score(model.label, model.probability))
        if len(np.unique(model.label)) == 2
        else float("nan")
    )


def _draw_scores(axes: Axes, model: _Model) -> None:
    edges = np.linspace(0, max(float(model.probability.max(initial=0)), 1e-6), 41).tolist()
    groups = {
        "not clicked": model.probability[model.label == 0],
        "clicked": model.probability[model.label == 1],
    }
    for (name, chosen), colour in zip(groups.items(), (_MUTED, model.colour), strict=True):
        share = np.full(len(chosen), 1 / max(len(chosen), 1))
        axes.hist(
            chosen, edges, weights=share, color=colour, alpha=0.6, label=f"{name} ({len(chosen):,})"
        )
    axes.set(
        xlabel=f"predicted click probability of the {model.name}",
        ylabel="share of the group's impressions",
    )
    _in_percent(axes)
    axes.legend(frameon=False)
    means = [float(chosen.mean()) if len(chosen) else float("nan") for chosen in groups.values()]
    _title(
        axes,
        f"Clicked impressions score {means[1]:.1%} on average, others {means[0]:.1%}",
        "scores by outcome",
    )


def _draw_bytes(axes: Axes, bytes_by_form: Mapping[str, int]) -> None:
    names, megabytes = list(bytes_by_form), np.array(list(bytes_by_form.values())) / 1e6
    bars = axes.barh(
        names, megabytes, color=[*[_MUTED] * (len(names) - 1), _COLOURS[0]], height=0.6
    )
    axes.bar_label(bars, [f"{size:,.2f} MB" for size in megabytes], padding=4, color=_INK)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.18)
    axes.set(xlabel="size on disk, MB")
    change = megabytes[-1] / megabytes[0] - 1 if megabytes[0] else 0.0
    _title(
        axes,
        f"{names[-1].capitalize()}: {abs(change):.0%} {'smaller' if change <= 0 else 'larger'}",
        f"against {names[0]}",
    )
