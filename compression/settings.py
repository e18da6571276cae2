"""What YAML says of compression. Free of TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from compression.steps.settings import StepSettings
from features.schema import EvolvingSettings, Settings

_Chance = Annotated[float, Field(gt=0, lt=1)]

_PLACES = {
    "drop_fields": 0,
    "widths": 1,
    "quantize": 2,
    "product": 2,
    "dense": 2,
    "encodings": 2,
    "fine_tune": 2,
}
"""A step never comes before one of a lower place, whose work it would undo or could not read. `prune_rows` reads any form."""


class CompressionSettings(EvolvingSettings):
    """Rows whose largest absolute value is at most `zero_tolerance` are dropped (0: only exact zeros, lossless).

    `steps` follow one after the other, and cost accuracy; none: the lossless cut alone.
    """

    added_later = ("steps",)

    zero_tolerance: Annotated[float, Field(ge=0)] = 0.0
    steps: tuple[StepSettings, ...] = ()

    @property
    def learns(self) -> bool:
        """Whether a step reads the day's impressions."""
        return any(
            step.kind == "fine_tune" or (step.kind == "widths" and step.price is not None)
            for step in self.steps
        )

    @field_validator("steps")
    @classmethod
    def _are_in_order(cls, steps: tuple[StepSettings, ...]) -> tuple[StepSettings, ...]:
        kinds = [step.kind for step in steps]
        twice = sorted({kind for kind in kinds if kinds.count(kind) > 1} - {"prune_rows"})
        if twice:
            raise ValueError(
                f"{', '.join(twice)} is there twice: only prune_rows may be; make one step of them"
            )
        _refuse_undone_tuning(steps)
        if {"quantize", "product"} <= set(kinds):
            raise ValueError(
                "quantize and product both say how rows are stored: take one of the two"
            )
        _refuse_disorder(kinds)
        return steps


def _refuse_disorder(kinds: Sequence[str]) -> None:
    if "prune_rows" in kinds and "drop_fields" in kinds[kinds.index("prune_rows") :]:
        raise ValueError("drop_fields comes after prune_rows: put it before")
    for first, second in pairwise(kind for kind in kinds if kind != "prune_rows"):
        if _PLACES[first] > _PLACES[second]:
            raise ValueError(
                f"{second} comes after {first}: put it before; steps go {' → '.join(_PLACES)}"
            )


def _refuse_undone_tuning(steps: Sequence[StepSettings]) -> None:
    kinds = [step.kind for step in steps]
    if "fine_tune" not in kinds:
        return
    at = kinds.index("fine_tune")
    late = sorted({"prune_rows", "quantize", "product", "encodings"} & set(kinds[at:]))
    if late:
        raise ValueError(
            f"{', '.join(late)} after fine_tune: it learns over rows and encodings as they are served, put it after them"
        )
    if any(step.kind == "dense" and step.form != "float32" for step in steps[:at]):
        raise ValueError(
            "dense comes before fine_tune, which makes float32 of the kernels again: put dense after it"
        )


class SelectionSettings(Settings):
    """How gates rank the fields, and what keeping a field costs.

    `fscd` (one draw of the gates a batch) prices field j at `G(c_j) / batch size` nats, `G = online·o + width·e + rows·n`:
    values handled per impression, values given to the model, rows in the table. `droprank` (a draw for each impression) prices
    all alike at `drop_weight` nats, rising over the first half of learning. All δ start at `initial_keep` and stay within
    `keep_range`; the relaxation's temperature goes from the first to the second of `temperatures`.
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
                f"initial_keep {self.initial_keep} must lie within keep_range, above {least} and below {most}"
            )
        return self
