"""What pretraining on the cross graph leaves to the click model: p_uv of a pair, from frozen encodings or from a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from features.errors import InputError
from training.arrays import Arrays, read_arrays, write_arrays

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
class Encoding:
    """The encodings of one relation, the mean that its edges scatter around, and its CrossNet."""

    left: Nodes
    right: Nodes
    mean: float
    network: Network = ()

    def column(self, pairs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return p_uv float32 [n] of pairs of node keys int64 [n, 2]."""
        left, right = (tf.constant(n.table()[n.positions(pairs[:, i])]) for i, n in enumerate((self.left, self.right)))
        values: NDArray[np.float32] = cross_value(left, right, self.mean, self.network).numpy()
        return values

    @property
    def rows(self) -> int:
        """Nodes of both sides."""
        return len(self.left.keys) + len(self.right.keys)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.left.nbytes + self.right.nbytes + sum(k.nbytes + b.nbytes for k, b in self.network)


@dataclass(frozen=True)
class PairTable:
    """The statistic itself: keys int64 [E] ascending, of pairs (`pair_keys`), their values float32 [E]; others get the mean."""

    keys: NDArray[np.int64]
    values: NDArray[np.float32]
    mean: float

    def column(self, pairs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the value float32 [n] of pairs of node keys int64 [n, 2]."""
        return self.with_mean()[key_positions(self.keys, pair_keys(pairs[:, 0], pairs[:, 1]))]

    def with_mean(self) -> NDArray[np.float32]:
        """Return float32 [E + 1]: the mean and, after it, the values."""
        return np.concatenate([np.array([self.mean], np.float32), self.values])

    @property
    def rows(self) -> int:
        """Pairs."""
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.keys.nbytes + self.values.nbytes


Encodings = Mapping[str, Encoding | PairTable]
"""By the relation's name; a relation without an entry gives a column of zeros."""


_PAIR_FACTOR = -7046029254386353131  # odd, 2⁶⁴ / golden ratio as a signed number (Knuth's multiplicative hashing)


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


def cross_value(left: tf.Tensor, right: tf.Tensor, mean: tf.Tensor | float, network: Sequence[Any] = ()) -> tf.Tensor:
    """Return p_uv = mean + b_u + b_v + CrossNet(h_u, h_v) of pairs of nodes.

    Args:
        left: float [b, d + 1], rows of `Nodes.table()` of the left nodes (zero: unknown).
        right: float [b, d + 1], the same of the right nodes.
        mean: the relation's mean statistic.
        network: the CrossNet's kernels and biases; none: the dot product. A pair with an unknown node gets no CrossNet term:
            the mean, and the other node's bias.

    Returns:
        float32 [b].
    """
    left, right = tf.cast(left, tf.float32), tf.cast(right, tf.float32)
    product = left[:, :-1] * right[:, :-1]
    crossed = _perceptron(left[:, :-1], right[:, :-1], product, network) if network else tf.reduce_sum(product, axis=1)
    return crossed + left[:, -1] + right[:, -1] + tf.cast(mean, tf.float32)


def _perceptron(left: tf.Tensor, right: tf.Tensor, product: tf.Tensor, network: Sequence[Any]) -> tf.Tensor:
    x = tf.concat([left, right, product], axis=1)
    for kernel, bias in network[:-1]:
        x = tf.nn.relu(tf.matmul(x, kernel) + bias)
    kernel, bias = network[-1]
    known = tf.reduce_any(left != 0, axis=1) & tf.reduce_any(right != 0, axis=1)
    return tf.where(known, (tf.matmul(x, kernel) + bias)[:, 0], 0.0)


def read_encodings(path: Path) -> dict[str, Encoding | PairTable]:
    """Read an `encodings.npz`; no relation in it gives an empty mapping.

    Raises:
        InputError: the file is missing or damaged, or an array of a relation is absent or of the wrong shape.
    """
    arrays = read_arrays(path)
    names = sorted(name.removesuffix("/mean") for name in arrays if name.endswith("/mean"))
    try:
        return {name: _relation(arrays, name) for name in names}
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"{path}: incomplete encodings ({error}); run `pretrain` again") from error


def write_encodings(path: Path, encodings: Encodings) -> None:
    """Write encodings as `read_encodings` reads them."""
    arrays: Arrays = {}
    for name, encoding in encodings.items():
        arrays[f"{name}/mean"] = np.array(encoding.mean, np.float32)
        arrays |= _table_arrays(name, encoding) if isinstance(encoding, PairTable) else _arrays(name, encoding)
    write_arrays(path, arrays)


def sorted_nodes(keys: NDArray[np.int64], vectors: NDArray[Any], biases: NDArray[Any], dtype: Any = np.float32) -> Nodes:
    """Make `Nodes` of keys in any order, stored as `dtype`."""
    order = np.argsort(keys, kind="stable")
    return Nodes(keys[order], vectors[order].astype(dtype), biases[order].astype(dtype))


def _table_arrays(name: str, table: PairTable) -> Arrays:
    return {f"{name}/pair_keys": table.keys, f"{name}/pair_values": table.values}


def _arrays(name: str, encoding: Encoding) -> Arrays:
    arrays: Arrays = {}
    for side, nodes in (("left", encoding.left), ("right", encoding.right)):
        arrays |= {f"{name}/{side}_{part}": getattr(nodes, part) for part in ("keys", "vectors", "biases")}
    for i, (kernel, bias) in enumerate(encoding.network):
        arrays |= {f"{name}/network/{i}/kernel": kernel, f"{name}/network/{i}/bias": bias}
    return arrays


def _relation(arrays: Arrays, name: str) -> Encoding | PairTable:
    mean = float(arrays[f"{name}/mean"])
    if f"{name}/pair_keys" in arrays:
        keys, values = arrays[f"{name}/pair_keys"], arrays[f"{name}/pair_values"]
        if keys.shape != values.shape:
            raise ValueError(f"{name}: {len(keys)} pairs, {len(values)} values")
        return PairTable(keys, values, mean)
    return Encoding(_nodes(arrays, name, "left"), _nodes(arrays, name, "right"), mean, _network(arrays, name))


def _nodes(arrays: Arrays, relation: str, side: str) -> Nodes:
    keys, vectors, biases = (arrays[f"{relation}/{side}_{part}"] for part in ("keys", "vectors", "biases"))
    if vectors.ndim != 2 or not len(keys) == len(vectors) == len(biases):
        raise ValueError(f"{relation}/{side}: {len(keys)} keys, vectors {vectors.shape}, {len(biases)} biases")
    return sorted_nodes(keys, vectors, biases, vectors.dtype)


def _network(arrays: Arrays, relation: str) -> Network:
    layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    while (kernel := arrays.get(f"{relation}/network/{len(layers)}/kernel")) is not None:
        layers.append((kernel, arrays[f"{relation}/network/{len(layers)}/bias"]))
    return tuple(layers)
