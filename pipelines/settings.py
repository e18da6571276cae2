"""What YAML says of tracking and promotion. Plain data."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from features.schema import Settings


class TrackingSettings(Settings):
    """MLflow: the experiment, and the registered model's name. The server comes from `MLFLOW_TRACKING_URI`."""

    experiment: Annotated[str, Field(min_length=1)] = "elastic-ctr"
    registered_model: Annotated[str, Field(min_length=1)] = "ctr"
