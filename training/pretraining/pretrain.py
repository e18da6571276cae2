"""From a cross graph to the `encodings` artifact: fit, measure, gate, write."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from training.data.arrays import Arrays, read_arrays, write_arrays
from training.models.cross_files import write_encodings
from training.pretraining.baselines import factorisation, lookup, node_bias
from training.pretraining.corrections import corrected
from training.pretraining.fitting import Fit, Fitted, Task
from training.pretraining.graph import Graph, read_graph
from training.pretraining.measures import Judgement, judge, predictions
from training.pretraining.pcf_fit import pcf_gnn
from training.pretraining.plots import plot_losses, plot_relation
from training.pretraining.settings import Kind, PretrainSettings

ENCODINGS, PARAMETERS, METRICS, PLOTS = "encodings.npz", "parameters.npz", "metrics.json", "plots"

FITS: Mapping[Kind, Fit] = {
    "pcf_gnn": pcf_gnn,
    "factorisation": factorisation,
    "node_bias": node_bias,
    "lookup": lookup,
}

Tell = Callable[[str], None]


def pretrain(
    folder: Path,
    settings: PretrainSettings,
    out: Path,
    previous: Path | None = None,
    tell: Tell = lambda _: None,
) -> dict[str, Any]:
    """Fit the relations of a graph and write `encodings.npz`, `parameters.npz`, `metrics.json` and plots.

    The figures come from a fit that has not seen the held-out edges; what serves is then fitted to all edges
    (`settings.refit`). A relation that is refused is left out of `encodings.npz`. The same graph, settings and previous folder
    give the same bytes.

    Args:
        folder: a `cross_graph` artifact, possibly without edges.
        settings: kind and how.
        out: the folder to fill.
        previous: an earlier `encodings` artifact to start from.
        tell: called with a line for a person for each relation.

    Returns:
        `<relation>/<figure>` of `Judgement`, and `edges`, `graph_days`, `graph_hours`, `graph_last_day` (as spelled, or None),
        `relations_used`.

    Raises:
        InputError: a file is missing or damaged.
    """
    graph = read_graph(folder)
    task = Task.of(graph, settings, _previous(previous, settings))
    measured = FITS[settings.kind](task)
    final = final_fit(task, measured)
    predicted = predictions(task, measured)
    judged = judge(task, predicted, final)
    used = {
        name: encoding for name, encoding in final.encodings.items() if not judged[name].refused
    }
    out.mkdir(parents=True, exist_ok=True)
    write_encodings(out / ENCODINGS, used)
    write_arrays(out / PARAMETERS, measured.arrays)
    _write_metrics(out / METRICS, graph, settings, judged, measured)
    for name, prediction in predicted.items():
        plot_relation(name, prediction, judged[name], out / PLOTS / f"{name}.png")
    if measured.curve:
        plot_losses(measured.curve, measured.best_epoch, out / PLOTS / "loss.png")
    for name, judgement in judged.items():
        tell(_words(name, judgement))
    return _figures(graph, judged)


def final_fit(task: Task, measured: Fitted) -> Fitted:
    """Return what serves, with its corrections: fitted to all edges.

    PCF-GNN is for as many epochs as were best in the fit that was measured; without `refit` that fit serves.
    """
    gnn = task.settings.kind == "pcf_gnn"
    whole = task.whole(measured.best_epoch if gnn else task.settings.epochs)
    fitted = measured if gnn and not task.settings.refit else FITS[task.settings.kind](whole)
    return replace(fitted, encodings=corrected(fitted.encodings, whole))


def _previous(folder: Path | None, settings: PretrainSettings) -> Arrays:
    return read_arrays(folder / PARAMETERS) if folder and settings.warm_start else {}


def _write_metrics(
    path: Path,
    graph: Graph,
    settings: PretrainSettings,
    judged: Mapping[str, Judgement],
    measured: Fitted,
) -> None:
    told = {
        "kind": settings.kind,
        "statistic": settings.statistic,
        "graph": {
            "first_day": graph.first_day,
            "last_day": graph.last_day,
            "days": graph.days,
            "hours": graph.hours,
        },
        "best_epoch": measured.best_epoch,
        "epochs": [asdict(epoch) for epoch in measured.curve],
        "relations": {name: asdict(each) for name, each in judged.items()},
    }
    path.write_text(json.dumps(_plain(told), indent=1, default=str) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _words(name: str, each: Judgement) -> str:
    figures = f"{name}: held-out R² {each.r2:.4f}, node biases {each.r2_node_bias:.4f}, {each.edges:,} edges, {each.bytes:,} bytes"
    return (
        f"{figures}; NOT USED, the click model sees zeros: {each.refused}"
        if each.refused
        else figures
    )


def _figures(graph: Graph, judged: Mapping[str, Judgement]) -> dict[str, Any]:
    figures = {
        f"{name}/{figure}": value
        for name, each in judged.items()
        for figure, value in asdict(each).items()
    }
    return figures | {
        "edges": sum(len(edges) for edges in graph.edges.values()),
        "graph_days": graph.days,
        "graph_hours": graph.hours,
        "graph_last_day": graph.last_day.isoformat() if graph.last_day else None,
        "relations_used": sum(not each.refused for each in judged.values()),
    }
