"""Saves a table's state and restores it: full tables and deltas.

There must be no pending batch while a table is saved. Everything is verified before a restore
changes anything: InputError is raised if a file is missing or damaged, if it is of another kind
(full or delta), or if the slabs' names or widths differ.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from elastic_embeddings.errors import InputError
from elastic_embeddings.index.key_index import KeyIndex
from elastic_embeddings.optimizers.row_storage import decode, encode
from elastic_embeddings.slabs.slab import Slab
from elastic_embeddings.state import TableState
from elastic_embeddings.storage.checkpoint import (
    ENTRY_ARRAYS,
    SKETCH_PREFIX,
    TOMBSTONE_ARRAYS,
    WEIGHTS,
    array_name,
    read_array,
    read_chunks,
    read_header,
    verify,
    write_table,
)
from elastic_embeddings.storage.delta import DeltaFile, tombstone_arrays, write_delta
from elastic_embeddings.storage.files import ArrayStream
from elastic_embeddings.storage.header import SlabHeader, TableHeader, as_plain, from_plain

_log = logging.getLogger(__name__)
_BLOCK = 1 << 15  # rows that are read and written together
_NO_FIELDS = ("all",)  # the fields of a table that was made without names


def save(folder: Path, state: TableState) -> None:
    """Write the whole table."""
    entries = state.pending.index.live()
    write_table(folder, _header(state, None), _arrays(state, entries, state.tombstones.floor))


def save_delta(folder: Path, state: TableState, since: int) -> None:
    """Write the changes after step `since`.

    Raises:
        InputError: `since` is after the table's step, or deletions since then are forgotten.
    """
    index = state.pending.index
    entries = index.live()
    changed = entries[index.last_seen[entries] > since]
    write_delta(folder, _header(state, since), _arrays(state, changed, since))


def restore(folder: Path, state: TableState) -> None:
    """Replace the content of a state by a saved table's; see `ElasticTable.restore`."""
    # 1. Verify.
    header = read_header(folder)
    _check_matches(folder, header, state)
    verify(folder, header)
    # 2. Replace the index. Rows are numbered in the order of the entries.
    keys, counts, last_seen, admitted, codes = (
        read_array(folder, header, name) for name in ENTRY_ARRAYS
    )
    fields = _field_codes(codes, header, state)
    # -1 is before every step: all tombstones are those of the content that is replaced.
    state.tombstones.drop_after(-1)
    state.pending.index = KeyIndex.from_arrays(keys, counts, last_seen, admitted, fields)
    # 3. Replace the rows.
    # Row 0 is the fallback, so the first admitted entry gets row 1.
    rows = np.arange(1, np.count_nonzero(admitted) + 1, dtype=np.int32)
    for name, slab in state.slabs.items():
        # To keep no row frees all rows of the old content.
        slab.compact(rows[:0])
        _load_slab(folder, header, name, slab, rows, counts[admitted])
    # 4. Replace everything else.
    _load_rest(folder, header, state)


def apply_delta(folder: Path, state: TableState) -> None:
    """Bring a state from the delta's `since` to its `step`, deletions included."""
    # 1. Verify.
    delta = DeltaFile.open(folder)
    delta.check_follows(state.pending.step)
    _check_matches(folder, delta.header, state, "delta")
    # 2. Delete. The delta repeats the deletions between its base and the next step, so they are
    #    dropped here.
    index = state.pending.index
    deleted = index.find(delta.tombstones)
    index.remove(deleted[deleted >= 0])
    state.tombstones.drop_after(delta.header.since or 0)
    # 3. Insert or overwrite the changed entries, and give rows to those that were admitted.
    fields = _field_codes(delta.fields, delta.header, state)
    entries = index.find_or_insert(delta.keys, delta.header.step, fields).entries
    # `find_or_insert` has counted each key once: the delta's counts replace that.
    index.counts[entries], index.last_seen[entries] = delta.counts, delta.last_seen
    index.allocate_rows(entries[delta.admitted & (index.rows[entries] == 0)])
    rows = index.rows[entries[delta.admitted]]
    # 4. Overwrite their rows, and everything else.
    for name, slab in state.slabs.items():
        _load_slab(folder, delta.header, name, slab, rows, delta.counts[delta.admitted])
    _load_rest(folder, delta.header, state)


