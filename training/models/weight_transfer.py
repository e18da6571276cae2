"""Transfer of dense weights to a model of another schema, input by input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from features.errors import InputError

Weights = Mapping[str, NDArray[np.float32]]
"""Dense weights, or one of their optimizer slots, by name."""


@dataclass(frozen=True)
class Blocks:
    """Named, contiguous row ranges of a weight: `(name, first row, rows)`, in order.

    Attributes:
        ranges: the ranges.
        axes: the number of the weight's first axes that have these ranges.
    """

    ranges: tuple[tuple[str, int, int], ...]
    axes: int = 1

    @classmethod
    def of(cls, widths: Sequence[tuple[str, int]]) -> Self:
        """Return contiguous blocks of these names and widths."""
        ends = np.cumsum([width for _, width in widths], dtype=np.int64).tolist()
        return cls(
            tuple(
                (name, end - width, width) for (name, width), end in zip(widths, ends, strict=True)
            )
        )

    def on_axes(self, axes: int) -> Self:
        """Return the same ranges for a weight's first `axes` axes."""
        return replace(self, axes=axes)

    @property
    def size(self) -> int:
        """Rows of all blocks together."""
        return sum(rows for _, _, rows in self.ranges)


def carry_over(
    trained: Weights, new: Weights, before: Mapping[str, Blocks], after: Mapping[str, Blocks]
) -> Weights:
    """Fit trained weights (or one of their optimizer slots) to a model of another schema.

    A weight with blocks keeps the rows of every input that both models have. Any other weight is
    kept if its shape did not change. The remaining values are those of `new`.

    Args:
        trained: arrays by name, of the model before.
        new: arrays by name, of the new model, newly initialised.
        before: blocks by name, of the model before.
        after: blocks by name, of the new model.

    Returns:
        arrays in the shapes of `new`.
    """
    return {
        name: _fit(trained.get(name), value, before.get(name), after.get(name))
        for name, value in new.items()
    }


def load_weights(variables: Mapping[str, tf.Variable], weights: Weights) -> None:
    """Set a model's variables, after `check_weights`."""
    check_weights(variables, weights)
    for name, value in weights.items():
        variables[name].assign(value)


def check_weights(variables: Mapping[str, tf.Variable], weights: Weights) -> None:
    """Check that weights have the names and shapes of a model's variables; raises InputError."""
    expected = {name: tuple(variable.shape) for name, variable in variables.items()}
    given = {name: value.shape for name, value in weights.items()}
    if expected != given:
        raise InputError(
            f"dense weights do not fit the model: expected {expected}, got {given}; schema and "
            "weights must belong together"
        )


def _fit(
    trained: NDArray[np.float32] | None,
    new: NDArray[np.float32],
    before: Blocks | None,
    after: Blocks | None,
) -> NDArray[np.float32]:
    # 1. Without blocks a weight is kept as a whole or not at all.
    if trained is None or trained.ndim != new.ndim:
        return new
    if before is None or after is None:
        return trained if trained.shape == new.shape else new
    if trained.shape[after.axes :] != new.shape[after.axes :]:
        return new

    # 2. The rows of the blocks with a name and a width that both models have.
    starts = {(name, rows): start for name, start, rows in before.ranges}
    shared = [
        (start, starts[name, rows], rows)
        for name, start, rows in after.ranges
        if (name, rows) in starts
    ]
    none = np.zeros(0, np.int64)
    target = np.concatenate([none, *(np.arange(a, a + rows) for a, _, rows in shared)])
    source = np.concatenate([none, *(np.arange(b, b + rows) for _, b, rows in shared)])

    # 3. Copy them on every axis that has blocks (both axes of a cross network's kernel).
    fitted = new.copy()
    fitted[np.ix_(*[target] * after.axes)] = trained[np.ix_(*[source] * after.axes)]
    return fitted
