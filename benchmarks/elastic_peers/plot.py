"""The step times as bars, the dense part of each marked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABELS = {
    "dense": "dense part alone",
    "ours": "elastic-ctr, group lasso",
    "tfra": "TFRA 0.8.1",
    "torch_sparse": "torch Embedding(sparse) + SparseAdam",
    "mutable_hash_table": "MutableHashTable as the store",
    "keras_1m": "Keras Embedding + Adam, 1/4 of the rows",
    "keras_4m": "Keras Embedding + Adam",
}
_DENSE, _REST, _OURS = "#b8bec9", "#5b7fb5", "#d9772b"


def plot(medians: Mapping[str, Mapping[str, float]], rows: int, target: Path) -> None:
    """Draw one panel for each MLP and write the picture.

    Args:
        medians: system (or `system.dense`) → MLP → milliseconds.
        rows: of the table.
        target: a file whose suffix says the format.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot

    mlps = list(next(iter(medians.values())))
    figure, panels = pyplot.subplots(
        1,
        len(mlps),
        figsize=(6.2 * len(mlps), 3.8),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for panel, mlp in zip(panels[0], mlps, strict=True):
        _panel(panel, {name: times[mlp] for name, times in medians.items()}, mlp)
    figure.suptitle(
        f"Training step on CPU, its dense part in grey: {rows / 1e6:g} M rows of width 16"
    )
    figure.savefig(target, dpi=130)
    pyplot.close(figure)


def _panel(panel: Axes, times: Mapping[str, float], mlp: str) -> None:
    names = [name for name in reversed(_LABELS) if name in times]
    for place, name in enumerate(names):
        dense = min(times.get(f"{name}.dense", times.get("dense", 0.0)), times[name])
        panel.barh(place, dense, color=_DENSE)
        panel.barh(place, times[name] - dense, left=dense, color=_OURS if name == "ours" else _REST)
        panel.annotate(
            f"{times[name]:.0f}",
            (times[name], place),
            (4, 0),
            textcoords="offset points",
            va="center",
        )
    panel.set_yticks(range(len(names)), [_LABELS[name] for name in names])
    panel.margins(x=0.08)
    panel.set_xlabel("median step, ms")
    panel.set_title(f"MLP {mlp.replace('x', '×')}")
    panel.spines[["top", "right"]].set_visible(False)
