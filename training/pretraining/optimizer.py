"""Adam for tables of rows, of which a step touches few, and for the small dense weights beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.pretraining import kernels
from training.pretraining.parameters import Parameters

Floats = NDArray[Any]

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
_ONE_ROW = np.zeros(1, np.int32)


class SparseAdam:
    """Adam (Kingma and Ba, ICLR 2015) that moves only the numbers that have a gradient, and only their moments decay.

    Bias corrections count the steps of the whole model, as in TensorFlow Addons' LazyAdam.
    """

    def __init__(self, parameters: Parameters, learning_rate: float) -> None:
        self._parameters, self._learning_rate, self._step = parameters, learning_rate, 0
        tables = {**parameters.tables, **parameters.dense}
        self._moments = {name: (np.zeros_like(table), np.zeros_like(table)) for name, table in tables.items()}

    def step(self, rows: Mapping[str, tuple[NDArray[np.int32], Floats]], dense: Mapping[str, Floats]) -> None:
        """Move the parameters.

        Args:
            rows: by field distinct nodes int32 [n] and the gradients of their rows [n, width].
            dense: gradients by name.
        """
        self._step += 1
        rate = self._learning_rate * np.sqrt(1 - _BETA_2**self._step) / (1 - _BETA_1**self._step)
        for field, (nodes, gradients) in rows.items():
            self._move(field, self._parameters.tables[field], nodes, gradients, rate)
        for name, gradient in dense.items():
            flat = self._parameters.dense[name].reshape(1, -1)
            self._move(name, flat, _ONE_ROW, gradient.reshape(1, -1), rate)

    def _move(self, name: str, table: Floats, rows: NDArray[np.int32], gradients: Floats, rate: float) -> None:
        first, second = (moment.reshape(table.shape) for moment in self._moments[name])
        kernels.adam(table, first, second, rows, gradients, rate, _BETA_1, _BETA_2, _EPSILON)
