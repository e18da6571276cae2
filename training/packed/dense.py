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

_MARK = "#"  # no weight has it in its name


def pack_dense(weights: Mapping[str, NDArray[Any]], form: Form) -> dict[str, DenseWeight]:
    """Store the kernels (weights of two axes) among dense weights in a form; the others, few values, stay as they are.

    Raises:
        ValueError: a kernel holds what the form cannot hold.
    """
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
    """Write weights to one `.npz`; float32 ones under their names, so that a model without packed kernels is as it always was."""
    arrays: Arrays = {}
    for name, weight in weights.items():
        arrays |= _parts(name, weight) if isinstance(weight, Matrix) else {name: weight}
    write_arrays(path, arrays)


def read_dense(path: Path) -> dict[str, DenseWeight]:
    """Read what `write_dense` wrote.

    Raises:
        InputError: the file is missing, damaged, or its arrays do not fit.
    """
    arrays = read_arrays(path)
    packed = sorted({name.partition(_MARK)[0] for name in arrays if _MARK in name})
    try:
        matrices: dict[str, DenseWeight] = {
            name: Matrix.from_arrays(arrays, name + _MARK) for name in packed
        }
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path}: packed weights without a readable {error}; compress this day again"
        ) from error
    return {name: array for name, array in arrays.items() if _MARK not in name} | matrices


def _parts(name: str, matrix: Matrix) -> Arrays:
    return {f"{name}{_MARK}{part}": array for part, array in matrix.arrays().items()}
