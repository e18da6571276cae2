"""Frozen encodings of the cross graph as inputs of a click model: p_uv of a pair of nodes.

Pretraining leaves for each relation either encodings of its nodes or a table of its pairs. They are
stored in `encodings.npz`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError
from training.data.arrays import Arrays, read_arrays, write_arrays

Network = tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]
"""Kernels and biases of the CrossNet's layers, in order; no layers: the dot product."""

# Odd, 2⁶⁴ / golden ratio as a signed number (Knuth's multiplicative hashing).
_PAIR_FACTOR = -7046029254386353131


@dataclass(frozen=True)
class Nodes:
    """One side of a relation.

    Attributes:
        keys: int64 [N], ascending.
        vectors: float32 or float16 [N, d].
        biases: of the same type [N].
    """

    keys: NDArray[np.int64]
    vectors: NDArray[Any]
    biases: NDArray[Any]

    def positions(self, keys: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the rows of keys in `table()`, int32 in their shape; 0 for an unknown key."""
        return key_positions(self.keys, keys)

    def table(self) -> NDArray[Any]:
        """Return [N + 1, d + 1]: vectors and biases, after a zero row for unknown nodes."""
        known = np.concatenate([self.vectors, self.biases[:, None]], axis=1)
        return np.concatenate([np.zeros((1, known.shape[1]), known.dtype), known])

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.keys.nbytes + self.vectors.nbytes + self.biases.nbytes


@dataclass(frozen=True)
class PairTable:
    """A number for each pair of nodes, and a mean for all other pairs.

    Attributes:
        keys: int64 [E], ascending `pair_keys`.
        values: float32 or float16 [E].
        mean: the value of pairs that are not in the table.
    """

    keys: NDArray[np.int64]
    values: NDArray[Any]
    mean: float

    @classmethod
    def of(
        cls, pairs: NDArray[np.int64], values: NDArray[Any], mean: float, dtype: Any = np.float32
    ) -> Self:
        """Return the table of pairs of node keys int64 [E, 2], in any order, stored as `dtype`."""
        keys = pair_keys(pairs[:, 0], pairs[:, 1])
        order = np.argsort(keys, kind="stable")
        return cls(keys[order], values[order].astype(dtype), mean)

    def column(self, pairs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the values float32 [n] of pairs of node keys int64 [n, 2]."""
        positions = key_positions(self.keys, pair_keys(pairs[:, 0], pairs[:, 1]))
        return self.with_mean()[positions].astype(np.float32)

    def with_mean(self) -> NDArray[Any]:
        """Return the mean followed by the values, [E + 1] in the values' type."""
        return np.concatenate([np.array([self.mean], self.values.dtype), self.values])

    @property
    def rows(self) -> int:
        """Number of pairs."""
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.keys.nbytes + self.values.nbytes


@dataclass(frozen=True)
class Encoding:
    """The encodings of one relation: p_uv = CrossNet(left, right) + biases + mean + correction.

    Attributes:
        left: the nodes of the left field.
        right: the nodes of the right field.
        mean: the mean of the relation's edges.
        network: the CrossNet.
        corrections: what to add to p_uv for pairs that are stored individually; its mean is 0.
    """

    left: Nodes
    right: Nodes
    mean: float
    network: Network = ()
    corrections: PairTable | None = None

    def column(self, pairs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return p_uv float32 [n] of pairs of node keys int64 [n, 2].

        Equals `compression.export.served_model.cross_value`, which computes it in a graph.
        """
        # 1. The vectors and biases of both nodes; an unknown node has zeros.
        sides = enumerate((self.left, self.right))
        left, right = (n.table()[n.positions(pairs[:, i])].astype(np.float32) for i, n in sides)
        vectors, others = left[:, :-1], right[:, :-1]
        product = vectors * others
        # 2. The dot product, or the CrossNet of both vectors and their product.
        crossed = product.sum(axis=1)
        if self.network:
            x = np.concatenate([vectors, others, product], axis=1)
            for kernel, bias in self.network[:-1]:
                x = np.maximum(x @ kernel + bias, 0)
            kernel, bias = self.network[-1]
            # An unknown node has the zero vector; the dot product is then 0, and so must be the
            # output of the network, in spite of its biases.
            known = (vectors != 0).any(axis=1) & (others != 0).any(axis=1)
            crossed = np.where(known, (x @ kernel + bias)[:, 0], np.float32(0))
        # 3. The other terms.
        values: NDArray[np.float32] = crossed + left[:, -1] + right[:, -1] + np.float32(self.mean)
        return values + self.corrections.column(pairs) if self.corrections else values

    @property
    def rows(self) -> int:
        """Nodes of both sides, and pairs with a correction."""
        corrected = self.corrections.rows if self.corrections else 0
        return len(self.left.keys) + len(self.right.keys) + corrected

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        network = sum(kernel.nbytes + bias.nbytes for kernel, bias in self.network)
        corrections = self.corrections.nbytes if self.corrections else 0
        return self.left.nbytes + self.right.nbytes + network + corrections


Encodings = Mapping[str, Encoding | PairTable]
"""By the relation's name; a relation without an entry gives a column of zeros."""


def pair_keys(left: Any, right: Any) -> Any:
    """Return int64 keys of pairs of node keys, arrays or tensors: factor · left + right mod 2⁶⁴.

    Node keys are 64-bit fingerprints, so two of E pairs collide with probability about E² / 2⁶⁵.
    """
    return left * _PAIR_FACTOR + right


def key_positions(known: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return 1 + the position of each key in ascending `known` ones, int32; 0 for unknown keys."""
    if not len(known):
        return np.zeros(keys.shape, np.int32)
    # A key above all known ones has the position len(known), which is no index.
    positions = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[positions] == keys, positions + 1, 0).astype(np.int32)


def sorted_nodes(
    keys: NDArray[np.int64], vectors: NDArray[Any], biases: NDArray[Any], dtype: Any = np.float32
) -> Nodes:
    """Return `Nodes` of keys in any order, stored as `dtype`."""
    order = np.argsort(keys, kind="stable")
    return Nodes(keys[order], vectors[order].astype(dtype), biases[order].astype(dtype))


def write_encodings(path: Path, encodings: Encodings) -> None:
    """Write encodings to an `encodings.npz`."""
    arrays: Arrays = {}
    for name, encoding in encodings.items():
        arrays[f"{name}/mean"] = np.array(encoding.mean, np.float32)
        if isinstance(encoding, PairTable):
            arrays |= _pair_arrays(name, encoding)
            continue
        for side, nodes in (("left", encoding.left), ("right", encoding.right)):
            for part in ("keys", "vectors", "biases"):
                arrays[f"{name}/{side}_{part}"] = getattr(nodes, part)
        for i, (kernel, bias) in enumerate(encoding.network):
            arrays |= {f"{name}/network/{i}/kernel": kernel, f"{name}/network/{i}/bias": bias}
        if encoding.corrections:
            arrays |= _pair_arrays(f"{name}/corrections", encoding.corrections)
    write_arrays(path, arrays)


def read_encodings(path: Path) -> dict[str, Encoding | PairTable]:
    """Read an `encodings.npz`; raises InputError if it is missing, damaged or incomplete."""
    arrays = read_arrays(path)
    names = sorted(name.removesuffix("/mean") for name in arrays if name.endswith("/mean"))
    try:
        return {name: _read_relation(arrays, name) for name in names}
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"{path}: incomplete encodings ({error}); run `pretrain` again") from error


def _pair_arrays(name: str, table: PairTable) -> Arrays:
    return {f"{name}/pair_keys": table.keys, f"{name}/pair_values": table.values}


def _read_relation(arrays: Arrays, name: str) -> Encoding | PairTable:
    mean = float(arrays[f"{name}/mean"])
    if f"{name}/pair_keys" in arrays:
        return _read_pairs(arrays, name, mean)
    corrections = None
    if f"{name}/corrections/pair_keys" in arrays:
        corrections = _read_pairs(arrays, f"{name}/corrections", 0.0)
    network: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    while (kernel := arrays.get(f"{name}/network/{len(network)}/kernel")) is not None:
        network.append((kernel, arrays[f"{name}/network/{len(network)}/bias"]))
    left, right = (_read_nodes(arrays, f"{name}/{side}") for side in ("left", "right"))
    return Encoding(left, right, mean, tuple(network), corrections)


def _read_pairs(arrays: Arrays, name: str, mean: float) -> PairTable:
    keys, values = arrays[f"{name}/pair_keys"], arrays[f"{name}/pair_values"]
    if keys.shape != values.shape:
        raise ValueError(f"{name}: {len(keys)} pairs, {len(values)} values")
    return PairTable(keys, values, mean)


def _read_nodes(arrays: Arrays, name: str) -> Nodes:
    keys, vectors, biases = (arrays[f"{name}_{part}"] for part in ("keys", "vectors", "biases"))
    if vectors.ndim != 2 or not len(keys) == len(vectors) == len(biases):
        raise ValueError(f"{name}: {len(keys)} keys, vectors {vectors.shape}, {len(biases)} biases")
    # Sorted again, because lookups need ascending keys whatever wrote the file.
    return sorted_nodes(keys, vectors, biases, vectors.dtype)
