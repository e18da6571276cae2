"""What pretraining on the cross graph leaves to the click model: p_uv of a pair, from frozen encodings or from a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Network = tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]
"""Kernels and biases of the CrossNet's layers, the first one first; empty: the dot product."""


@dataclass(frozen=True)
class Nodes:
    """One side of a relation: keys int64 [N] ascending, vectors float32 or float16 [N, d], biases of the same type [N]."""

    keys: NDArray[np.int64]
    vectors: NDArray[Any]
    biases: NDArray[Any]

    def positions(self, keys: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return where each key lies in `table()`, int32 in the shape of `keys`; 0 for an unknown key."""
        return key_positions(self.keys, keys)

    def table(self) -> NDArray[Any]:
        """Return [N + 1, d + 1]: each node's vector and, last, its bias; row 0 is zero, for unknown nodes."""
        known = np.concatenate([self.vectors, self.biases[:, None]], axis=1)
        return np.concatenate([np.zeros((1, known.shape[1]), known.dtype), known])

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.keys.nbytes + self.vectors.nbytes + self.biases.nbytes


@dataclass(frozen=True)
class PairTable:
    """A number of each pair: keys int64 [E] ascending (`pair_keys`), values float32 or float16 [E]; others get the mean."""

    keys: NDArray[np.int64]
    values: NDArray[Any]
    mean: float

    @classmethod
    def of(
        cls, pairs: NDArray[np.int64], values: NDArray[Any], mean: float, dtype: Any = np.float32
    ) -> Self:
        """Make the table of pairs of node keys int64 [E, 2], in any order, stored as `dtype`."""
        keys = pair_keys(pairs[:, 0], pairs[:, 1])
        order = np.argsort(keys, kind="stable")
        return cls(keys[order], values[order].astype(dtype), mean)

    def column(self, pairs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the value float32 [n] of pairs of node keys int64 [n, 2]."""
        found = self.with_mean()[key_positions(self.keys, pair_keys(pairs[:, 0], pairs[:, 1]))]
        return found.astype(np.float32)

    def with_mean(self) -> NDArray[Any]:
        """Return [E + 1] of the values' type: the mean and, after it, the values."""
        return np.concatenate([np.array([self.mean], self.values.dtype), self.values])

    @property
    def rows(self) -> int:
        """Pairs."""
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.keys.nbytes + self.values.nbytes


@dataclass(frozen=True)
class Encoding:
    """The encodings of one relation, the mean that its edges scatter around, its CrossNet, and corrections.

    `corrections` has what is to be added to p_uv for pairs that are kept by themselves; its mean, for all others, is 0.
    """

    left: Nodes
    right: Nodes
    mean: float
    network: Network = ()
    corrections: PairTable | None = None

    def column(self, pairs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return p_uv float32 [n] of pairs of node keys int64 [n, 2]."""
        sides = enumerate((self.left, self.right))
        left, right = (n.table()[n.positions(pairs[:, i])].astype(np.float32) for i, n in sides)
        values = _cross_values(left, right, self.mean, self.network)
        return values + self.corrections.column(pairs) if self.corrections else values

    @property
    def rows(self) -> int:
        """Nodes of both sides, and pairs with a correction."""
        return (
            len(self.left.keys)
            + len(self.right.keys)
            + (self.corrections.rows if self.corrections else 0)
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        network = sum(k.nbytes + b.nbytes for k, b in self.network)
        return (
            self.left.nbytes
            + self.right.nbytes
            + network
            + (self.corrections.nbytes if self.corrections else 0)
        )


def _cross_values(
    left: NDArray[np.float32], right: NDArray[np.float32], mean: float, network: Network
) -> NDArray[np.float32]:
    """Return what `compression.export.crosses.cross_value` gives in a graph, here without TensorFlow."""
    product = left[:, :-1] * right[:, :-1]
    crossed = (
        _perceptron(left[:, :-1], right[:, :-1], product, network)
        if network
        else product.sum(axis=1)
    )
    values: NDArray[np.float32] = crossed + left[:, -1] + right[:, -1] + np.float32(mean)
    return values


def _perceptron(
    left: NDArray[np.float32],
    right: NDArray[np.float32],
    product: NDArray[np.float32],
    network: Network,
) -> NDArray[np.float32]:
    x = np.concatenate([left, right, product], axis=1)
    for kernel, bias in network[:-1]:
        x = np.maximum(x @ kernel + bias, 0)
    kernel, bias = network[-1]
    known = (left != 0).any(axis=1) & (right != 0).any(axis=1)
    return np.where(known, (x @ kernel + bias)[:, 0], np.float32(0))


Encodings = Mapping[str, Encoding | PairTable]
"""By the relation's name; a relation without an entry gives a column of zeros."""


_PAIR_FACTOR = (
    -7046029254386353131
)  # odd, 2⁶⁴ / golden ratio as a signed number (Knuth's multiplicative hashing)


def pair_keys(left: Any, right: Any) -> Any:
    """Return int64 keys of pairs of node keys, arrays or tensors: factor · left + right modulo 2⁶⁴.

    Node keys are 64-bit fingerprints, so two of E pairs meet with a chance of about E² / 2⁶⁵.
    """
    return left * _PAIR_FACTOR + right


def key_positions(known: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return one more than the place of each key among ascending `known` ones, int32 in the shape of `keys`; 0 for unknown."""
    if not len(known):
        return np.zeros(keys.shape, np.int32)
    found = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[found] == keys, found + 1, 0).astype(np.int32)


def sorted_nodes(
    keys: NDArray[np.int64], vectors: NDArray[Any], biases: NDArray[Any], dtype: Any = np.float32
) -> Nodes:
    """Make `Nodes` of keys in any order, stored as `dtype`."""
    order = np.argsort(keys, kind="stable")
    return Nodes(keys[order], vectors[order].astype(dtype), biases[order].astype(dtype))
