"""The cross graph of slices of impressions, counted by pandas as the Spark stage counts it (docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.canonical import NULL
from features.keys import keys
from features.schema import Relation
from training.data.examples import Examples
from training.pretraining.graph import CrossGraph, RelationEdges

MIN_IMPRESSIONS = 3
SMOOTHING = 20.0
_MARGIN = 1e-6


def graph_of(slices: Sequence[Examples], relations: Sequence[Relation]) -> CrossGraph:
    """Return the graph of all slices: edges of at least `MIN_IMPRESSIONS`, statistics as of the stage, nulls left out."""
    pairs, label = (
        np.concatenate([each.pairs for each in slices]),
        np.concatenate([each.label for each in slices]),
    )
    counted = {
        relation.name: _counted(pairs[:, i], label, relation)
        for i, relation in enumerate(relations)
    }
    nodes: dict[str, list[NDArray[np.int64]]] = {}
    for relation in relations:
        nodes.setdefault(relation.left, []).append(counted[relation.name]["left"].to_numpy())
        nodes.setdefault(relation.right, []).append(counted[relation.name]["right"].to_numpy())
    of_field = {field: np.unique(np.concatenate(found)) for field, found in nodes.items()}
    edges = {
        relation.name: _edges(counted[relation.name], relation, of_field) for relation in relations
    }
    return CrossGraph(of_field, edges, date.min, date.min, len(slices), 24 * len(slices))


def _counted(
    pairs: NDArray[np.int64], label: NDArray[np.float32], relation: Relation
) -> pd.DataFrame:
    nulls = [int(keys(field, [NULL]).numpy()[0]) for field in (relation.left, relation.right)]
    frame = pd.DataFrame(
        {"left": pairs[:, 0], "right": pairs[:, 1], "label": label.astype(np.float64)}
    )
    frame = frame[(frame["left"] != nulls[0]) & (frame["right"] != nulls[1])]
    counts = (
        frame.groupby(["left", "right"])["label"]
        .agg(impressions="size", clicks="sum")
        .reset_index()
    )
    n, total = counts["impressions"], counts["impressions"].sum()
    of_left, of_right = (n.groupby(counts[side]).transform("sum") for side in ("left", "right"))
    rate = ((counts["clicks"] + SMOOTHING * label.mean(dtype=np.float64)) / (n + SMOOTHING)).clip(
        _MARGIN, 1 - _MARGIN
    )
    told = counts.assign(
        logit=np.log(rate / (1 - rate)),
        pmi=np.log(n * total / of_left / of_right),
        log_count=np.log1p(n),
    )
    return told[n >= MIN_IMPRESSIONS]


def _edges(
    counts: pd.DataFrame, relation: Relation, nodes: dict[str, NDArray[np.int64]]
) -> RelationEdges:
    left, right = (
        np.searchsorted(nodes[field], counts[side].to_numpy()).astype(np.int32)
        for side, field in (("left", relation.left), ("right", relation.right))
    )
    statistics = {name: counts[name].to_numpy(np.float64) for name in ("logit", "pmi", "log_count")}
    return RelationEdges(
        relation, left, right, counts["impressions"].to_numpy(np.int64), statistics
    )
