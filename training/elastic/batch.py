"""What the table hands out: a prepared batch and its statistics. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Batch:
    """The rows behind one batch of keys: `rows[inverse[i]]` is the row of the i-th key.

    Attributes:
        rows: int32 [U], distinct rows; row 0 (no row: unadmitted) comes last, and only where a key needs it.
        inverse: int32 [n], for each key its place in `rows`.
        new_rows: int32 [k], rows that this batch admitted, ascending; their vectors are written by `materialise`.
        new_keys: int64 [k], the keys of `new_rows`.
    """

    rows: NDArray[np.int32]
    inverse: NDArray[np.int32]
    new_rows: NDArray[np.int32]
    new_keys: NDArray[np.int64]


@dataclass(frozen=True)
class Statistics:
    """The size of a table at one moment.

    Attributes:
        rows: admitted keys.
        keys_seen: keys counted, admitted or not.
        zero_rows: rows whose weights are exactly zero in every slab (what group lasso freed).
        index_bytes: keys, counts, stamps and hash slots, allocated.
        weight_bytes: vectors, allocated.
        slot_bytes: optimizer state, allocated.
    """

    rows: int
    keys_seen: int
    zero_rows: int
    index_bytes: int
    weight_bytes: int
    slot_bytes: int
