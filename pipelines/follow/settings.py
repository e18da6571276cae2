"""Settings of follow mode in the YAML file. Plain data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from features.schema import Settings


class FollowSettings(Settings):
    """How `elastic-ctr follow` processes files and publishes models.

    Attributes:
        every_s: seconds between micro-batches.
        max_files: maximum number of files of a micro-batch.
        full_every: after this many micro-batches, and at the end, the learner is saved and a full
            export is written.
        form: how rows and kernels are stored in publications.
        calibration_within: a micro-batch is rejected before training if its clicks and the clicks
            that the model expects differ by more than this factor.
        max_ahead_hours: a row whose time is further ahead of now is quarantined: it would end the
            count of days by which idle keys are evicted.
        read_tries: after so many attempts a file that the system cannot read is given up.
        gate_clicks: the factor is checked only if one of the two is at least this number.
    """

    every_s: Annotated[float, Field(gt=0)] = 5.0
    max_files: Annotated[int, Field(ge=1)] = 64
    full_every: Annotated[int, Field(ge=1)] = 60
    form: Literal["float32", "float16", "int8", "int4"] = "float32"
    calibration_within: Annotated[float, Field(gt=1)] = 4.0
    gate_clicks: Annotated[int, Field(ge=1)] = 100
    max_ahead_hours: Annotated[float, Field(ge=0)] = 24.0
    read_tries: Annotated[int, Field(ge=1)] = 5
