"""The plans that a search can try: a level on each axis, from no change to the coarsest.

A level is a number from 0 on, and a plan has one level per axis. Fields are no axis: the
`drop_fields` of the configuration is part of every plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from compression.steps.settings import (
    Dense,
    FloatEncodings,
    ProductCodes,
    PruneRows,
    Quantize,
    StepSettings,
    Widths,
)
from compression.steps.step import CompressionState
from training.models.encoding_inputs import Encoding
from training.settings import ModelSettings

Levels = tuple[int, ...]
Score = Literal["norm", "weight", "count"]

KEPT: tuple[float, ...] = (1.0, 0.9, 0.8, 0.7, 0.5, 0.35, 0.25, 0.18, 0.125, 0.09, 0.06)
KEPT += (0.04, 0.03, 0.02, 0.01, 0.005, 0.0)
"""Shares of the rows that are kept."""

LARGE = 0.1
"""A field with at least this share of all rows has its own axis; the others share one."""

SCORES: tuple[Score, ...] = ("norm", "weight", "count")
"""Scores by which rows may be pruned."""

PROBED = 0.35
"""Share of the rows at which the scores are compared before a search."""

RARE = 0.8
"""Quantile of the counts between the rare and the frequent band of widths."""

_ROWS = "rows"


@dataclass(frozen=True)
class Axis:
    """One way to make a model smaller.

    Attributes:
        name: of the axis.
        levels: its values; level 0 changes nothing.
        fields: for an axis of rows, the fields that the rows belong to; empty: all.
    """

    name: str
    levels: tuple[Any, ...]
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class SearchSpace:
    """All plans.

    Attributes:
        axes: what can be changed, in the order of a plan's levels.
        fixed: steps that every plan begins with.
        by: score by which rows are pruned.
    """

    axes: tuple[Axis, ...]
    fixed: tuple[StepSettings, ...] = ()
    by: Score = "norm"

    @classmethod
    def of(cls, state: CompressionState, fixed: Sequence[StepSettings] = ()) -> Self:
        """Return what can be done to a model after the fixed steps."""
        model = state.model
        width = max((slab.width for slab in model.slabs().values()), default=1)
        axes = [
            *_row_axes(state),
            Axis("columns", (None, *_ranks(width))),
            Axis("form", (None, *_forms(width))),
        ]
        # A packed weight is a `Matrix`: there is nothing left to store in fewer bits.
        if any(isinstance(w, np.ndarray) and w.ndim == 2 for w in model.dense.values()):
            axes.append(Axis("dense", (None, "float16", "int8")))
        if _has_units(model.description.model):
            axes.append(Axis("units", (0.0, 0.25, 0.5, 0.75)))
        if any(isinstance(encoding, Encoding) for encoding in model.encodings.values()):
            axes.append(Axis("encodings", (None, "float16")))
        return cls(tuple(axis for axis in axes if len(axis.levels) > 1), tuple(fixed))

    @property
    def start(self) -> Levels:
        """The plan of the fixed steps alone."""
        return (0,) * len(self.axes)

    def steps(self, levels: Levels) -> tuple[StepSettings, ...]:
        """Return the steps of a plan, in order."""
        # 1. Rows: which are kept, and how they are stored.
        at = {axis.name: axis.levels[level] for axis, level in zip(self.axes, levels, strict=True)}
        pruned: list[StepSettings] = [
            PruneRows(by=self.by, keep=at[axis.name], fields=axis.fields)
            for axis in self.axes
            if axis.name.startswith(_ROWS) and at[axis.name] < 1
        ]
        stored: list[StepSettings] = []
        if at.get("columns"):
            stored.append(Widths(quantiles=(RARE,), ranks=at["columns"]))
        if at.get("form"):
            stored.append(at["form"])
        # Codebooks are slow to compute: computed from all rows, before pruning, the evaluator's
        # cache has them for every plan with the same columns.
        before_pruning = isinstance(at.get("form"), ProductCodes)
        steps = [*self.fixed, *(stored + pruned if before_pruning else pruned + stored)]

        # 2. Dense weights and encodings.
        if at.get("dense") or at.get("units"):
            steps.append(Dense(form=at.get("dense") or "float32", relu=at.get("units", 0.0)))
        if at.get("encodings"):
            steps.append(FloatEncodings())
        return tuple(steps)

    def moved(self, levels: Levels, axis: int, by: int) -> Levels | None:
        """Return the plan `by` levels coarser on an axis; None beyond its ends."""
        level = levels[axis] + by
        if not 0 <= level < len(self.axes[axis].levels):
            return None
        return (*levels[:axis], level, *levels[axis + 1 :])


def baselines(space: SearchSpace, most: int) -> dict[str, list[tuple[StepSettings, ...]]]:
    """Return the plans to compare with, by name: one step alone, at each of its levels.

    Where a step has more than `most` levels, so many are used, at equal distances.
    """
    named = {axis.name: axis.levels[1:] for axis in space.axes}
    forms, columns = named.get("form", ()), named.get("columns", ())
    alone: dict[str, list[StepSettings]] = {
        # Without 1.0, which prunes nothing, and 0.0, which leaves no row.
        "magnitude pruning": [PruneRows(by="norm", keep=share) for share in KEPT[1:-1]],
        "pruning by count": [PruneRows(by="count", keep=share) for share in KEPT[1:-1]],
        "quantization": [form for form in forms if isinstance(form, Quantize)],
        "product quantization": [form for form in forms if isinstance(form, ProductCodes)],
        # One width for all rows: widths by frequency are what the search adds.
        "narrower rows": [Widths(ranks=(low,)) for low, high in columns if low == high],
    }
    # An axis that a model does not have has no baseline.
    return {
        name: [(*space.fixed, each[i]) for i in _spread(len(each), most)]
        for name, each in alone.items()
        if each
    }


def _spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below `count`, the first and the last among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))


def _row_axes(state: CompressionState) -> list[Axis]:
    """An axis for each field with many rows and one for the others.

    One axis for all fields if at most one has rows, or none has many.
    """
    rows: dict[str, int] = {}
    for stats in state.row_stats.values():
        for code, name in enumerate(stats.names):
            rows[name] = rows.get(name, 0) + int(np.count_nonzero(stats.fields == code))
    # A row of a shared vocabulary counts for one field, so the shares add up to 1.
    with_rows = [name for name, count in rows.items() if count]
    large = [name for name in with_rows if rows[name] >= LARGE * state.model.rows]
    if len(with_rows) < 2 or not large:
        return [Axis(_ROWS, KEPT)]
    axes = [Axis(f"{_ROWS} of {name}", KEPT, (name,)) for name in large]
    rest = tuple(name for name in with_rows if name not in large)
    return [*axes, Axis(_ROWS, KEPT, rest)] if rest else axes


def _ranks(width: int) -> list[tuple[int, int]]:
    """Columns of rare and frequent rows: half the width, a quarter and so on, rare rows first."""
    ranks, rank = [], width // 2
    while rank >= 1:
        ranks += [(rank, min(2 * rank, width)), (rank, rank)]
        rank //= 2
    return ranks


def _forms(width: int) -> list[StepSettings]:
    """Forms of rows, each smaller than the previous one: fewer bits, then codes."""
    if width == 1:
        return [Quantize(form="float16")]
    coded = [ProductCodes(columns=columns) for columns in (2, 4, 8) if columns <= width]
    return [Quantize(form="float16"), Quantize(form="int8"), Quantize(form="int4"), *coded]


def _has_units(settings: ModelSettings) -> bool:
    # Statistics of layer norm are over all units of a layer: none can be removed.
    with_layers = {"wide_deep", "deepfm", "dcnv2"} & {settings.kind, *settings.members}
    return bool(with_layers and settings.hidden) and settings.norm != "layer"
