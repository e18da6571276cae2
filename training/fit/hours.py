"""The hours of a day, as the schema's time zone has them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from features.schema import TimePart
from features.times import time_part


def local_hours(timestamp_ms: NDArray[np.int64], timezone: str) -> NDArray[np.int64]:
    """Return the local hour of the day, int64 [n] in 0 … 23, of epoch milliseconds int64 [n]."""
    hours: NDArray[np.int64] = time_part(
        tf.constant(timestamp_ms, tf.int64), TimePart.HOUR_OF_DAY, timezone
    ).numpy()
    return hours


def runs(values: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return start (included) and stop (excluded) of each run of equal values in int64 [n], in order.

    >>> runs(np.array([7, 7, 9]))
    [(0, 2), (2, 3)]
    """
    changes = np.flatnonzero(np.diff(values)) + 1
    return list(pairwise([0, *changes.tolist(), len(values)])) if len(values) else []
