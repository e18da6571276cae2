"""Counts a table's rows for its statistics, and notes which rows were zero, to see later which of them revived."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.census.statistics import Parts, SlabParts
from elastic_embeddings.holdings import Holdings
from elastic_embeddings.slabs.slab import Slab
from elastic_embeddings.tally import by_field

_BLOCK = 1 << 18


def census(parts: Holdings) -> Parts:
    """Return what statistics need of settled parts; rows that were zero at the last census and are not now count as revived."""
    index, intake = parts.intake.index, parts.intake
    entries = index.live()
    has_row = index.rows[entries] > 0
    admitted = entries[has_row]
    slabs = {
        name: _slab(slab, index.rows[admitted], index.row_limit)
        for name, slab in parts.slabs.items()
    }
    _note_zero(parts, admitted, np.logical_and.reduce([slab.zero for slab in slabs.values()]))
    return Parts(
        keys=index.keys[entries],
        counts=index.counts[entries],
        has_row=has_row,
        fields=index.fields[entries].astype(np.int16),
        field_names=parts.fields,
        slabs=slabs,
        tally=intake.tally,
        index_bytes=index.nbytes(),
        sketch_bytes=intake.nbytes() - index.nbytes(),
    )


def _slab(slab: Slab, rows: NDArray[np.int32], limit: int) -> SlabParts:
    norms, zero = np.zeros(len(rows), np.float32), np.zeros(len(rows), np.bool_)
    for start in range(0, len(rows), _BLOCK):
        vectors = slab.vectors(rows[start : start + _BLOCK])
        norms[start : start + _BLOCK] = np.linalg.norm(vectors, axis=1)
        zero[start : start + _BLOCK] = ~vectors.any(axis=1)
    weight_bytes, slot_bytes = slab.nbytes(limit)
    return SlabParts(
        norms, zero, sum(slab.nbytes(1)) - sum(slab.nbytes(0)), weight_bytes, slot_bytes
    )


def _note_zero(parts: Holdings, admitted: NDArray[np.int32], zero: NDArray[np.bool_]) -> None:
    index = parts.intake.index
    awake = admitted[~zero]
    revived = awake[np.isin(index.keys[awake], parts.asleep)]
    parts.intake.tally.revived[:] += by_field(index.fields[revived], len(parts.fields))
    parts.asleep = index.keys[admitted[zero]]
