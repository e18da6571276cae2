"""From a table's parts to files: full tables and deltas. Settled parts only: what is prepared and not learned is no part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from elastic_embeddings.holdings import Holdings
from elastic_embeddings.slabs.slab import Slab
from elastic_embeddings.storage.array_files import ArrayStream
from elastic_embeddings.storage.checkpoint import (
    WEIGHTS,
    SlabHeader,
    TableHeader,
    array_name,
    write_table,
)
from elastic_embeddings.storage.delta import tombstone_arrays, write_delta
from elastic_embeddings.storage.plain import as_plain

_BLOCK = 1 << 15
"""Rows that are read and written together."""


def save(folder: Path, parts: Holdings) -> None:
    """Write the whole table."""
    write_table(
        folder,
        _header(parts, None),
        _arrays(parts, parts.intake.index.live(), parts.tombstones.floor),
    )


def save_delta(folder: Path, parts: Holdings, since: int) -> None:
    """Write what changed after step `since`.

    Raises:
        InputError: `since` is after the table's step, or deletions since then are forgotten.
    """
    entries = parts.intake.index.live()
    changed = entries[parts.intake.index.last_seen[entries] > since]
    write_delta(folder, _header(parts, since), _arrays(parts, changed, since))


def describe(slab: Slab) -> SlabHeader:
    """Return what a slab is made of."""
    spec = slab.spec
    plain = as_plain(spec.optimizer)
    return SlabHeader(
        dim=spec.dim,
        init_scale=spec.init_scale,
        dtype=spec.dtype,
        optimizer=plain.pop("kind"),
        parameters=plain,
        slots=spec.optimizer.slots(spec.dim),
    )


def _header(parts: Holdings, since: int | None) -> TableHeader:
    return TableHeader(
        kind="full" if since is None else "delta",
        step=parts.intake.step,
        since=since,
        deletions_since=parts.tombstones.floor,
        seed=parts.seed,
        fields=parts.fields,
        days=tuple(parts.days),
        slabs={name: describe(slab) for name, slab in parts.slabs.items()},
    )


def _arrays(
    parts: Holdings, entries: NDArray[np.int32], deletions_since: int
) -> dict[str, ArrayStream]:
    index = parts.intake.index
    arrays = {
        "keys": _entry_stream(entries, np.int64, lambda some: index.keys[some]),
        "counts": _entry_stream(entries, np.int32, lambda some: index.counts[some]),
        "last_seen": _entry_stream(entries, np.int32, lambda some: index.last_seen[some]),
        "admitted": _entry_stream(entries, np.bool_, lambda some: index.rows[some] > 0),
        "fields": _entry_stream(
            entries, np.int16, lambda some: index.fields[some].astype(np.int16)
        ),
    }
    rows = index.rows[entries]
    rows = rows[rows > 0]
    for name, slab in parts.slabs.items():
        arrays.update(_slab_arrays(name, slab, rows))
    arrays.update(tombstone_arrays(parts.tombstones.arrays(), deletions_since))
    arrays.update(
        {
            f"counters.{name}": ArrayStream.of(counter)
            for name, counter in parts.intake.tally.arrays().items()
        }
    )
    for number, sketch in parts.intake.gate.sketches.items():
        arrays.update(
            {
                f"sketch.{number}.{name}": ArrayStream.of(array)
                for name, array in sketch.arrays().items()
            }
        )
    return arrays


def _slab_arrays(name: str, slab: Slab, rows: NDArray[np.int32]) -> dict[str, ArrayStream]:
    dtype = slab.read_weights(rows[:0]).dtype
    weights = _stream(rows, (slab.spec.dim,), dtype, slab.read_weights)
    arrays, start = {array_name(name, WEIGHTS): weights}, 0
    for slot, width in slab.spec.optimizer.slots(slab.spec.dim).items():
        read = partial(_read_columns, slab, slice(start, start + width))
        arrays[array_name(name, slot)] = _stream(rows, (width,), dtype, read)
        start += width
    return arrays


def _read_columns(slab: Slab, columns: slice, rows: NDArray[np.int32]) -> NDArray[Any]:
    return slab.read_state(rows, columns)


def _entry_stream(
    entries: NDArray[np.int32], dtype: DTypeLike, read: Callable[[NDArray[np.int32]], NDArray]
) -> ArrayStream:
    return _stream(entries, (), dtype, read)


def _stream(
    chosen: NDArray[np.int32],
    shape: tuple[int, ...],
    dtype: DTypeLike,
    read: Callable[[NDArray[np.int32]], NDArray[Any]],
) -> ArrayStream:
    return ArrayStream((len(chosen), *shape), dtype, _chunks(chosen, read))


def _chunks(
    chosen: NDArray[np.int32], read: Callable[[NDArray[np.int32]], NDArray[Any]]
) -> Iterator[NDArray[Any]]:
    for start in range(0, len(chosen), _BLOCK):
        yield read(chosen[start : start + _BLOCK])
