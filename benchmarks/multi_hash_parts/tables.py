"""The small tables of one field as dense arrays, and the loops that compose the vectors of its ids and take gradients back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numba import njit
from numpy.typing import NDArray

from training.models.multi_hash.keys import combine, derived_keys, weight_keys
from training.models.multi_hash.settings import MultiHashSettings, row_width

DIM = 32
"""Width of an id's vector."""


@dataclass
class Tables:
    """Rows of the ids of one field.

    Attributes:
        settings: of the field; None for a table with a row for every id.
        own: bool [n], ids with rows of their own.
        rows: int32 [n, k], where each id's rows lie in `vectors`.
        vectors: float32 [R, w], rows in use.
        shares: int32 [n], where each id's weights lie in `weights`.
        weights: float32 [K, k]; no rows where nothing is weighted.
    """

    settings: MultiHashSettings | None
    own: NDArray[np.bool_]
    rows: NDArray[np.int32]
    vectors: NDArray[np.float32]
    shares: NDArray[np.int32]
    weights: NDArray[np.float32]

    @property
    def parameters(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What is learned."""
        return self.vectors, self.weights

    def compose(self, out: NDArray[np.float32]) -> None:
        """Write the vector of every id, float32 [n, DIM]."""
        _compose(out, *self._arguments(), self.vectors, self.weights)

    def take_back(
        self, slope: NDArray[np.float32], slopes: tuple[NDArray[np.float32], NDArray[np.float32]]
    ) -> None:
        """Add the gradient by every id's vector, float32 [n, DIM], to that by the parameters."""
        _take_back(slope, *self._arguments(), self.vectors, self.weights, *slopes)

    def served(self) -> NDArray[np.float32]:
        """Return the vector of every id as the exported graph composes it, float32 [n, DIM]."""
        if self.settings is None:
            return self.vectors
        weights = (
            tf.gather(self.weights, self.shares) if self.settings.combine == "weighted" else None
        )
        made: NDArray[np.float32] = combine(
            tf.gather(self.vectors, self.rows), self.settings, weights, tf.constant(self.own)
        ).numpy()
        return made

    def _arguments(self) -> tuple[Any, ...]:
        chunked = self.settings is not None and self.settings.combine == "concat"
        return self.rows, self.shares, self.own & (not chunked), chunked


def tables(
    settings: MultiHashSettings | None, name: str, ids: int, own: int, rng: np.random.Generator
) -> Tables:
    """Make the tables of a field, vectors uniform within ±DIM^-½ and weights within ±1, as the published runs start.

    Args:
        settings: of the field; None: a row for every id.
        name: of its vocabulary: another name has other collisions.
        ids: how many there are, the most frequent first.
        own: how many of them, from the first on, keep rows of their own.
        rng: draws the start.
    """
    keys, alone = np.arange(ids, dtype=np.int64), np.arange(ids) < own
    if settings is None:
        rows, width, shares, weights = (
            np.arange(ids, dtype=np.int32)[:, None],
            DIM,
            np.zeros(ids, np.int32),
            (0, 1),
        )
    else:
        rows, width = _places(derived_keys(keys, settings, name, alone)), row_width(settings, DIM)
        weighted = settings.combine == "weighted"
        shares = (
            _shares(weight_keys(keys, settings, name), alone)
            if weighted
            else np.zeros(ids, np.int32)
        )
        weights = (int(shares.max()) + 1 if weighted else 0, settings.hashes)
    limit = DIM**-0.5
    vectors = rng.uniform(-limit, limit, (int(rows.max()) + 1, width)).astype(np.float32)
    return Tables(
        settings, alone, rows, vectors, shares, rng.uniform(-1, 1, weights).astype(np.float32)
    )


def _places(keys: NDArray[np.int64]) -> NDArray[np.int32]:
    """Number distinct keys, in the shape of `keys`."""
    return np.unique(keys, return_inverse=True)[1].reshape(keys.shape).astype(np.int32)


def _shares(keys: NDArray[np.int64], alone: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number the weights of the ids that have any; the others point at row 0, which is not read for them."""
    shares = np.zeros(len(keys), np.int32)
    shares[~alone] = _places(keys[~alone])
    return shares


@njit(nogil=True, cache=True, fastmath=True)
def _compose(
    out: Any, rows: Any, shares: Any, single: Any, chunked: bool, vectors: Any, weights: Any
) -> None:
    width, weighted = vectors.shape[1], len(weights) > 0
    out[:] = 0
    for x in range(len(rows)):
        for j in range(1 if single[x] else rows.shape[1]):
            start = j * width if chunked else 0
            share = weights[shares[x], j] if weighted and not single[x] else np.float32(1)
            for c in range(width):
                out[x, start + c] += share * vectors[rows[x, j], c]


@njit(nogil=True, cache=True, fastmath=True)
def _take_back(
    slope: Any,
    rows: Any,
    shares: Any,
    single: Any,
    chunked: bool,
    vectors: Any,
    weights: Any,
    by_vectors: Any,
    by_weights: Any,
) -> None:
    width, weighted = vectors.shape[1], len(weights) > 0
    for x in range(len(rows)):
        for j in range(1 if single[x] else rows.shape[1]):
            start, row = j * width if chunked else 0, rows[x, j]
            has_share = weighted and not single[x]
            share, by_share = weights[shares[x], j] if has_share else np.float32(1), np.float32(0)
            for c in range(width):
                by_vectors[row, c] += share * slope[x, start + c]
                by_share += vectors[row, c] * slope[x, start + c]
            if has_share:
                by_weights[shares[x], j] += by_share
