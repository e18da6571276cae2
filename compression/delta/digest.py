"""A name for what a served model answers by: the same content, the same name, in whatever order its rows lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from compression.delta.changes import dense_name, matrix_arrays, scalers_of
from compression.model import CompactModel
from training.data.arrays import Arrays
from training.models.cross_input import Encoding, Encodings
from training.packed.dense import DenseWeight
from training.packed.matrix import Matrix
from training.packed.rows import PackedRows


def content_digest(model: CompactModel) -> str:
    """Return the SHA-256, hexadecimal, of graph, rows, dense weights, scalers and encodings in their stored form.

    Args:
        model: with one band a slab (`compression.delta.changes.why_no_delta`).
    """
    digest = hashlib.sha256(graph_digest(model).encode())
    for array in _arrays(model):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def graph_digest(model: CompactModel) -> str:
    """Return the SHA-256, hexadecimal, of what a delta cannot change: fields, model, relations, stored forms, encodings."""
    told = model.description
    document = {
        "schema": told.schema.model_dump(mode="json")
        | {"forbidden": sorted(told.schema.forbidden)},
        "model": told.model.model_dump(mode="json"),
        "relations": [relation.model_dump(mode="json") for relation in told.relations],
        "slabs": {
            n: [(str(b.matrix.form), b.matrix.width) for b in slab.bands]
            for n, slab in sorted(model.slabs().items())
        },
        "dense": {n: _shape(weight) for n, weight in sorted(model.dense.items())},
    }
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    for name, array in sorted(_encoded(model.encodings).items()):
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _shape(weight: DenseWeight) -> str:
    return (
        f"{weight.form} {weight.values.shape}" if isinstance(weight, Matrix) else f"{weight.shape}"
    )


def _arrays(model: CompactModel) -> Iterator[NDArray[np.generic]]:
    yield scalers_of(model)
    for name, weight in sorted(model.dense.items()):
        yield from (
            matrix_arrays(dense_name(name), weight).values()
            if isinstance(weight, Matrix)
            else (weight,)
        )
    for _, rows in sorted(model.tables.items()):
        yield from _sorted_rows(rows)


def _sorted_rows(rows: PackedRows) -> Iterator[NDArray[np.generic]]:
    """Keys, ascending, and what is stored of them."""
    order = np.argsort(rows.keys)
    yield rows.keys[order]
    for name, slab in sorted(rows.slabs.items()):
        yield from matrix_arrays(name, slab.only_matrix().take(order)).values()


def _encoded(encodings: Encodings) -> Arrays:
    named: Arrays = {}
    for name, encoding in encodings.items():
        named[f"{name}/mean"] = np.array(encoding.mean, np.float64)
        if isinstance(encoding, Encoding):
            for side, nodes in (("left", encoding.left), ("right", encoding.right)):
                named |= {f"{name}/{side}_keys": nodes.keys, f"{name}/{side}": nodes.table()}
            named |= {
                f"{name}/{i}/{j}": w
                for i, layer in enumerate(encoding.network)
                for j, w in enumerate(layer)
            }
        pairs = encoding.corrections if isinstance(encoding, Encoding) else encoding
        named |= {f"{name}/keys": pairs.keys, f"{name}/values": pairs.values} if pairs else {}
    return named
