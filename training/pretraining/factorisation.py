"""Weighted dot-product factorisation of a graph's edge values by alternating least squares. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Edges:
    """Edges between numbered nodes: left and right int64 [E], value and weight float64 [E]."""

    left: Codes
    right: Codes
    value: Floats
    weight: Floats

    def where(self, chosen: NDArray[np.bool_]) -> Edges:
        """Return the edges where `chosen`, bool [E], is true."""
        return Edges(self.left[chosen], self.right[chosen], self.value[chosen], self.weight[chosen])


@dataclass(frozen=True)
class Factors:
    """value ≈ mean + b_u + b_v + <h_u, h_v>: the last column of left [N, d + 1] and right [M, d + 1] is the bias."""

    left: Floats
    right: Floats
    mean: float

    def predict(self, edges: Edges) -> Floats:
        """Return the modelled value of each edge, float64 [E]."""
        left, right = self.left[edges.left], self.right[edges.right]
        return (
            self.mean
            + left[:, -1]
            + right[:, -1]
            + np.einsum("ed,ed->e", left[:, :-1], right[:, :-1])
        )


def factorise(edges: Edges, start: Factors, l2: float, sweeps: int) -> Factors:
    """Minimise Σ w (a - mean - b_u - b_v - <h_u, h_v>)² + l2 · Σ (‖h‖² + b²) by alternating least squares.

    Each half sweep solves every node of one side exactly, the other side fixed; the objective never rises. A node
    without edges becomes zero. With d = 0 it is the model of node biases alone.

    Args:
        edges: at least one.
        start: initial factors; the left side is solved first, so only the right one matters.
        l2: ridge, in units of edge weight; positive.
        sweeps: full sweeps.
    """
    factors = replace(start, mean=float(np.average(edges.value, weights=edges.weight)))
    by_left, by_right = (
        np.argsort(edges.left, kind="stable"),
        np.argsort(edges.right, kind="stable"),
    )
    turned = Edges(edges.right, edges.left, edges.value, edges.weight)
    for _ in range(sweeps):
        factors = replace(
            factors, left=_solve(edges, by_left, factors.right, len(factors.left), factors.mean, l2)
        )
        factors = replace(
            factors,
            right=_solve(turned, by_right, factors.left, len(factors.right), factors.mean, l2),
        )
    return factors


_CHUNK = 65_536
"""Edges whose outer products are in memory at once, give or take one node's."""


def _solve(edges: Edges, order: Codes, other: Floats, nodes: int, mean: float, l2: float) -> Floats:
    """Ridge regression of each node's edges on the other side's vectors; `order` sorts the edges by node."""
    solved = np.zeros((nodes, other.shape[1]))
    present, starts = np.unique(edges.left[order], return_index=True)
    stops = np.append(starts[1:], len(order))
    first = 0
    while first < len(present):
        last = max(first + 1, int(np.searchsorted(stops, starts[first] + _CHUNK, side="right")))
        part = order[starts[first] : stops[last - 1]]
        solved[present[first:last]] = _ridge(
            edges, part, starts[first:last] - starts[first], other, mean, l2
        )
        first = last
    return solved


def _ridge(
    edges: Edges, part: Codes, starts: Codes, other: Floats, mean: float, l2: float
) -> Floats:
    partner = other[edges.right[part]]
    design = np.concatenate([partner[:, :-1], np.ones((len(part), 1))], axis=1)
    weighted = design * edges.weight[part, None]
    target = edges.value[part] - mean - partner[:, -1]
    gram = np.add.reduceat(weighted[:, :, None] * design[:, None, :], starts, axis=0) + l2 * np.eye(
        design.shape[1]
    )
    moment = np.add.reduceat(weighted * target[:, None], starts, axis=0)
    solved: Floats = np.linalg.solve(gram, moment[:, :, None])[:, :, 0].astype(np.float64)
    return solved
