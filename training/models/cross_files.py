"""Frozen cross encodings on disk: `encodings.npz`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError
from training.data.arrays import Arrays, read_arrays, write_arrays
from training.models.cross_input import Encoding, Encodings, Network, Nodes, PairTable, sorted_nodes


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
        arrays |= (
            _table_arrays(name, encoding)
            if isinstance(encoding, PairTable)
            else _arrays(name, encoding)
        )
    write_arrays(path, arrays)


def _table_arrays(name: str, table: PairTable) -> Arrays:
    return {f"{name}/pair_keys": table.keys, f"{name}/pair_values": table.values}


def _arrays(name: str, encoding: Encoding) -> Arrays:
    arrays: Arrays = {}
    for side, nodes in (("left", encoding.left), ("right", encoding.right)):
        arrays |= {
            f"{name}/{side}_{part}": getattr(nodes, part) for part in ("keys", "vectors", "biases")
        }
    for i, (kernel, bias) in enumerate(encoding.network):
        arrays |= {f"{name}/network/{i}/kernel": kernel, f"{name}/network/{i}/bias": bias}
    return arrays | (
        _table_arrays(f"{name}/corrections", encoding.corrections) if encoding.corrections else {}
    )


def _relation(arrays: Arrays, name: str) -> Encoding | PairTable:
    mean = float(arrays[f"{name}/mean"])
    if f"{name}/pair_keys" in arrays:
        return _pairs(arrays, name, mean)
    corrections = (
        _pairs(arrays, f"{name}/corrections", 0.0)
        if f"{name}/corrections/pair_keys" in arrays
        else None
    )
    return Encoding(
        _nodes(arrays, name, "left"),
        _nodes(arrays, name, "right"),
        mean,
        _network(arrays, name),
        corrections,
    )


def _pairs(arrays: Arrays, name: str, mean: float) -> PairTable:
    keys, values = arrays[f"{name}/pair_keys"], arrays[f"{name}/pair_values"]
    if keys.shape != values.shape:
        raise ValueError(f"{name}: {len(keys)} pairs, {len(values)} values")
    return PairTable(keys, values, mean)


def _nodes(arrays: Arrays, relation: str, side: str) -> Nodes:
    keys, vectors, biases = (
        arrays[f"{relation}/{side}_{part}"] for part in ("keys", "vectors", "biases")
    )
    if vectors.ndim != 2 or not len(keys) == len(vectors) == len(biases):
        raise ValueError(
            f"{relation}/{side}: {len(keys)} keys, vectors {vectors.shape}, {len(biases)} biases"
        )
    return sorted_nodes(keys, vectors, biases, vectors.dtype)


def _network(arrays: Arrays, relation: str) -> Network:
    layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    while (kernel := arrays.get(f"{relation}/network/{len(layers)}/kernel")) is not None:
        layers.append((kernel, arrays[f"{relation}/network/{len(layers)}/bias"]))
    return tuple(layers)
