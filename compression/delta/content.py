"""The content of a served model as named arrays, and its digest.

The names are the inputs of the exported signature `apply_delta`. For the fields in no group: `keys`
int64 [n], `tombstones` int64 [m], and per slab `<slab>__values` [n, …] and, for quantized rows,
`<slab>__scales` float16 [n, 2], in stored form (`training.packed.matrix`); for a group the same
after `group__<name>__`. Dense weights are `dense__<weight>`, packed ones `dense__<weight>__values`
and `__scales`, with `/` written as `__`. `scalers` float64 [2, D] are means and deviations.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compression.model import CompactModel
from training.data.arrays import Arrays
from training.data.scalers import as_arrays
from training.models.encoding_inputs import Encoding, Encodings
from training.packed.dense import DenseWeight
from training.packed.matrix import Matrix
from training.packed.pq import Product
from training.packed.rows import PackedRows

SCALERS = "scalers"
DENSE = "dense"
# Inputs of a signature are Python arguments of the loaded function, so "/" cannot be in a name.
_SEPARATOR = "__"


class TableChanges(NamedTuple):
    """New and changed rows in stored form, one band per slab, and removed keys int64 [m]."""

    rows: PackedRows
    tombstones: NDArray[np.int64]


def delta_inputs(after: CompactModel, tables: Mapping[str, TableChanges]) -> Arrays:
    """Return the inputs of `apply_delta` by name.

    Args:
        after: the changed model.
        tables: what changed in its tables, by the name of their group.
    """
    # Dense weights and scalers are few, and included whole whether or not they changed.
    named: Arrays = {SCALERS: scalers_of(after)}
    for group, (rows, tombstones) in tables.items():
        named |= {table_name(group, "keys"): rows.keys, table_name(group, "tombstones"): tombstones}
        for slab, stored in rows.slabs.items():
            named |= matrix_arrays(table_name(group, slab), stored.only_matrix())
    for name, weight in after.dense.items():
        named |= _weight_arrays(name, weight)
    return named


def unchanged_inputs(model: CompactModel) -> Arrays:
    """Return the inputs of `apply_delta` that change a model to itself: they have no rows."""
    tables = {}
    for name, rows in model.tables.items():
        no_rows = rows.take(np.zeros(len(rows.keys), bool))
        tables[name] = TableChanges(no_rows, no_rows.keys)
    return delta_inputs(model, tables)


def scalers_of(model: CompactModel) -> NDArray[np.float64]:
    """Return float64 [2, D]: means and standard deviations of the dense numbers."""
    description = model.description
    return np.stack(as_arrays(description.scalers, description.spec.layout.dense))


def why_no_delta(model: CompactModel) -> str:
    """Return why a model cannot be changed while it is loaded; empty: it can."""
    slabs = model.slabs().items()
    # Only a slab of one plain matrix has rows that can be written one by one.
    banded = [name for name, slab in slabs if len(slab.bands) > 1]
    if banded:
        return (
            f"slabs {banded} have bands of different widths or forms, so a row cannot be replaced "
            "by a row of another band"
        )
    projected = [n for n, s in slabs if any(band.projection is not None for band in s.bands)]
    if projected:
        return (
            f"slabs {projected} are stored with a projection, which each day fits again to all rows"
        )
    coded = [n for n, s in slabs if any(isinstance(band.matrix, Product) for band in s.bands)]
    if coded:
        return (
            f"slabs {coded} are stored as codes of a codebook (step product), which each day fits "
            "again to all rows"
        )
    return ""


def table_name(group: str, part: str) -> str:
    """Return the name of an array of a group's table."""
    return _SEPARATOR.join(["group", group, part] if group else [part])


def dense_name(weight: str) -> str:
    """Return the name of a dense weight's array."""
    return _SEPARATOR.join([DENSE, *weight.split("/")])


def matrix_names(name: str) -> tuple[str, str]:
    """Return the names of a matrix' values and scales."""
    return f"{name}{_SEPARATOR}values", f"{name}{_SEPARATOR}scales"


def matrix_arrays(name: str, matrix: Matrix) -> dict[str, NDArray[Any]]:
    """Return a matrix' arrays by their names."""
    values, scales = matrix_names(name)
    return {values: matrix.values} | ({scales: matrix.scales} if matrix.scales.shape[1] else {})


def content_digest(model: CompactModel) -> str:
    """Return the SHA-256, hexadecimal, of all that a served model answers by, in stored form.

    Args:
        model: with one band per slab (`why_no_delta`).
    """
    # The type and shape are part of the content: equal bytes can mean different arrays.
    digest = hashlib.sha256(graph_digest(model).encode())
    for array in _content(model):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def graph_digest(model: CompactModel) -> str:
    """Return the SHA-256, hexadecimal, of what no delta can change: settings, forms, encodings."""
    description = model.description
    schema = description.schema.model_dump(mode="json")
    document = {
        # A set is dumped in an order that differs from process to process.
        "schema": schema | {"forbidden": sorted(description.schema.forbidden)},
        "model": description.model.model_dump(mode="json"),
        "relations": [relation.model_dump(mode="json") for relation in description.relations],
        "slabs": {
            name: [(str(band.matrix.form), band.matrix.width) for band in slab.bands]
            for name, slab in sorted(model.slabs().items())
        },
        "dense": {
            name: f"{w.form} {w.values.shape}" if isinstance(w, Matrix) else f"{w.shape}"
            for name, w in sorted(model.dense.items())
        },
    }
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    for name, array in sorted(_encoding_arrays(model.encodings).items()):
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _weight_arrays(name: str, weight: DenseWeight) -> Arrays:
    if isinstance(weight, Matrix):
        return matrix_arrays(dense_name(name), weight)
    return {dense_name(name): weight}


def _content(model: CompactModel) -> Iterator[NDArray[Any]]:
    yield scalers_of(model)
    for name, weight in sorted(model.dense.items()):
        yield from _weight_arrays(name, weight).values()
    for _, rows in sorted(model.tables.items()):
        # By key: a delta appends rows, so the same content may have its rows in another order.
        order = np.argsort(rows.keys)
        yield rows.keys[order]
        for name, slab in sorted(rows.slabs.items()):
            yield from matrix_arrays(name, slab.only_matrix().take(order)).values()


def _encoding_arrays(encodings: Encodings) -> Arrays:
    named: Arrays = {}
    for name, encoding in encodings.items():
        named[f"{name}/mean"] = np.array(encoding.mean, np.float64)
        # An encoding is a table of pairs, or node vectors that may have one for corrections.
        pairs = encoding.corrections if isinstance(encoding, Encoding) else encoding
        if isinstance(encoding, Encoding):
            for side, nodes in (("left", encoding.left), ("right", encoding.right)):
                named |= {f"{name}/{side}_keys": nodes.keys, f"{name}/{side}": nodes.table()}
            for number, layer in enumerate(encoding.network):
                named |= {f"{name}/{number}/{i}": weight for i, weight in enumerate(layer)}
        if pairs:
            named |= {f"{name}/keys": pairs.keys, f"{name}/values": pairs.values}
    return named
