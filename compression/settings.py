"""Settings of compression and field selection. Free of TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from compression.steps.settings import StepSettings
from features.schema import EvolvingSettings, Settings

_Chance = Annotated[float, Field(gt=0, lt=1)]

_ORDER = {
    "drop_fields": 0,
    "widths": 1,
    "quantize": 2,
    "product": 2,
    "dense": 2,
    "encodings": 2,
    "fine_tune": 2,
}
"""Places of the steps in the order; `prune_rows` reads any form and can be anywhere."""


class CompressionSettings(EvolvingSettings):
    """Rows whose largest absolute value is at most `zero_tolerance` are dropped.

    With 0 only exact zeros are dropped, which is lossless. `steps` run in order after that and cost
    accuracy.
    """

    added_later = ("steps",)

    zero_tolerance: Annotated[float, Field(ge=0)] = 0.0
    steps: tuple[StepSettings, ...] = ()

    @property
    def trains(self) -> bool:
        """Whether a step trains on the day's impressions."""
        return any(
            step.kind == "fine_tune" or (step.kind == "widths" and step.price is not None)
            for step in self.steps
        )

    @field_validator("steps")
    @classmethod
    def _are_in_order(cls, steps: tuple[StepSettings, ...]) -> tuple[StepSettings, ...]:
        # 1. One step of a kind, except for `prune_rows`, which may prune several sets of fields.
        kinds = [step.kind for step in steps]
        twice = sorted({kind for kind in kinds if kinds.count(kind) > 1} - {"prune_rows"})
        if twice:
            raise ValueError(
                f"{', '.join(twice)} is there twice: only prune_rows may be; make one step of them"
            )

        # 2. Steps that exclude each other, or undo each other's work.
        if "fine_tune" in kinds:
            _check_around_fine_tune(steps, kinds.index("fine_tune"))
        if {"quantize", "product"} <= set(kinds):
            raise ValueError(
                "quantize and product both define how rows are stored: use one of the two"
            )
        if "prune_rows" in kinds and "drop_fields" in kinds[kinds.index("prune_rows") :]:
            raise ValueError("drop_fields comes after prune_rows: put it before")
        # 3. All others by their place in the order.
        for first, second in pairwise(kind for kind in kinds if kind != "prune_rows"):
            if _ORDER[first] > _ORDER[second]:
                order = " → ".join(_ORDER)
                raise ValueError(f"{second} comes after {first}: put it before; steps go {order}")
        return steps


def _check_around_fine_tune(steps: Sequence[StepSettings], at: int) -> None:
    too_late = {"prune_rows", "quantize", "product", "encodings"}
    late = sorted(too_late & {step.kind for step in steps[at:]})
    if late:
        raise ValueError(
            f"{', '.join(late)} after fine_tune: it trains over rows and encodings in the form in "
            "which they are served, put it after them"
        )
    if any(step.kind == "dense" and step.form != "float32" for step in steps[:at]):
        raise ValueError(
            "dense comes before fine_tune, which makes the kernels float32: put dense after it"
        )


class SelectionSettings(Settings):
    """How gates rank the fields, and what keeping a field costs.

    `fscd` (one draw of the gates per batch) prices field j at `G(c_j) / batch size` nats, with
    `G = online·o + width·e + rows·n`: values handled per impression, values given to the model,
    rows in the table. `droprank` (one draw per impression) prices every field at `drop_weight`
    nats, rising over the first half of training. All δ start at `initial_keep` and stay within
    `keep_range`; the temperature of the relaxation falls as `temperatures` says.
    """

    method: Literal["fscd", "droprank"] = "fscd"
    online: Annotated[float, Field(ge=0)] = 0.05
    width: Annotated[float, Field(ge=0)] = 0.005
    rows: Annotated[float, Field(ge=0)] = 1e-7
    drop_weight: Annotated[float, Field(ge=0)] = 1e-3
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    passes: Annotated[int, Field(ge=1)] = 1
    initial_keep: _Chance = 0.8
    keep_range: tuple[_Chance, _Chance] = (0.05, 0.99)
    temperatures: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.5, 0.1)

    @model_validator(mode="after")
    def _starts_within_the_range(self) -> Self:
        least, most = self.keep_range
        if not least < self.initial_keep < most:
            raise ValueError(
                f"initial_keep {self.initial_keep} must lie within keep_range, above {least} and "
                f"below {most}"
            )
        return self
