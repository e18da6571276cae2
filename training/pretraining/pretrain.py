"""From a cross graph to the `encodings` artifact: fit, measure, decide what may be used, write."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from features.json_safe import json_safe
from training.data.arrays import read_arrays, write_arrays
from training.models.encoding_inputs import Encoding, Encodings, PairTable, write_encodings
from training.pretraining.factorisation import factorisation, lookup, node_bias
from training.pretraining.graph import CrossGraph, read_graph
from training.pretraining.measures import (
    RelationReport,
    evaluate,
    plot_losses,
    plot_relation,
    predictions,
)
from training.pretraining.pcf_gnn import pcf_gnn
from training.pretraining.settings import Kind, PretrainSettings
from training.pretraining.task import Fit, FitResult, Task

ENCODINGS, PARAMETERS, METRICS, PLOTS = "encodings.npz", "parameters.npz", "metrics.json", "plots"

FITS: Mapping[Kind, Fit] = {
    "pcf_gnn": pcf_gnn,
    "factorisation": factorisation,
    "node_bias": node_bias,
    "lookup": lookup,
}

_log = logging.getLogger(__name__)


def pretrain(
    folder: Path,
    settings: PretrainSettings,
    out: Path,
    previous: Path | None = None,
    log: Callable[[str], None] = _log.info,
) -> dict[str, Any]:
    """Fit the relations of a graph and write an `encodings` artifact.

    It holds `encodings.npz`, `parameters.npz`, `metrics.json` and plots. The figures come from a
    fit without the held-out edges. The encodings for serving are then fitted to all edges
    (`settings.refit`). A relation that does not beat the baselines is left out of `encodings.npz`.
    The same graph, settings and previous folder give the same bytes.

    Args:
        folder: a `cross_graph` artifact, possibly without edges.
        settings: kind and how.
        out: the folder to fill.
        previous: an earlier `encodings` artifact to start from.
        log: receives one line per relation.

    Returns:
        `<relation>/<figure>` of `RelationReport`, and `edges`, `graph_days`, `graph_hours`,
        `graph_last_day` (as text, or None), `relations_used`.

    Raises:
        InputError: a file is missing or damaged.
    """
    # 1. Fit and measure.
    graph = read_graph(folder)
    warm_start = read_arrays(previous / PARAMETERS) if previous and settings.warm_start else {}
    task = Task.of(graph, settings, warm_start)
    # The figures need a fit without the held-out edges; what serves may be fitted to all of them.
    measured = FITS[settings.kind](task)
    final = final_fit(task, measured)
    predicted = predictions(task, measured)
    reports = evaluate(task, predicted, final)

    # 2. Write what may be used, and what a later fit may start from.
    out.mkdir(parents=True, exist_ok=True)
    used = {name: each for name, each in final.encodings.items() if not reports[name].refused}
    write_encodings(out / ENCODINGS, used)
    # Not the weights of the final fit: it was trained on the held-out edges, which are held out
    # of the next graph too, and a warm start must not have seen them.
    write_arrays(out / PARAMETERS, measured.arrays)
    _write_metrics(out / METRICS, graph, settings, reports, measured)
    for name, prediction in predicted.items():
        plot_relation(name, prediction, reports[name], out / PLOTS / f"{name}.png")
    if measured.curve:
        plot_losses(measured.curve, measured.best_epoch, out / PLOTS / "loss.png")

    # 3. Report every relation, also those that are not used.
    figures: dict[str, Any] = {}
    for name, each in reports.items():
        figures |= {f"{name}/{figure}": value for figure, value in asdict(each).items()}
        line = (
            f"{name}: held-out R² {each.r2:.4f}, node biases {each.r2_node_bias:.4f}, "
            f"{each.edges:,} edges, {each.bytes:,} bytes"
        )
        warning = f"; NOT USED, the click model sees zeros: {each.refused}" if each.refused else ""
        log(line + warning)
    return figures | {
        "edges": sum(len(edges) for edges in graph.edges.values()),
        "graph_days": graph.days,
        "graph_hours": graph.hours,
        "graph_last_day": graph.last_day.isoformat() if graph.last_day else None,
        "relations_used": sum(not each.refused for each in reports.values()),
    }


def final_fit(task: Task, measured: FitResult) -> FitResult:
    """Return the encodings for serving, fitted to all edges, with their corrections.

    PCF-GNN is trained for the best number of epochs of the measured fit; without `refit` the
    measured fit serves.
    """
    is_gnn = task.settings.kind == "pcf_gnn"
    whole = task.whole(measured.best_epoch if is_gnn else task.settings.epochs)
    keep = is_gnn and not task.settings.refit
    fitted = measured if keep else FITS[task.settings.kind](whole)
    return replace(fitted, encodings=corrected(fitted.encodings, whole))


def corrected(encodings: Encodings, task: Task) -> Encodings:
    """Return encodings with corrections a_uv - p_uv for a share of each relation's training pairs.

    The pairs with the greatest w_uv (a_uv - p_uv)² get one: no other choice of as many pairs leaves
    a smaller loss. Ties go to the pair that comes first in the graph. Tables of pairs are exact and
    get none.
    """
    settings, result = task.settings, dict(encodings)
    for name, encoding in encodings.items() if settings.corrections else ():
        if not isinstance(encoding, Encoding):
            continue
        edges = task.training_edges[name]
        pairs = edges.pairs_in(task.graph)
        missed = edges.value - encoding.column(pairs)
        order = np.argsort(-edges.weight * missed**2, kind="stable")
        worst = order[: int(settings.corrections * len(edges))]
        table = PairTable.of(pairs[worst], missed[worst], 0.0, np.dtype(settings.storage))
        result[name] = replace(encoding, corrections=table)
    return result


def _write_metrics(
    path: Path,
    graph: CrossGraph,
    settings: PretrainSettings,
    reports: Mapping[str, RelationReport],
    measured: FitResult,
) -> None:
    document = {
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
        "relations": {name: asdict(each) for name, each in reports.items()},
    }
    text = json.dumps(json_safe(document), indent=1, default=str)
    path.write_text(text + "\n", encoding="utf-8")
