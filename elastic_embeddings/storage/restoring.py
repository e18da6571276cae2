"""From files back into a table's parts: full tables and deltas. Everything is verified before anything is replaced."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.errors import InputError
from elastic_embeddings.holdings import Holdings
from elastic_embeddings.index.key_index import KeyIndex
from elastic_embeddings.optimizers.rounding import decode, encode
from elastic_embeddings.slabs.slab import Slab
from elastic_embeddings.storage.checkpoint import (
    ENTRY_ARRAYS,
    SKETCH_PREFIX,
    TOMBSTONE_ARRAYS,
    WEIGHTS,
    TableHeader,
    array_name,
    read_array,
    read_chunks,
    read_header,
    verify,
)
from elastic_embeddings.storage.delta import DeltaFile
from elastic_embeddings.storage.plain import from_plain

_log = logging.getLogger(__name__)
_BLOCK = 1 << 15
_ALL = ("all",)


def restore(folder: Path, parts: Holdings) -> None:
    """Replace the parts' content by a saved table's; admission, seed, storage and optimizers stay the parts' own.

    Optimizer state of another rule starts anew, which is logged, that of another learning rate is restated so that the
    vectors stay. Keys of fields that are not among the parts' stay, under the saved name, until an eviction takes them.

    Raises:
        InputError: a file is missing or damaged, it is a delta, or the slabs' names or widths differ.
    """
    header = read_header(folder)
    _refuse_other(folder, header, parts)
    verify(folder, header)
    keys, counts, last_seen, admitted, codes = (
        read_array(folder, header, name) for name in ENTRY_ARRAYS
    )
    fields = _recoded(codes, header, parts)
    parts.tombstones.drop_after(-1)
    parts.intake.index = KeyIndex.from_arrays(keys, counts, last_seen, admitted, fields)
    rows = np.arange(1, np.count_nonzero(admitted) + 1, dtype=np.int32)
    for name, slab in parts.slabs.items():
        slab.compact(rows[:0])
        _load_slab(folder, header, name, slab, rows)
    _load_tombstones(folder, header, parts)
    _load_rest(folder, header, parts)


def apply_delta(folder: Path, parts: Holdings) -> None:
    """Bring the parts from the delta's `since` to its `step`, deletions included.

    Raises:
        InputError: a file is missing or damaged, it is no delta, it starts elsewhere, or slabs or slots differ.
    """
    delta = DeltaFile.open(folder)
    delta.refuse_unless_follows(parts.intake.step)
    _refuse_other(folder, delta.header, parts, "delta")
    index = parts.intake.index
    gone = index.find(delta.tombstones)
    index.forget(gone[gone >= 0])
    parts.tombstones.drop_after(
        delta.header.since or 0
    )  # the delta tells again what went between its base and the next step
    _load_tombstones(folder, delta.header, parts)
    rows = _enter(index, delta, _recoded(delta.fields, delta.header, parts))
    for name, slab in parts.slabs.items():
        _load_slab(folder, delta.header, name, slab, rows)
    _load_rest(folder, delta.header, parts)


def _enter(index: KeyIndex, delta: DeltaFile, fields: NDArray[np.int16]) -> NDArray[np.int32]:
    """Bring a delta's entries into the index; return the rows int32 of the admitted, in the delta's order."""
    entries = index.assign(delta.keys, delta.header.step, fields).entries
    index.counts[entries], index.last_seen[entries] = delta.counts, delta.last_seen
    index.give_rows(entries[delta.admitted & (index.rows[entries] == 0)])
    return index.rows[entries[delta.admitted]]


def _load_tombstones(folder: Path, header: TableHeader, parts: Holdings) -> None:
    keys, steps = (read_array(folder, header, name) for name in TOMBSTONE_ARRAYS)
    for step in np.unique(steps):
        parts.tombstones.add(keys[steps == step], int(step))
    parts.tombstones.floor = header.deletions_since


def _load_slab(
    folder: Path, header: TableHeader, name: str, slab: Slab, rows: NDArray[np.int32]
) -> None:
    """Write a saved slab's vectors and state into the rows int32 [k]."""
    if len(rows):
        slab.ensure(int(rows.max()))
    saved, rule = header.slabs[name], slab.spec.optimizer
    same = saved.optimizer == type(rule).__name__ and saved.slots == rule.slots(slab.spec.dim)
    if not same:
        _log.warning(
            "%s: slab %s starts with fresh state, it was learned by %s",
            folder,
            name,
            saved.optimizer,
        )
    before = from_plain({"kind": saved.optimizer, **saved.parameters}) if same else rule
    start = 0
    for vectors, state in _rows_of(folder, header, name, saved.slots if same else {}):
        some = rows[start : start + len(vectors)]
        fitting = (
            rule.restated(state, before, slab.spec.dim) if same else rule.initial_state(vectors)
        )
        slab.write(some, encode(vectors, slab.spec.dtype), encode(fitting, slab.spec.dtype))
        start += len(vectors)


