"""Which plans a search can try: a level on each axis, from leaving everything as it is to the coarsest.

A level is a number from 0 on; a point has one for each axis. Fields are no axis: what `drop_fields` a configuration has is part
of every plan.
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
from compression.steps.work import Work
from training.models.cross_input import Encoding
from training.settings import ModelSettings

Point = tuple[int, ...]
Score = Literal["norm", "weight", "count"]

KEPT = (
    1.0,
    0.9,
    0.8,
    0.7,
    0.5,
    0.35,
    0.25,
    0.18,
    0.125,
    0.09,
    0.06,
    0.04,
    0.03,
    0.02,
    0.01,
    0.005,
    0.0,
)
"""Shares of the rows that stay."""

LARGE = 0.1
"""A field with at least this share of all rows has an axis of its own; the others have one together."""

SCORES: tuple[Score, ...] = ("norm", "weight", "count")
"""What rows may be pruned by."""

PROBED = 0.35
"""Share of the rows at which these are compared before a search."""

RARE = 0.8
"""Quantile of the counts that parts the rare half of two bands of widths from the frequent one."""


_ROWS = "rows"


@dataclass(frozen=True)
class Axis:
    """One way to make a model smaller: its levels, 0 being as it is; of rows, the fields whose they are (none: all)."""

    name: str
    levels: tuple[Any, ...]
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Space:
    """All plans.

    Attributes:
        axes: what can be changed, in the order of a point's levels.
        fixed: steps that every plan begins with.
        by: what rows are pruned by.
    """

    axes: tuple[Axis, ...]
    fixed: tuple[StepSettings, ...] = ()
    by: Score = "norm"

    @classmethod
    def of(cls, work: Work, fixed: Sequence[StepSettings] = ()) -> Self:
        """Return what can be done to a model that the fixed steps left."""
        model = work.model
        width = max((slab.width for slab in model.slabs().values()), default=1)
        kernels = any(
            isinstance(weight, np.ndarray) and weight.ndim == 2 for weight in model.dense.values()
        )
        axes = [
            *_row_axes(work),
            Axis("columns", (None, *_ranks(width))),
            Axis("form", (None, *_forms(width))),
            Axis("dense", (None, "float16", "int8") if kernels else (None,)),
            Axis(
                "units", (0.0, 0.25, 0.5, 0.75) if _has_units(model.description.model) else (0.0,)
            ),
            Axis(
                "encodings",
                (None, "float16")
                if any(isinstance(e, Encoding) for e in model.encodings.values())
                else (None,),
            ),
        ]
        return cls(tuple(axis for axis in axes if len(axis.levels) > 1), tuple(fixed))

    @property
    def start(self) -> Point:
        """The plan that changes nothing but what is fixed."""
        return (0,) * len(self.axes)

    def steps(self, point: Point) -> tuple[StepSettings, ...]:
        """Return the steps of a plan, in the order in which they follow each other."""
        at = {axis.name: axis.levels[level] for axis, level in zip(self.axes, point, strict=True)}
        found: list[StepSettings] = [*self.fixed, *self._of_rows(at)]
        if at.get("dense") or at.get("units"):
            found.append(Dense(form=at.get("dense") or "float32", relu=at.get("units", 0.0)))
        if at.get("encodings"):
            found.append(FloatEncodings())
        return tuple(found)

    def coarser(self, point: Point, axis: int) -> Point | None:
        """Return the plan one level further on an axis; None at its end."""
        return self._moved(point, axis, 1)

    def finer(self, point: Point, axis: int) -> Point | None:
        """Return the plan one level back on an axis; None at its start."""
        return self._moved(point, axis, -1)

    def _of_rows(self, at: dict[str, Any]) -> list[StepSettings]:
        shares = [(axis.fields, at[axis.name]) for axis in self.axes if axis.name.startswith(_ROWS)]
        pruned: list[StepSettings] = [
            PruneRows(by=self.by, keep=share, fields=fields)
            for fields, share in shares
            if share < 1
        ]
        stored: list[StepSettings] = (
            [Widths(quantiles=(RARE,), ranks=at["columns"])] if at.get("columns") else []
        )
        stored += [at["form"]] if at.get("form") else []
        # Codebooks take long to make: made of all rows, they serve every plan with the same columns.
        return stored + pruned if isinstance(at.get("form"), ProductCodes) else pruned + stored

    def _moved(self, point: Point, axis: int, by: int) -> Point | None:
        level = point[axis] + by
        return (
            (*point[:axis], level, *point[axis + 1 :])
            if 0 <= level < len(self.axes[axis].levels)
            else None
        )


def baselines(space: Space) -> dict[str, list[tuple[StepSettings, ...]]]:
    """Return what a plan is held against, by name: one step alone, at every level that it has."""
    named = {axis.name: axis.levels for axis in space.axes}
    alone: dict[str, list[StepSettings]] = {
        "magnitude pruning": [PruneRows(by="norm", keep=share) for share in KEPT[1:-1]],
        "pruning by count": [PruneRows(by="count", keep=share) for share in KEPT[1:-1]],
        "quantization": [form for form in named.get("form", ())[1:] if isinstance(form, Quantize)],
        "product quantization": [
            form for form in named.get("form", ())[1:] if isinstance(form, ProductCodes)
        ],
        "narrower rows": [
            Widths(ranks=(low,)) for low, high in named.get("columns", ())[1:] if low == high
        ],
    }
    return {
        name: [(*space.fixed, step) for step in steps] for name, steps in alone.items() if steps
    }


def _row_axes(work: Work) -> list[Axis]:
    """An axis for each field with many rows and one for the others; where no field or one alone has rows, one for all."""
    rows = dict.fromkeys([name for facts in work.facts.values() for name in facts.names], 0)
    for facts in work.facts.values():
        for code, name in enumerate(facts.names):
            rows[name] += int(np.count_nonzero(facts.fields == code))
    with_rows = [name for name, count in rows.items() if count]
    large = [name for name in with_rows if rows[name] >= LARGE * work.model.rows]
    rest = tuple(name for name in with_rows if name not in large)
    if len(with_rows) < 2 or not large:
        return [Axis(_ROWS, KEPT)]
    return [
        *(Axis(f"{_ROWS} of {name}", KEPT, (name,)) for name in large),
        *([Axis(_ROWS, KEPT, rest)] if rest else []),
    ]


def _ranks(width: int) -> list[tuple[int, int]]:
    """Columns of rare and frequent rows: half the width, a quarter, …; the frequent ones follow a level later."""
    found, rank = [], width // 2
    while rank >= 1:
        found += [(rank, min(2 * rank, width)), (rank, rank)]
        rank //= 2
    return found


def _forms(width: int) -> list[StepSettings]:
    """Forms of rows, each of fewer bytes than the one before: bits by value, then codes by two, four, eight values."""
    if width == 1:
        return [Quantize(form="float16")]
    coded = [ProductCodes(columns=columns) for columns in (2, 4, 8) if columns <= width]
    return [Quantize(form="float16"), Quantize(form="int8"), Quantize(form="int4"), *coded]


def _has_units(settings: ModelSettings) -> bool:
    with_layers = {"wide_deep", "deepfm", "dcnv2"} & {settings.kind, *settings.members}
    return bool(with_layers and settings.hidden) and settings.norm != "layer"
