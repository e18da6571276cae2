"""Values that JSON can hold: NaN and infinities, which it cannot, become null."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def json_safe(value: Any) -> Any:
    """Return a value with every float that is not finite replaced by None.

    Mappings, lists and tuples are copied; NumPy scalars become Python's. Other values are returned
    unchanged.
    """
    if isinstance(value, Mapping):
        return {key: json_safe(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(each) for each in value]
    # A NumPy scalar, known by its method: DAG files import this module and must not load NumPy.
    if hasattr(value, "item") and not getattr(value, "shape", ()):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
