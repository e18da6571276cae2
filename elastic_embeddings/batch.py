"""The result of `ElasticTable.prepare`: the rows behind one batch of keys."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.index.grouping import group


@dataclass(frozen=True)
class Batch:
    """The rows behind one batch of keys: `rows[inverse[i]]` is the row of the i-th key.

    A handle: a save or an eviction between `prepare` and `begin` may give its keys other rows, so
    use only the batch that `begin` returns for gathering and training.

    Attributes:
        number: of the `prepare` call, 1 for the table's first.
        keys: int64 [n], as given.
        fields: int16 [n], codes of the keys' fields; None if the table has one field.
        rows: int32 [U], distinct rows; row 0 (not admitted) comes last, and only if a key needs it.
        inverse: int32 [n], for each key its position in `rows`.
        order: int32 [n], positions of the keys grouped by row: the keys of `rows[u]` are
            `order[offsets[u]:offsets[u + 1]]`.
        offsets: int32 [U + 1].
        counts: int32 [U], occurrences of the row's key, this batch included; 0 for row 0.
        new_rows: int32 [k], rows that this batch admitted; `begin` writes their vectors.
        new_keys: int64 [k], the keys of `new_rows`.
    """

    number: int
    keys: NDArray[np.int64]
    fields: NDArray[np.int16] | None
    rows: NDArray[np.int32]
    inverse: NDArray[np.int32]
    order: NDArray[np.int32]
    offsets: NDArray[np.int32]
    counts: NDArray[np.int32]
    new_rows: NDArray[np.int32]
    new_keys: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.keys)


def make_batch(
    number: int,
    keys: NDArray[np.int64],
    fields: NDArray[np.int16] | None,
    rows: NDArray[np.int32],
    inverse: NDArray[np.int32],
    counts: NDArray[np.int32],
    new_rows: NDArray[np.int32],
    new_keys: NDArray[np.int64],
) -> Batch:
    """Return the batch of distinct keys with these rows and counts, int32 [U] each."""
    has_row = rows > 0
    if not has_row.all():
        # All keys without a row share one row 0 at the end.
        last = np.count_nonzero(has_row)
        positions = np.where(has_row, np.cumsum(has_row) - 1, last).astype(np.int32)
        rows, inverse = np.append(rows[has_row], np.int32(0)), positions[inverse]
        counts = np.append(counts[has_row], np.int32(0))
    order, offsets = group(inverse, len(rows))
    return Batch(number, keys, fields, rows, inverse, order, offsets, counts, new_rows, new_keys)
