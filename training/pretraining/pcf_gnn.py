"""Pretraining on the cross graph: node encodings whose dot product gives a pair's smoothed logit CTR.

The first, plain form of PCF-GNN (Li et al., SIGIR 2021): its weighted square loss with a dot product as CrossNet and
the node's own vector as encoder. The weight of an edge is log(1 + impressions).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from numpy.typing import NDArray

from features import keys as feature_keys
from features.errors import InputError
from features.schema import Relation
from training.models.cross_input import Encoding, Nodes, read_encodings, sorted_nodes, write_encodings
from training.pretraining.factorisation import Edges, Factors, explained, factorise
from training.settings import PretrainSettings

ENCODINGS = "encodings.npz"

COLUMNS = ("relation", "left", "right", "impressions", "logit")
"""What pretraining reads of a graph's edges."""


@dataclass(frozen=True)
class Fit:
    """How well one relation was fitted.

    Attributes:
        edges: all of them.
        heldout_edges: left out while the two figures below were measured.
        r2: weighted R² on the held-out edges.
        r2_node_bias: that of the model a = mean + b_u + b_v.
    """

    edges: int
    heldout_edges: int
    r2: float
    r2_node_bias: float


def pretrain(graph: Path, settings: PretrainSettings, out: Path, previous: Path | None = None) -> dict[str, float]:
    """Fit each relation of a cross graph and write `encodings.npz` and `metrics.json`.

    The held-out figures come from a fit that did not see those edges; what is written is then fitted to all edges.
    The same edges and settings give the same bytes.

    Args:
        graph: a `cross_graph` folder (docs/architecture.md), possibly without edges. Relations are named `left__right`.
        settings: width, sweeps, ridge, held-out share, seed.
        out: the folder to fill.
        previous: an earlier `encodings` folder, whose vectors the fit starts from.

    Returns:
        `<relation>/<figure>` for each figure of `Fit`; NaN where too few edges are held out.

    Raises:
        InputError: a file is missing or damaged, a column is missing, or a relation's name cannot be taken apart.
    """
    frame = _read(graph)
    before = read_encodings(previous / ENCODINGS) if previous else {}
    fitted = {r.name: _fit(part, r, settings, before.get(r.name)) for r, part in _relations(frame, graph)}
    out.mkdir(parents=True, exist_ok=True)
    write_encodings(out / ENCODINGS, {name: encoding for name, (encoding, _) in fitted.items()})
    fits = {name: asdict(fit) for name, (_, fit) in fitted.items()}
    (out / "metrics.json").write_text(json.dumps(_without_nan(fits), indent=1) + "\n", encoding="utf-8")
    return {f"{name}/{figure}": value for name, fit in fits.items() for figure, value in fit.items()}


def _relations(frame: pd.DataFrame, path: Path) -> Iterator[tuple[Relation, pd.DataFrame]]:
    """Each relation with its edges. Field names with `__` inside would make a name ambiguous."""
    for name, part in frame.groupby("relation", sort=True):
        fields = str(name).split("__")
        if len(fields) != 2:
            raise InputError(f"{path}: relation {name!r} does not read as left__right; rename fields with `__` in their name")
        yield Relation(left=fields[0], right=fields[1]), part


def _read(graph: Path) -> pd.DataFrame:
    """All edges of a graph by token, in `COLUMNS`."""
    try:
        relations = json.loads((graph / "graph.json").read_text(encoding="utf-8"))["relations"]
        nodes = pq.read_table(graph / "nodes.parquet", columns=["field", "token"]).to_pandas()
        tokens = {field: part["token"].to_numpy() for field, part in nodes.groupby("field")}
        parts = [_edges_of(graph / "edges" / f"relation={name}", name, told, tokens) for name, told in relations.items()]
        return pd.concat(parts) if parts else pd.DataFrame(columns=list(COLUMNS))
    except (OSError, KeyError, json.JSONDecodeError, pa.ArrowInvalid) as error:
        raise InputError(f"{graph}: cannot read the edges ({error}); run `cross_graph` again") from error


def _edges_of(folder: Path, name: str, told: Mapping[str, Any], tokens: Mapping[str, NDArray[np.object_]]) -> pd.DataFrame:
    parts = [pq.read_table(path, columns=list(COLUMNS[1:])).to_pandas() for path in sorted(folder.glob("part-*.parquet"))]
    frame = pd.concat(parts)
    if frame.empty:
        return frame.assign(relation=name)
    ends = {side: tokens[told[side]][frame[side].to_numpy()] for side in ("left", "right")}
    return frame.assign(relation=name, **ends)


def _fit(frame: pd.DataFrame, relation: Relation, settings: PretrainSettings, before: Encoding | None) -> tuple[Encoding, Fit]:
    frame = frame.sort_values(["left", "right"], ignore_index=True)
    (left, left_keys), (right, right_keys) = _nodes(relation.left, frame["left"]), _nodes(relation.right, frame["right"])
    edges = Edges(left, right, frame["logit"].to_numpy(np.float64), np.log1p(frame["impressions"].to_numpy(np.float64)))
    start = Factors(np.zeros((len(left_keys), settings.dim + 1)), _start(right_keys, settings, before), 0.0)
    final = factorise(edges, start, settings.l2, settings.epochs)
    sides = (_side(left_keys, final.left), _side(right_keys, final.right))
    return Encoding(*sides, mean=final.mean), _measure(edges, start, settings)


def _side(keys: NDArray[np.int64], factors: NDArray[np.float64]) -> Nodes:
    return sorted_nodes(keys, factors[:, :-1], factors[:, -1])


def _measure(edges: Edges, start: Factors, settings: PretrainSettings) -> Fit:
    heldout = np.random.default_rng(settings.seed).random(len(edges.value)) < settings.heldout_fraction
    if heldout.all() or not heldout.any():
        return Fit(len(edges.value), 0, math.nan, math.nan)
    seen, unseen = edges.where(~heldout), edges.where(heldout)
    biases = Factors(np.zeros((len(start.left), 1)), np.zeros((len(start.right), 1)), 0.0)
    full, plain = (factorise(seen, s, settings.l2, settings.epochs) for s in (start, biases))
    return Fit(len(edges.value), int(heldout.sum()), explained(unseen, full), explained(unseen, plain))


def _start(keys: NDArray[np.int64], settings: PretrainSettings, before: Encoding | None) -> NDArray[np.float64]:
    """Initial right-hand vectors [N, d + 1]: those of before where there are any, small random ones elsewhere."""
    start = np.random.default_rng(settings.seed).normal(scale=_START_SCALE, size=(len(keys), settings.dim + 1))
    if before is None or before.right.vectors.shape[1] != settings.dim:
        return start
    positions = before.right.positions(keys)
    return np.where((positions > 0)[:, None], before.right.table()[positions], start)


_START_SCALE = 0.1


def _nodes(field: str, tokens: pd.Series) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the nodes of one side by their token: codes int64 [E], keys int64 [N]."""
    codes, distinct = pd.factorize(tokens, sort=True)
    keys: NDArray[np.int64] = feature_keys.keys(field, tf.constant(distinct.to_numpy(object), tf.string)).numpy()
    return codes.astype(np.int64), keys


def _without_nan(fits: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    return {name: {figure: v if math.isfinite(v) else None for figure, v in fit.items()} for name, fit in fits.items()}
