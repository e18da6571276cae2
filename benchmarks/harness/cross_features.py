"""Cross features of pairs of fields: what makes them, and the graphs that they are made of.

Graphs are counted by pandas as the Spark stage counts them (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.canonical import NULL
from features.keys import keys
from features.schema import Cross, Relation, Schema
from training.data.examples import Examples
from training.models.encoding_inputs import Encodings
from training.pretraining.graph import CrossGraph, RelationEdges
from training.pretraining.measures import evaluate, predictions
from training.pretraining.pretrain import FITS, final_fit
from training.pretraining.settings import PretrainSettings
from training.pretraining.task import Task
from training.settings import ModelSettings, OptimizerSettings, TrainingSettings

MIN_IMPRESSIONS = 3
SMOOTHING = 20.0
_MARGIN = 1e-6


def graph_of(slices: Sequence[Examples], relations: Sequence[Relation]) -> CrossGraph:
    """Return the graph of all slices: edges of at least `MIN_IMPRESSIONS`, statistics as of the
    stage, nulls left out.
    """
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
    table = counts.assign(
        logit=np.log(rate / (1 - rate)),
        pmi=np.log(n * total / of_left / of_right),
        log_count=np.log1p(n),
    )
    return table[n >= MIN_IMPRESSIONS]


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


VARIANTS: Mapping[str, PretrainSettings | None] = {
    "alone": None,
    "lookup": PretrainSettings(kind="lookup"),
    "pcf_gnn": PretrainSettings(),
    "pcf_gnn_half": PretrainSettings(dim=4, storage="float16"),
    "pcf_gnn_corrected": PretrainSettings(dim=4, storage="float16", corrections=0.2),
    "factorisation": PretrainSettings(kind="factorisation", epochs=10),
    "node_bias": PretrainSettings(kind="node_bias"),
}
"""No cross features, or the settings of what makes them; `half`: 4 numbers of 2 bytes a node
instead of 8 of 4; `corrected`: that, and a fifth of the pairs keep their own statistic."""

_ROWS = OptimizerSettings(learning_rate=1e-3, beta_1=0.0, beta_2=0.99)
MODEL = ModelSettings(dim=8, hidden=(32,), deep=_ROWS, wide=_ROWS)
TRAINING = TrainingSettings(batch_size=256)


@dataclass(frozen=True)
class Made:
    """Cross features of one graph.

    Attributes:
        encodings: of the relations that passed the gate.
        figures: by relation `r2, r2_node_bias, refused`.
        bytes: of all of them.
    """

    encodings: Encodings
    figures: dict[str, dict[str, float | str]] = field(default_factory=dict)
    bytes: int = 0


def made(settings: PretrainSettings | None, graph: CrossGraph) -> Made:
    """Return what a variant makes of a graph, as the stage would: measured, gated, fitted to all
    edges.
    """
    if settings is None:
        return Made({})
    task = Task.of(graph, settings, {})
    measured = FITS[settings.kind](task)
    final = final_fit(task, measured)
    judged = evaluate(task, predictions(task, measured), final)
    used = {
        name: encoding for name, encoding in final.encodings.items() if not judged[name].refused
    }
    figures = {
        n: {"r2": j.r2, "r2_node_bias": j.r2_node_bias, "refused": j.refused}
        for n, j in judged.items()
    }
    return Made(used, figures, sum(encoding.nbytes for encoding in used.values()))


def relations_of(left: str, *rights: str) -> tuple[Relation, ...]:
    """Return the relations of one field with others."""
    return tuple(Relation(left=left, right=right) for right in rights)


RELATIONS: Mapping[str, tuple[Relation, ...]] = {
    "globo": relations_of("click_article_id", "click_region", "click_referrer_type"),
    "kuairand_pure": (
        *relations_of("author_id", "tab", "user_active_degree"),
        *relations_of("video_id", "onehot_feat1"),
        *relations_of("user_id", "tab"),
    ),
}
"""Pairs of fields whose statistics may help, by log."""


def without_crosses(schema: Schema) -> Schema:
    """Return the schema without declared crosses of ids."""
    return schema.model_copy(
        update={"fields": tuple(field for field in schema.fields if not isinstance(field, Cross))}
    )
