"""The click model of the published table, learned by AdamW: sigmoid of the dot product of a user's and an item's vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from multi_hash_parts.movielens import Rows
from multi_hash_parts.tables import DIM, Tables
from training.evaluation.metrics import auc


@dataclass(frozen=True)
class Recipe:
    """How a system is learned: passes, examples a step, and AdamW's rate and decoupled weight decay."""

    epochs: int = 30
    batch: int = 4096
    learning_rate: float = 1e-3
    decay: float = 0.01


class Adam:
    """AdamW (Loshchilov and Hutter, ICLR 2019), dense, β .9 and .999, ε 1e-8, over one array."""

    def __init__(self, weights: NDArray[np.float32]) -> None:
        self.weights, self.slope = weights, np.zeros_like(weights)
        self._first, self._second, self._steps = np.zeros_like(weights), np.zeros_like(weights), 0

    def step(self, recipe: Recipe) -> None:
        """Take one step along `slope` and clear it."""
        self._steps += 1
        flat = (
            array.reshape(-1) for array in (self.weights, self.slope, self._first, self._second)
        )
        _adam(*flat, self._steps, np.float32(recipe.learning_rate), np.float32(recipe.decay))


def learn(
    user: Tables,
    item: Tables,
    learned: Rows,
    measured: Rows,
    recipe: Recipe,
    rng: np.random.Generator,
) -> list[float]:
    """Learn two fields' tables in place.

    Args:
        user: tables of the users.
        item: tables of the items.
        learned: what is learned from, shuffled anew for every pass.
        measured: what the AUC is measured on.
        recipe: how.
        rng: shuffles.

    Returns:
        the AUC after every pass.
    """
    fields, aucs = (user, item), []
    optimizers = [[Adam(part) for part in field.parameters] for field in fields]
    vectors = [np.zeros((len(field.rows), DIM), np.float32) for field in fields]
    for _ in range(recipe.epochs):
        order = rng.permutation(len(learned.label))
        for start in range(0, len(order), recipe.batch):
            _compose_all(fields, vectors)
            slopes = [np.zeros_like(v) for v in vectors]
            batch = order[start : start + recipe.batch]
            _slopes(batch, learned.user, learned.item, learned.label, *vectors, *slopes)
            for field, slope, pair in zip(fields, slopes, optimizers, strict=True):
                _step(field, slope, pair, recipe)
        _compose_all(fields, vectors)
        aucs.append(scored(measured, vectors))
    return aucs


def scored(rows: Rows, vectors: Sequence[NDArray[np.float32]]) -> float:
    """Return the AUC of the dot products of these vectors of all users and all items."""
    return auc(rows.label, np.einsum("nd,nd->n", vectors[0][rows.user], vectors[1][rows.item]))


def _step(
    field: Tables, slope: NDArray[np.float32], optimizers: list[Adam], recipe: Recipe
) -> None:
    field.take_back(slope, (optimizers[0].slope, optimizers[1].slope))
    for optimizer in optimizers:
        optimizer.step(recipe)


def _compose_all(fields: tuple[Tables, Tables], vectors: list[NDArray[np.float32]]) -> None:
    for field, out in zip(fields, vectors, strict=True):
        field.compose(out)


@njit(nogil=True, cache=True, fastmath=True)
def _slopes(
    rows: Any, users: Any, items: Any, labels: Any, user: Any, item: Any, by_user: Any, by_item: Any
) -> None:
    """Add the gradient of the batch's mean log loss by the vectors of all users and items."""
    for row in rows:
        u, i, logit = users[row], items[row], np.float32(0)
        for c in range(user.shape[1]):
            logit += user[u, c] * item[i, c]
        slope = (np.float32(1) / (np.float32(1) + np.exp(-logit)) - labels[row]) / np.float32(
            len(rows)
        )
        for c in range(user.shape[1]):
            by_user[u, c] += slope * item[i, c]
            by_item[i, c] += slope * user[u, c]


@njit(nogil=True, cache=True, fastmath=True)
def _adam(
    weights: Any, slope: Any, first: Any, second: Any, steps: int, rate: Any, decay: Any
) -> None:
    one, least = np.float32(1), np.float32(1e-8)
    rate_now, scale = rate / np.float32(1 - 0.9**steps), one / np.float32(1 - 0.999**steps)
    for i in range(len(weights)):
        first[i] += np.float32(0.1) * (slope[i] - first[i])
        second[i] += np.float32(0.001) * (slope[i] * slope[i] - second[i])
        weights[i] -= (
            rate_now * first[i] / (np.sqrt(second[i] * scale) + least) + rate * decay * weights[i]
        )
        slope[i] = 0
