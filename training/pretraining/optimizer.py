"""Adam for tables of rows, of which a step touches few, and for the small dense weights beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.native import split_rows
from training.pretraining import kernels
from training.pretraining.parameters import Parameters

Floats = NDArray[Any]

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
_ONE_ROW = np.zeros(1, np.int32)
_FEW_ROWS = 2048


@dataclass(frozen=True)
class RowGradients:
    """Gradients [n, w] of w numbers from `column` on of distinct rows int32 [n] of a field's table."""

    field: str
    nodes: NDArray[np.int32]
    column: int
    gradients: Floats


class SparseAdam:
    """Adam (Kingma and Ba, ICLR 2015) that moves only the numbers that have a gradient, and only their moments decay.

    Bias corrections count the steps of the whole model, as in TensorFlow Addons' LazyAdam.
    """

    def __init__(self, parameters: Parameters, learning_rate: float) -> None:
        self._parameters, self._learning_rate, self._step = parameters, learning_rate, 0
        tables = {**parameters.tables, **parameters.dense}
        self._moments = {
            name: (np.zeros_like(table), np.zeros_like(table)) for name, table in tables.items()
        }

    def step(self, rows: Sequence[RowGradients], dense: Mapping[str, Floats]) -> None:
        """Move the parameters by gradients of rows, and of dense weights by name."""
        self._step += 1
        rate = self._learning_rate * np.sqrt(1 - _BETA_2**self._step) / (1 - _BETA_1**self._step)
        numbers = (rate, _BETA_1, 1 - _BETA_1, _BETA_2, 1 - _BETA_2, _EPSILON)
        for each in rows:
            self._move(
                each.field,
                self._parameters.tables[each.field],
                each.nodes,
                each.column,
                each.gradients,
                numbers,
            )
        for name, gradient in dense.items():
            flat = self._parameters.dense[name].reshape(1, -1)
            self._move(name, flat, _ONE_ROW, 0, gradient.reshape(1, -1), numbers)

    def _move(
        self,
        name: str,
        table: Floats,
        rows: NDArray[np.int32],
        column: int,
        gradients: Floats,
        numbers: tuple[float, ...],
    ) -> None:
        first, second = (moment.reshape(table.shape) for moment in self._moments[name])
        typed = np.array(numbers, table.dtype)
        split_rows(
            partial(kernels.adam, table, first, second, rows, column, gradients, typed),
            len(rows),
            at_least=_FEW_ROWS,
        )
