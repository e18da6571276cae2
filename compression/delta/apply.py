"""A model after changes, in memory: what `compression.export.changing` does to a loaded one, in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compression.delta.changes import SCALERS, dense_name, matrix_names, table_name
from training.data.layout import Layout
from training.data.scalers import Scaler
from training.fit.checkpoints import Description
from training.packed.dense import DenseWeight, DenseWeights
from training.packed.matrix import Matrix
from training.packed.rows import PackedRows
from training.packed.slab import Band, PackedSlab

Arrays = Mapping[str, NDArray[Any]]


def changed_rows(rows: PackedRows, group: str, arrays: Arrays) -> PackedRows:
    """Return a group's rows without those that are gone or changed, and, behind them, those that are new or changed."""
    keys, gone = arrays[table_name(group, "keys")], arrays[table_name(group, "tombstones")]
    kept = rows.take(~np.isin(rows.keys, np.concatenate([keys, gone])))
    slabs = {}
    for name, slab in kept.slabs.items():
        old = slab.only_matrix()
        new = changed_matrix(old, table_name(group, name), arrays)
        values, scales = (
            np.concatenate(pair) for pair in ((old.values, new.values), (old.scales, new.scales))
        )
        slabs[name] = PackedSlab((Band(Matrix(old.form, old.width, values, scales)),))
    return PackedRows(np.concatenate([kept.keys, keys]), slabs)


def changed_dense(dense: DenseWeights, arrays: Arrays) -> dict[str, DenseWeight]:
    """Return the dense weights that changes carry, each in the form of the one before."""
    return {
        name: changed_matrix(weight, dense_name(name), arrays)
        if isinstance(weight, Matrix)
        else arrays[dense_name(name)]
        for name, weight in dense.items()
    }


def with_scalers(told: Description, arrays: Arrays) -> Description:
    """Return a description with the scalers that changes carry."""
    names = Layout.of(told.schema, told.relations).dense
    return replace(
        told,
        scalers={
            n: Scaler(float(m), float(s)) for n, m, s in zip(names, *arrays[SCALERS], strict=True)
        },
    )


def changed_matrix(before: Matrix, name: str, arrays: Arrays) -> Matrix:
    """Return the matrix of this name that changes carry, in the form of the one before."""
    values, scales = matrix_names(name)
    none = np.zeros((len(arrays[values]), 0), np.float16)
    return Matrix(before.form, before.width, arrays[values], arrays.get(scales, none))
