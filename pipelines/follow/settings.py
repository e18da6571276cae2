"""What YAML says of following. Plain data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from features.schema import Settings


class FollowSettings(Settings):
    """How `elastic-ctr follow` takes, judges and publishes.

    Every `every_s` seconds what has landed is taken, at most `max_files` files at a time, as one micro-batch. After every
    `full_every` micro-batches, and at the end, the learner is saved and a full export written; `form` is how rows and kernels
    are stored in what is published. A micro-batch is refused, before it is learned, when the clicks that the model expects of
    it and those it has differ by more than the factor `calibration_within`, and one of the two is at least `gate_clicks`.
    """

    every_s: Annotated[float, Field(gt=0)] = 5.0
    max_files: Annotated[int, Field(ge=1)] = 64
    full_every: Annotated[int, Field(ge=1)] = 60
    form: Literal["float32", "float16", "int8", "int4"] = "float32"
    calibration_within: Annotated[float, Field(gt=1)] = 4.0
    gate_clicks: Annotated[int, Field(ge=1)] = 100
