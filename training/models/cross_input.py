"""Frozen encodings of the cross graph, and the number p_uv that they put into the click model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from features.errors import InputError
from training.arrays import Arrays, read_arrays, write_arrays


@dataclass(frozen=True)
class Nodes:
    """One side of a relation: keys int64 [N] ascending, vectors float32 [N, d], biases float32 [N]."""

    keys: NDArray[np.int64]
    vectors: NDArray[np.float32]
    biases: NDArray[np.float32]

    def positions(self, keys: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return where each key lies in `table()`, int32 in the shape of `keys`; 0 for an unknown key."""
        if not len(self.keys):
            return np.zeros(keys.shape, np.int32)
        found = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[found] == keys, found + 1, 0).astype(np.int32)

    def table(self) -> NDArray[np.float32]:
        """Return float32 [N + 1, d + 1]: each node's vector and, last, its bias; row 0 is zero, for unknown nodes."""
        known = np.concatenate([self.vectors, self.biases[:, None]], axis=1)
        return np.concatenate([np.zeros((1, known.shape[1]), np.float32), known])


@dataclass(frozen=True)
class Encoding:
    """The encodings of one relation and the mean logit that its edges scatter around."""

    left: Nodes
    right: Nodes
    mean: float


Encodings = Mapping[str, Encoding]
"""Encodings by the relation's name; a relation without an entry gives a column of zeros."""


def cross_value(left: tf.Tensor, right: tf.Tensor, mean: tf.Tensor | float) -> tf.Tensor:
    """Return p_uv = mean + b_u + b_v + <h_u, h_v> of pairs of nodes.

    Args:
        left: float32 [b, d + 1], rows of `Nodes.table()` of the left nodes (zero: unknown).
        right: float32 [b, d + 1], the same of the right nodes.
        mean: the relation's mean logit.

    Returns:
        float32 [b].
    """
    product = tf.reduce_sum(left[:, :-1] * right[:, :-1], axis=1)
    return product + left[:, -1] + right[:, -1] + tf.cast(mean, tf.float32)


def read_encodings(path: Path) -> dict[str, Encoding]:
    """Read an `encodings.npz`; no relation in it gives an empty mapping.

    Raises:
        InputError: the file is missing or damaged, or an array of a relation is absent or of the wrong shape.
    """
    arrays = read_arrays(path)
    names = sorted(name.removesuffix("/mean") for name in arrays if name.endswith("/mean"))
    try:
        return {
            name: Encoding(_nodes(arrays, name, "left"), _nodes(arrays, name, "right"), float(arrays[f"{name}/mean"]))
            for name in names
        }
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"{path}: incomplete encodings ({error}); run `pretrain` again") from error


def write_encodings(path: Path, encodings: Encodings) -> None:
    """Write encodings as `read_encodings` reads them."""
    arrays: Arrays = {}
    for name, encoding in encodings.items():
        arrays[f"{name}/mean"] = np.array(encoding.mean, np.float32)
        arrays.update(_side(name, "left", encoding.left) | _side(name, "right", encoding.right))
    write_arrays(path, arrays)


def sorted_nodes(keys: NDArray[np.int64], vectors: NDArray[Any], biases: NDArray[Any]) -> Nodes:
    """Make `Nodes` of keys in any order."""
    order = np.argsort(keys, kind="stable")
    return Nodes(keys[order], vectors[order].astype(np.float32), biases[order].astype(np.float32))


def _side(relation: str, side: str, nodes: Nodes) -> Arrays:
    prefix = f"{relation}/{side}"
    return {f"{prefix}_keys": nodes.keys, f"{prefix}_vectors": nodes.vectors, f"{prefix}_biases": nodes.biases}


def _nodes(arrays: Arrays, relation: str, side: str) -> Nodes:
    keys, vectors, biases = (arrays[f"{relation}/{side}_{part}"] for part in ("keys", "vectors", "biases"))
    if vectors.ndim != 2 or not len(keys) == len(vectors) == len(biases):
        raise ValueError(f"{relation}/{side}: {len(keys)} keys, vectors {vectors.shape}, {len(biases)} biases")
    return sorted_nodes(keys, vectors, biases)
