"""PyTorch's `Embedding(sparse=True)` with `SparseAdam`: a table of fixed size, only the batch's
rows are touched.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from elastic_peers.worker import Step
from elastic_peers.workload import Traffic, Workload, initial_layers, initial_vectors


class TorchSparse:
    """One table and its moments for all MLPs, each with a fused Adam of its own."""

    def __init__(self, work: Workload, drawn: Traffic) -> None:
        self._work = work
        self._ids = [torch.from_numpy(ids).reshape(work.batch, work.fields) for ids in drawn.ids]
        self._labels = [torch.from_numpy(label) for label in drawn.labels]
        vectors = torch.from_numpy(initial_vectors(work, work.rows))
        self._embedding = nn.Embedding(work.rows, work.dim, sparse=True, _weight=vectors)
        self._sparse = torch.optim.SparseAdam(self._embedding.parameters(), lr=1e-3)

    def step(self, mlp: str) -> Step:
        """Return the whole step, eager: torch.compile does not compile sparse gradients."""
        model, adam = self._mlp(mlp)

        def step(number: int) -> float:
            """Take one step; return its loss."""
            self._sparse.zero_grad()
            adam.zero_grad()
            vectors = self._embedding(self._ids[number]).flatten(1)
            loss = _mean_loss(model(vectors).squeeze(1), self._labels[number])
            loss.backward()
            self._sparse.step()
            adam.step()
            return loss.item()

        self._touch_moments(step)
        return step

    def dense(self, mlp: str) -> Step:
        """Return the dense part of an MLP, the gradient of its input included."""
        model, adam = self._mlp(mlp)
        inputs = (
            torch.empty(self._work.batch, self._work.fields * self._work.dim)
            .uniform_(-0.01, 0.01)
            .requires_grad_()
        )

        def step(number: int) -> float:
            """Take one step; return its loss."""
            inputs.grad = None
            adam.zero_grad()
            loss = _mean_loss(model(inputs).squeeze(1), self._labels[number])
            loss.backward()
            adam.step()
            return loss.item()

        return step

    def _mlp(self, mlp: str) -> tuple[nn.Module, torch.optim.Optimizer]:
        layers = initial_layers(self._work, mlp)
        linear = [nn.Linear(*weights.shape) for weights, _ in layers]
        with torch.no_grad():
            for module, (weights, bias) in zip(linear, layers, strict=True):
                module.weight.copy_(torch.from_numpy(weights.T.copy()))
                module.bias.copy_(torch.from_numpy(bias))
        hidden = [part for module in linear[:-1] for part in (module, nn.ReLU())]
        model = nn.Sequential(*hidden, linear[-1])
        return model, torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def _touch_moments(self, step: Callable[[int], float]) -> None:
        """Write every page of the moments, which the first step allocates, so that no measured step
        waits for one.
        """
        step(0)
        for state in self._sparse.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name].mul_(1)


def _mean_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits, labels)
