"""Dense weights in stored form: kernels row by row as `Matrix`, everything else float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from features.errors import InputError
from training.data.arrays import Arrays, read_arrays, write_arrays
from training.packed.matrix import Form, Matrix

DenseWeight = NDArray[Any] | Matrix
DenseWeights = Mapping[str, DenseWeight]

# Separates a packed weight's name from its arrays' names. No weight's name contains it.
_MARK = "#"


def pack_dense(weights: Mapping[str, NDArray[Any]], form: Form) -> dict[str, DenseWeight]:
    """Store the kernels (weights of two axes) in a form; raises ValueError if it cannot."""
    # The other weights have few values: packing them would save nothing.
    return {
        name: Matrix.of(w, form) if w.ndim == 2 and form is not Form.FLOAT32 else w
        for name, w in weights.items()
    }


def unpacked(weights: DenseWeights) -> Arrays:
    """Return all weights as float32 arrays."""
    return {name: w.rows() if isinstance(w, Matrix) else w for name, w in weights.items()}


def dense_nbytes(weights: DenseWeights) -> int:
    """Return the bytes of all arrays."""
    return sum(weight.nbytes for weight in weights.values())


def write_dense(path: Path, weights: DenseWeights) -> None:
    """Write weights to one `.npz`."""
    arrays: Arrays = {}
    for name, weight in weights.items():
        # Weights that are not packed keep their names, so that a model without packed kernels is
        # written as it was before there were any.
        if isinstance(weight, Matrix):
            arrays |= {f"{name}{_MARK}{part}": array for part, array in weight.arrays().items()}
        else:
            arrays[name] = weight
    write_arrays(path, arrays)


def read_dense(path: Path) -> dict[str, DenseWeight]:
    """Read what `write_dense` wrote; raises InputError if it is missing or damaged."""
    arrays = read_arrays(path)
    plain = {name: array for name, array in arrays.items() if _MARK not in name}
    packed = sorted({name.partition(_MARK)[0] for name in arrays if _MARK in name})
    try:
        return plain | {name: Matrix.from_arrays(arrays, name + _MARK) for name in packed}
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path}: packed weights without a readable {error}; compress this day again"
        ) from error
