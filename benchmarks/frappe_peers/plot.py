"""Test AUC and speed of every model as dots, ours in colour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OURS, _THEIRS = "#d9772b", "#5b7fb5"


def plot(models: Mapping[str, Mapping[str, float | None]], target: Path) -> None:
    """Draw one panel for AUC (mean and deviation over the seeds) and one for examples a second, and write the picture.

    Args:
        models: name → figures, as `frappe_peers.report.figures_of` gives them.
        target: a file whose suffix says the format.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = sorted(models, key=lambda name: models[name]["auc_mean"] or 0.0)
    figure, (quality, speed) = pyplot.subplots(
        1, 2, figsize=(11, 0.4 * len(names) + 1.6), sharey=True, layout="constrained"
    )
    _panel(quality, names, models, "auc_mean", "auc_std")
    _panel(speed, names, models, "examples_per_s", None)
    quality.set_yticks(range(len(names)), names)
    quality.set_xlabel("test AUC, mean and deviation over seeds")
    speed.set_xlabel("training examples a second")
    speed.set_xscale("log")
    figure.suptitle("Frappe (Baltrunas et al. 2015), ours in orange: further right is better")
    figure.savefig(target, dpi=130)
    pyplot.close(figure)


def _panel(
    panel: Axes,
    names: list[str],
    models: Mapping[str, Mapping[str, float | None]],
    value: str,
    deviation: str | None,
) -> None:
    for place, name in enumerate(names):
        figures = models[name]
        error = figures[deviation] if deviation else None
        panel.errorbar(
            figures[value] or 0.0,
            place,
            xerr=error,
            fmt="o",
            color=_OURS if name.startswith("ours") else _THEIRS,
        )
    panel.grid(axis="x", alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
