"""Edges a second of training: PCF-GNN against DGL's GraphSAGE on the same edges, layers, fan-outs
and batches.
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness.environments import interpreter
from threadpoolctl import threadpool_limits

from features.schema import Relation
from training.pretraining.graph import Adjacency, CrossGraph, RelationEdges
from training.pretraining.parameters import SparseAdam, initial_parameters
from training.pretraining.pcf_gnn import PcfGnn
from training.pretraining.settings import PretrainSettings
from training.pretraining.task import targets

_WORKER = Path(__file__).parent / "pcf_gnn_dgl.py"
_RELATION = Relation(left="user", right="item")


@dataclass(frozen=True)
class Load:
    """What both train on: `edges` between `users` and `items`, both drawn by a power law, and the
    shape of the model.
    """

    users: int = 200_000
    items: int = 50_000
    edges: int = 1_000_000
    dim: int = 16
    layers: int = 1
    fanout: int = 10
    batch: int = 4096
    epochs: int = 3


def throughput(load: Load, root: Path) -> dict[str, Any]:
    """Return the median edges a second of ours and of DGL, the better of sampling between steps and
    in a process of its own.

    Args:
        load: what is trained.
        root: where DGL's environment and the edges go.

    Raises:
        NoEnvironment: DGL could not be installed.
    """
    python, graph = interpreter("dgl", root / "environments"), drawn_graph(load)
    results = {
        "ours": ours(load, graph),
        **{f"dgl_{n}_workers": dgl(load, graph, python, root, n) for n in (0, 1)},
    }
    best = {name: median(each) for name, each in results.items()}
    peer = max(rate for name, rate in best.items() if name != "ours")
    return {
        "load": asdict(load),
        "edges_per_s": {"ours": best["ours"], "dgl": peer},
        "epochs": results,
    }


def ours(load: Load, graph: CrossGraph) -> dict[str, list[float]]:
    """Return edges a second and mean loss of each epoch, after a batch to compile by."""
    encoder = {
        "layers": load.layers,
        "fanouts": (load.fanout,) * max(1, load.layers),
        "own_dropout": 0.0,
    }
    results = {"dim": load.dim, "batch_size": load.batch, "l2": 0.0, "encoder": encoder}
    settings, adjacency = PretrainSettings.model_validate(results), Adjacency.of(graph)
    edges = {name: targets(each, settings) for name, each in graph.edges.items()}
    model, parameters = (
        PcfGnn(adjacency, edges, settings),
        initial_parameters(graph, adjacency, settings),
    )
    warm = next(model.batches(parameters, 0))
    gradients = model.gradients(parameters, warm)
    optimizer = SparseAdam(parameters, settings.learning_rate)
    optimizer.step(gradients.rows, gradients.dense)
    rates, losses = [], []
    with threadpool_limits(1, "blas"):
        for epoch in range(1, load.epochs + 1):
            started = time.perf_counter()
            losses.append(model.train_epoch(parameters, optimizer, epoch))
            rates.append(load_edges(graph) / (time.perf_counter() - started))
    return {"edges_per_s": rates, "loss": losses}


def dgl(
    load: Load, graph: CrossGraph, python: Path, folder: Path, workers: int
) -> dict[str, list[float]]:
    """Return the same of DGL, with so many processes that sample (0: it samples between steps)."""
    edges = graph.edges[_RELATION.name]
    each = targets(edges, PretrainSettings())
    value = (each.value - each.mean()) / each.spread()
    sides = {"lefts": len(graph.keys["user"]), "rights": len(graph.keys["item"])}
    path = folder / "edges.npz"
    np.savez(path, left=edges.left, right=edges.right, value=value, weight=each.weight, **sides)
    shape = (load.dim, load.layers, load.fanout, load.batch, load.epochs, workers)
    done = subprocess.run(
        [str(python), str(_WORKER), str(path), *map(str, shape)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"DGL: …{done.stderr[-800:]}")
    results: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return results


def drawn_graph(load: Load) -> CrossGraph:
    """Return a graph of `load.edges` draws (repeats count once) whose logits have biases and a
    rank-2 pattern.
    """
    draw = np.random.default_rng(0)
    pairs = np.stack(
        [_power_law(draw, count, load.edges) for count in (load.users, load.items)], axis=1
    )
    left, right = np.unique(pairs, axis=0).T.astype(np.int32)
    u, v, b, c = (
        draw.normal(size=shape)
        for shape in ((load.users, 2), (load.items, 2), load.users, load.items)
    )
    logit = (
        b[left] + c[right] + np.sum(u[left] * v[right], axis=1) + 0.3 * draw.normal(size=len(left))
    )
    impressions = draw.integers(3, 50, len(left))
    keys = {
        "user": np.arange(load.users, dtype=np.int64),
        "item": np.arange(load.items, dtype=np.int64),
    }
    return CrossGraph(
        keys,
        {_RELATION.name: RelationEdges(_RELATION, left, right, impressions, {"logit": logit})},
        None,
        None,
        1,
        24,
    )


def load_edges(graph: CrossGraph) -> int:
    """Return how many edges there are."""
    return len(graph.edges[_RELATION.name])


def median(results: dict[str, list[float]]) -> int:
    """Return the median rate of the epochs after the first."""
    return round(float(np.median(results["edges_per_s"][1:] or results["edges_per_s"])))


def _power_law(draw: np.random.Generator, count: int, size: int) -> Any:
    return (count * draw.random(size) ** 2).astype(np.int64)