def _header(state: TableState, since: int | None) -> TableHeader:
    slabs = {}
    for name, slab in state.slabs.items():
        spec, optimizer = slab.spec, as_plain(slab.spec.optimizer)
        slabs[name] = SlabHeader(
            dim=spec.dim,
            init_scale=spec.init_scale,
            dtype=spec.dtype,
            optimizer=optimizer.pop("kind"),
            parameters=optimizer,
            slots=spec.optimizer.slots(spec.dim),
        )
    return TableHeader(
        kind="full" if since is None else "delta",
        step=state.pending.step,
        since=since,
        deletions_since=state.tombstones.floor,
        seed=state.seed,
        fields=state.fields,
        days=tuple(state.days),
        slabs=slabs,
    )


def _arrays(
    state: TableState, entries: NDArray[np.int32], deletions_since: int
) -> dict[str, ArrayStream]:
    """The arrays of a table that has only these entries, int32 [e]."""
    # 1. Arrays by entry.
    index, pending = state.pending.index, state.pending
    arrays = {
        "keys": _stream(entries, (), np.int64, lambda some: index.keys[some]),
        "counts": _stream(entries, (), np.int32, lambda some: index.counts[some]),
        "last_seen": _stream(entries, (), np.int32, lambda some: index.last_seen[some]),
        "admitted": _stream(entries, (), np.bool_, lambda some: index.rows[some] > 0),
        "fields": _stream(entries, (), np.int16, lambda some: index.fields[some].astype(np.int16)),
    }
    # 2. Arrays by row, in the order of the entries. A packed state becomes a file per slot.
    rows = index.rows[entries]
    rows = rows[rows > 0]
    for name, slab in state.slabs.items():
        # How a slab stores weights depends on its kind and dtype, which an empty read shows.
        dtype, start = slab.read_weights(rows[:0]).dtype, 0
        arrays[array_name(name, WEIGHTS)] = _stream(
            rows, (slab.spec.dim,), dtype, slab.read_weights
        )
        for slot, width in slab.spec.optimizer.slots(slab.spec.dim).items():
            columns = slice(start, start + width)
            arrays[array_name(name, slot)] = _stream(
                rows, (width,), dtype, partial(slab.read_state, columns=columns)
            )
            start += width
    # 3. Tombstones, counters and sketches.
    arrays.update(tombstone_arrays(state.tombstones.arrays(), deletions_since))
    for name, counter in pending.counters.arrays().items():
        arrays[f"counters.{name}"] = ArrayStream.of(counter)
    for number, sketch in pending.admission.sketches.items():
        for name, array in sketch.arrays().items():
            arrays[f"{SKETCH_PREFIX}{number}.{name}"] = ArrayStream.of(array)
    return arrays


def _stream(
    chosen: NDArray[np.int32],
    shape: tuple[int, ...],
    dtype: DTypeLike,
    read: Callable[[NDArray[np.int32]], NDArray[Any]],
) -> ArrayStream:
    """The stream of what `read` returns for the chosen entries or rows."""
    # A generator: only the block that is being written is in memory.
    chunks = (read(chosen[start : start + _BLOCK]) for start in range(0, len(chosen), _BLOCK))
    return ArrayStream((len(chosen), *shape), dtype, chunks)


