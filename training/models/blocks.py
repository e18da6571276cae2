"""Which rows of a weight belong to which input, so that a changed schema keeps what it learned of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from features.errors import InputError
from training.data.field_groups import Group
from training.data.layout import Layout

Weights = Mapping[str, NDArray[np.float32]]
"""Dense weights, or one of their optimizer slots, by name."""


@dataclass(frozen=True)
class Blocks:
    """Named, contiguous row ranges along a weight's first axis: `(name, first row, rows)`, in order.

    Attributes:
        ranges: the ranges.
        axes: how many of the weight's first axes are laid out so.
    """

    ranges: tuple[tuple[str, int, int], ...]
    axes: int = 1

    @classmethod
    def of(cls, widths: Sequence[tuple[str, int]]) -> Self:
        """Lay blocks of these widths one after the other."""
        starts = np.cumsum([0] + [width for _, width in widths]).tolist()
        return cls(
            tuple(
                (name, start, width) for (name, width), start in zip(widths, starts, strict=False)
            )
        )

    def on_axes(self, axes: int) -> Self:
        """Return the same ranges for a weight's first `axes` axes."""
        return replace(self, axes=axes)

    @property
    def size(self) -> int:
        """Rows of all blocks together."""
        return sum(rows for _, _, rows in self.ranges)


def input_widths(layout: Layout, groups: Sequence[Group]) -> list[tuple[str, int]]:
    """Names and widths of what a part reads side by side: what each group gives, 2 for each number, 1 for each relation."""
    fields = [block for group in groups for block in group.widths()]
    return [*fields, *_numbers(layout), *((f"cross:{name}", 1) for name in layout.relations)]


def dense_blocks(layout: Layout) -> Blocks:
    """Rows of a weight on the numbers alone: 2 for each."""
    return Blocks.of(_numbers(layout))


def carry_over(
    learned: Weights, fresh: Weights, before: Mapping[str, Blocks], after: Mapping[str, Blocks]
) -> Weights:
    """Fit learned weights (or one of their optimizer slots) to a model of another schema.

    A weight with blocks keeps the rows of every input that both models have; any other keeps its values if its shape
    did not change. What is left is taken from `fresh`.

    Args:
        learned: arrays by name, of the model before.
        fresh: arrays by name, of the new model, newly initialised.
        before: blocks by name, of the model before.
        after: blocks by name, of the new model.

    Returns:
        arrays in the shapes of `fresh`.
    """
    return {
        name: _fit(learned.get(name), value, before.get(name), after.get(name))
        for name, value in fresh.items()
    }


def load_weights(variables: Mapping[str, tf.Variable], weights: Weights) -> None:
    """Set a model's variables.

    Raises:
        InputError: a weight is missing, unknown, or of another shape.
    """
    refuse_other_weights(variables, weights)
    for name, value in weights.items():
        variables[name].assign(value)


def refuse_other_weights(variables: Mapping[str, tf.Variable], weights: Weights) -> None:
    """Check that weights are those of a model.

    Raises:
        InputError: a weight is missing, unknown, or of another shape.
    """
    expected = {name: tuple(variable.shape) for name, variable in variables.items()}
    given = {name: value.shape for name, value in weights.items()}
    if expected != given:
        raise InputError(
            f"dense weights do not fit the model: expected {expected}, got {given}; schema and weights must belong together"
        )


def _numbers(layout: Layout) -> list[tuple[str, int]]:
    return [(f"dense:{name}", 2) for name in layout.dense]


def _fit(
    learned: NDArray[np.float32] | None,
    fresh: NDArray[np.float32],
    before: Blocks | None,
    after: Blocks | None,
) -> NDArray[np.float32]:
    if before is None or after is None:
        return fresh if learned is None or learned.shape != fresh.shape else learned
    if (
        learned is None
        or learned.ndim != fresh.ndim
        or learned.shape[after.axes :] != fresh.shape[after.axes :]
    ):
        return fresh
    here, there = _shared(before, after)
    fitted = fresh.copy()
    fitted[np.ix_(*[here] * after.axes)] = learned[np.ix_(*[there] * after.axes)]
    return fitted


def _shared(before: Blocks, after: Blocks) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions, int64 [k] each, of the rows that both have: in `after` and in `before`."""
    known = {(name, rows): start for name, start, rows in before.ranges}
    both = [
        (start, known[name, rows], rows)
        for name, start, rows in after.ranges
        if (name, rows) in known
    ]
    here, there = (
        [np.arange(starts[side], starts[side] + starts[2]) for starts in both] for side in (0, 1)
    )
    empty = np.zeros(0, np.int64)
    return np.concatenate([empty, *here]), np.concatenate([empty, *there])