def _rows_of(
    folder: Path, header: TableHeader, name: str, slots: Mapping[str, int]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Yield blocks of vectors float32 [k, dim] and of packed state float32 [k, S]."""
    arrays = [
        read_chunks(folder, header, array_name(name, variable), _BLOCK)
        for variable in (WEIGHTS, *slots)
    ]
    for weights, *state in zip(*arrays, strict=True):
        decoded = [decode(part, header.slabs[name].dtype) for part in (weights, *state)]
        yield decoded[0], np.concatenate([decoded[0][:, :0], *decoded[1:]], axis=1)


def _load_rest(folder: Path, header: TableHeader, parts: Holdings) -> None:
    """Take over the step, the days, the counters of fields of the same name, and sketches of the same spec."""
    parts.intake.start_at(header.step)
    parts.days[:] = header.days
    places = [parts.fields.index(name) for name in _names(header, parts)]
    for name, counter in parts.intake.tally.arrays().items():
        saved = read_array(folder, header, f"counters.{name}")
        counter[:] = 0
        np.add.at(counter, places, saved)
    for number, sketch in parts.intake.gate.sketches.items():
        arrays = {n: f"{SKETCH_PREFIX}{number}.{n}" for n in sketch.arrays()}
        try:
            sketch.load({n: read_array(folder, header, name) for n, name in arrays.items()})
        except InputError as error:
            _log.warning("%s: waiting keys are counted anew: %s", folder, error)


def _names(header: TableHeader, parts: Holdings) -> tuple[str, ...]:
    """The saved fields' names; those of a table without fields count as the first one here."""
    return parts.fields[:1] if header.fields == _ALL else header.fields


def _recoded(codes: NDArray[np.int16], header: TableHeader, parts: Holdings) -> NDArray[np.int16]:
    """Return saved field codes int16 [e] as codes here; fields that are not among the parts' follow at the end."""
    parts.add_fields(_names(header, parts))
    here = {name: code for code, name in enumerate(parts.fields)}
    return np.array([here[name] for name in _names(header, parts)], np.int16)[codes]


def _refuse_other(folder: Path, header: TableHeader, parts: Holdings, kind: str = "full") -> None:
    if header.shards != 1:
        raise InputError(
            f"{folder} is shard {header.shard} of {header.shards}: merge them first (elastic_embeddings.storage.shards)"
        )
    if header.kind != kind:
        raise InputError(
            f"{folder} holds a {header.kind} table: use {'apply_delta' if header.kind == 'delta' else 'restore'}"
        )
    saved = {name: slab.dim for name, slab in header.slabs.items()}
    here = {name: slab.spec.dim for name, slab in parts.slabs.items()}
    if saved != here:
        cure = "give the saved widths or start a new table"
        raise InputError(f"{folder} holds slabs of widths {saved}, this table has {here}: {cure}")
