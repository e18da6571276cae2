"""Trains GraphSAGE (Hamilton et al., NeurIPS 2017) with DGL on the edges of a file; runs in an
environment of its own.

`python pcf_gnn_dgl.py EDGES.npz DIM LAYERS FANOUT BATCH EPOCHS WORKERS` prints `{"edges_per_s":
[...], "loss": [...]}`, a number an epoch.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from typing import Any

import dgl
import numpy as np
import torch
from dgl.nn import SAGEConv


class Sage(torch.nn.Module):
    """Sparse embeddings, mean aggregation, ReLU between layers, a dot product with node biases."""

    def __init__(self, nodes: int, dim: int, layers: int) -> None:
        super().__init__()
        self.vectors = torch.nn.Embedding(nodes, dim, sparse=True)
        self.biases = torch.nn.Embedding(nodes, 1, sparse=True)
        self.layers = torch.nn.ModuleList(SAGEConv(dim, dim, "mean") for _ in range(layers))
        torch.nn.init.uniform_(self.vectors.weight, -0.2, 0.2)
        torch.nn.init.zeros_(self.biases.weight)

    def forward(self, nodes: torch.Tensor, pairs: Any, blocks: Any) -> torch.Tensor:
        """Return the value of each edge of `pairs`."""
        h = self.vectors(nodes)
        for number, (layer, block) in enumerate(zip(self.layers, blocks, strict=True)):
            h = layer(block, h)
            h = torch.relu(h) if number < len(self.layers) - 1 else h
        left, right = pairs.edges()
        bias = self.biases(pairs.ndata[dgl.NID])[:, 0]
        return (h[left] * h[right]).sum(1) + bias[left] + bias[right]


def main(
    path: str, dim: int, layers: int, fanout: int, batch: int, epochs: int, workers: int
) -> None:
    """Train and print."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    arrays = np.load(path)
    left, right = (torch.from_numpy(arrays[side].astype(np.int64)) for side in ("left", "right"))
    users, count = int(arrays["lefts"]), len(arrays["left"])
    graph = dgl.graph(
        (torch.cat([left, right + users]), torch.cat([right + users, left])),
        num_nodes=users + int(arrays["rights"]),
    )
    value, weight = (
        torch.from_numpy(arrays[name].astype(np.float32)) for name in ("value", "weight")
    )
    sampler = dgl.dataloading.as_edge_prediction_sampler(
        dgl.dataloading.NeighborSampler([fanout] * layers)
    )
    loader = dgl.dataloading.DataLoader(
        graph,
        torch.arange(count),
        sampler,
        batch_size=batch,
        shuffle=True,
        drop_last=False,
        num_workers=workers,
    )
    model = Sage(graph.num_nodes(), dim, layers)
    steps = [
        torch.optim.SparseAdam([model.vectors.weight, model.biases.weight], lr=5e-3),
        torch.optim.Adam(model.layers.parameters(), lr=5e-3),
    ]
    times, losses = [time.perf_counter()], []
    for _ in range(epochs):
        losses.append(float(np.mean([_step(model, steps, each, value, weight) for each in loader])))
        times.append(time.perf_counter())
    print(
        json.dumps(
            {
                "edges_per_s": [count / (after - before) for before, after in pairwise(times)],
                "loss": losses,
            }
        )
    )


def _step(
    model: Sage, steps: list[Any], batch: Any, value: torch.Tensor, weight: torch.Tensor
) -> float:
    nodes, pairs, blocks = batch
    edges = pairs.edata[dgl.EID]
    w = weight[edges]
    loss = (w * (model(nodes, pairs, blocks) - value[edges]) ** 2).sum() / w.sum()
    for step in steps:
        step.zero_grad()
    loss.backward()
    for step in steps:
        step.step()
    return float(loss.detach())


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
