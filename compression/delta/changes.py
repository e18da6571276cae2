"""What turns one served model into another: changed rows, tombstones and dense weights, as named arrays.

The names are those of the inputs of the exported signature `apply_delta`. Of the fields in no group: `keys` int64 [n],
`tombstones` int64 [m], and per slab `<slab>__values` [n, …] and, of quantized rows, `<slab>__scales` float16 [n, 2], as they are
stored (`training.packed.matrix`); of a group the same behind `group__<name>__`. Dense weights are `dense__<weight>`, packed ones
`dense__<weight>__values` and `__scales`, with `/` spelled `__`. `scalers` float64 [2, D] are means and standard deviations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compression.model import CompactModel
from training.data.arrays import Arrays
from training.data.layout import Layout
from training.data.scalers import as_arrays
from training.packed.dense import DenseWeights
from training.packed.matrix import Matrix
from training.packed.product import Product
from training.packed.rows import PackedRows

SCALERS = "scalers"
DENSE = "dense"
_APART = "__"


@dataclass(frozen=True)
class TableChanges:
    """Of one table.

    Attributes:
        rows: new and changed ones, in stored form, one band a slab.
        tombstones: int64 [m], keys that are gone.
    """

    rows: PackedRows
    tombstones: NDArray[np.int64]


@dataclass(frozen=True)
class Changes:
    """Of a whole model.

    Attributes:
        tables: by the name of their group.
        dense: all dense weights, changed or not, as they are few.
        scalers: float64 [2, D], means and standard deviations of the dense numbers.
    """

    tables: Mapping[str, TableChanges]
    dense: DenseWeights
    scalers: NDArray[np.float64]

    def arrays(self) -> Arrays:
        """Return the inputs of `apply_delta` by name."""
        named: Arrays = {SCALERS: self.scalers}
        for group, table in self.tables.items():
            named |= {
                table_name(group, "keys"): table.rows.keys,
                table_name(group, "tombstones"): table.tombstones,
            }
            for slab, stored in table.rows.slabs.items():
                named |= matrix_arrays(table_name(group, slab), stored.only_matrix())
        for name, weight in self.dense.items():
            named |= (
                matrix_arrays(dense_name(name), weight)
                if isinstance(weight, Matrix)
                else {dense_name(name): weight}
            )
        return named


def no_changes(model: CompactModel) -> Changes:
    """Return the changes from a model to itself: no rows, its dense weights, its scalers."""
    tables = {
        name: TableChanges(rows.take(np.zeros(len(rows.keys), bool)), np.zeros(0, np.int64))
        for name, rows in model.tables.items()
    }
    return Changes(tables, model.dense, scalers_of(model))


def scalers_of(model: CompactModel) -> NDArray[np.float64]:
    """Return float64 [2, D]: means and standard deviations of the dense numbers."""
    told = model.description
    return np.stack(as_arrays(told.scalers, Layout.of(told.schema, told.relations).dense))


def why_no_delta(model: CompactModel) -> str:
    """Return why a model cannot be changed while it is loaded; empty: it can."""
    banded = [name for name, slab in model.slabs().items() if len(slab.bands) > 1]
    projected = [
        name
        for name, slab in model.slabs().items()
        if any(band.projection is not None for band in slab.bands)
    ]
    if banded:
        return f"slabs {banded} have bands of other widths or forms, so a row has no place that another could take"
    if projected:
        return f"slabs {projected} are stored behind a projection, which every day fits anew for all rows"
    coded = [
        name
        for name, slab in model.slabs().items()
        if any(isinstance(band.matrix, Product) for band in slab.bands)
    ]
    if coded:
        return f"slabs {coded} are stored as codes of a codebook (step product), which every day fits anew for all rows"
    return ""


def table_name(group: str, part: str) -> str:
    """Return the name of an array of a group's table."""
    return _APART.join(["group", group, part] if group else [part])


def dense_name(weight: str) -> str:
    """Return the name of a dense weight's array."""
    return _APART.join([DENSE, *weight.split("/")])


def matrix_arrays(name: str, matrix: Matrix) -> dict[str, NDArray[Any]]:
    """Return a matrix' arrays by their names."""
    values, scales = matrix_names(name)
    return {values: matrix.values} | ({scales: matrix.scales} if matrix.scales.shape[1] else {})


def matrix_names(name: str) -> tuple[str, str]:
    """Return the names of a matrix' values and scales."""
    return f"{name}{_APART}values", f"{name}{_APART}scales"
