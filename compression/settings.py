"""What YAML says of compression. Free of TensorFlow."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from features.schema import Frozen


class CompressionSettings(Frozen):
    """Rows whose largest absolute value is at most `zero_tolerance` are dropped (0: only exact zeros, lossless)."""

    zero_tolerance: Annotated[float, Field(ge=0)] = 0.0