def _load_slab(
    folder: Path,
    header: TableHeader,
    name: str,
    slab: Slab,
    rows: NDArray[np.int32],
    counts: NDArray[Any],
) -> None:
    """Write a saved slab's vectors and optimizer state into the rows int32 [k] with counts [k]."""
    if len(rows):
        slab.ensure(int(rows.max()))
    saved, rule, dim = header.slabs[name], slab.spec.optimizer, slab.spec.dim
    same_rule = saved.optimizer == type(rule).__name__ and saved.slots == rule.slots(dim)
    if not same_rule:
        _log.warning(
            "%s: slab %s starts with fresh state, it was trained with %s",
            folder,
            name,
            saved.optimizer,
        )
    slots: Mapping[str, int] = saved.slots if same_rule else {}
    # The optimizer that made the state: `restated` needs its learning rate.
    before = from_plain({"kind": saved.optimizer, **saved.parameters}) if same_rule else rule
    variables = [
        read_chunks(folder, header, array_name(name, variable), _BLOCK)
        for variable in (WEIGHTS, *slots)
    ]
    start = 0
    for chunks in zip(*variables, strict=True):
        vectors, *parts = (decode(part, saved.dtype) for part in chunks)
        if same_rule:
            # The first part has no columns, as an optimizer may have no slots.
            packed = np.concatenate([vectors[:, :0], *parts], axis=1)
            seen = counts[start : start + len(vectors)]
            optimizer_state = rule.restated(packed, vectors, before, seen)
        else:
            optimizer_state = rule.initial_state(vectors)
        block = rows[start : start + len(vectors)]
        dtype = slab.spec.dtype
        slab.write(block, encode(vectors, dtype), encode(optimizer_state, dtype))
        start += len(vectors)


def _load_rest(folder: Path, header: TableHeader, state: TableState) -> None:
    """Load step, days, tombstones, counters of the same fields, and sketches of the same spec."""
    state.pending.resume_at(header.step)
    state.days[:] = header.days
    keys, steps = (read_array(folder, header, name) for name in TOMBSTONE_ARRAYS)
    for step in np.unique(steps):
        state.tombstones.add(keys[steps == step], int(step))
    state.tombstones.floor = header.deletions_since
    positions = [state.fields.index(name) for name in _field_names(header, state)]
    for name, counter in state.pending.counters.arrays().items():
        # In place: `arrays()` returns the counters themselves, not copies.
        counter[:] = 0
        np.add.at(counter, positions, read_array(folder, header, f"counters.{name}"))
    for number, sketch in state.pending.admission.sketches.items():
        names = {name: f"{SKETCH_PREFIX}{number}.{name}" for name in sketch.arrays()}
        try:
            sketch.load({name: read_array(folder, header, file) for name, file in names.items()})
        except InputError as error:
            _log.warning("%s: keys without a row are counted from 0: %s", folder, error)


def _field_names(header: TableHeader, state: TableState) -> tuple[str, ...]:
    """The saved fields' names; the only field of a table without names is the first one here."""
    return state.fields[:1] if header.fields == _NO_FIELDS else header.fields


def _field_codes(
    codes: NDArray[np.int16], header: TableHeader, state: TableState
) -> NDArray[np.int16]:
    """Return saved field codes int16 [e] as codes of the state; unknown fields are appended."""
    names = _field_names(header, state)
    state.add_fields(names)
    return np.array([state.fields.index(name) for name in names], np.int16)[codes]


def _check_matches(
    folder: Path, header: TableHeader, state: TableState, kind: str = "full"
) -> None:
    if header.shards != 1:
        raise InputError(
            f"{folder} is shard {header.shard} of {header.shards}: "
            "merge them first (elastic_embeddings.storage.shards)"
        )
    if header.kind != kind:
        method = "apply_delta" if header.kind == "delta" else "restore"
        raise InputError(f"{folder} holds a {header.kind} table: use {method}")
    saved = {name: slab.dim for name, slab in header.slabs.items()}
    own = {name: slab.spec.dim for name, slab in state.slabs.items()}
    if saved != own:
        raise InputError(
            f"{folder} holds slabs of widths {saved}, this table has {own}: "
            "give the saved widths or start a new table"
        )
