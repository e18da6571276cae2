"""What changed in a table since a step, as a folder: full + deltas = full, deletions included. NumPy only.

A delta has the files of `elastic_embeddings.storage.checkpoint`. It holds the entries with `last_seen > since`, in entry
order, with the rows of the admitted among them; the tombstones with `tombstone_steps > since`; and sketches and counters
as a whole.
A tombstone's step is the first that no longer meets the key: 1 + the steps taken when it was deleted. So what is deleted
after a save, before the next step, is in the delta that starts from that save.

A delta is applied in this order: keys with a tombstone go; entries that are still known are overwritten in place; the
others follow at the end, in their order. So a key that was deleted and seen again is where the live table has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.errors import InputError
from elastic_embeddings.storage.array_files import ArrayStream
from elastic_embeddings.storage.checkpoint import (
    COUNTER_ARRAYS,
    SKETCH_PREFIX,
    TOMBSTONE_ARRAYS,
    TableHeader,
    read_array,
    read_chunks,
    write_table,
)
from elastic_embeddings.storage.selection import SavedTable, Selection, selected_arrays

Tombstones = tuple[NDArray[np.int64], NDArray[np.int32]]
"""Deleted keys, and the first step that no longer met each."""


@dataclass(frozen=True)
class DeltaFile:
    """A delta on disk, verified.

    Attributes:
        folder: where it lies.
        header: with `since` and `step`.
        tombstones: int64 [t], keys to be deleted first.
        keys: int64 [e], in entry order.
        counts: integer [e].
        last_seen: int32 [e].
        admitted: bool [e]; the k-th true one has row k of `chunks`.
        fields: int16 [e].
    """

    folder: Path
    header: TableHeader
    tombstones: NDArray[np.int64]
    keys: NDArray[np.int64]
    counts: NDArray[Any]
    last_seen: NDArray[np.int32]
    admitted: NDArray[np.bool_]
    fields: NDArray[np.int16]

    @classmethod
    def open(cls, folder: Path) -> DeltaFile:
        """Verify a delta and read what it says of keys; rows are read by `chunks`.

        Raises:
            InputError: a file is missing or damaged, or the folder holds a full table.
        """
        saved = SavedTable.open(folder)
        _refuse_kind(saved, "delta")
        names = ("tombstones", "keys", "counts", "last_seen", "admitted", "fields")
        return cls(
            folder, saved.header, *(read_array(folder, saved.header, name) for name in names)
        )

    def refuse_unless_follows(self, step: int) -> None:
        """Raise InputError unless the delta starts from the state after `step` steps."""
        _refuse_gap(self.folder, self.header, "this table", step)

    def chunks(self, name: str, rows_per_chunk: int) -> Iterator[NDArray[Any]]:
        """Yield a row array such as `deep.weights` in chunks of rows."""
        return read_chunks(self.folder, self.header, name, rows_per_chunk)


def write_delta(
    folder: Path, header: TableHeader, arrays: Mapping[str, ArrayStream]
) -> TableHeader:
    """Write a delta as `write_table` writes a table; return the full header.

    Args:
        folder: made if missing; an older delta there is replaced.
        header: of kind "delta", with `since`.
        arrays: of the changed entries alone.

    Raises:
        InputError: `header` is not a delta's, or tombstones that it needs were dropped, or as `write_table`.
    """
    if header.kind != "delta" or header.since is None or not 0 <= header.since <= header.step:
        raise InputError(
            f"{folder}: a {header.kind} since {header.since} at step {header.step} is no delta: give 0 <= since <= step"
        )
    if header.since < header.deletions_since:
        what = f"deletions up to step {header.deletions_since} are forgotten, a delta since {header.since} would miss some"
        raise InputError(
            f"{folder}: {what}: save a full table, or a delta since {header.deletions_since} or later"
        )
    return write_table(folder, header, arrays)


def tombstone_arrays(tombstones: Tombstones, since: int) -> dict[str, ArrayStream]:
    """Return the two tombstone arrays of a file, ascending by (step, key), of the steps after `since`."""
    keys, steps = tombstones
    chosen = np.flatnonzero(steps > since)
    order = chosen[np.lexsort((keys[chosen], steps[chosen]))]
    streams = (
        ArrayStream.of(keys[order].astype(np.int64)),
        ArrayStream.of(steps[order].astype(np.int32)),
    )
    return dict(zip(TOMBSTONE_ARRAYS, streams, strict=True))


def fold(full: Path, deltas: Sequence[Path], out: Path) -> TableHeader:
    """Write the full table that a table and the deltas after it make, byte for byte what `save` would have written.

    Rows pass through in chunks; for a moment some 60 bytes of memory are needed for each entry, whatever the rows' width.

    Args:
        full: a full table.
        deltas: each of which starts where the one before ended.
        out: made if missing; may be `full` itself.

    Raises:
        InputError: a file is missing or damaged, the chain has a gap, or fields, slabs or slots differ.
    """
    tables = [SavedTable.open(folder) for folder in (full, *deltas)]
    _refuse_broken_chain(tables)
    last = tables[-1]
    header = last.header.model_copy(update={"kind": "full", "since": None, "arrays": {}})
    arrays = selected_arrays(tables, _folded_entries(tables))
    arrays.update(tombstone_arrays(_folded_tombstones(tables), header.deletions_since))
    states = [
        name
        for name in last.header.arrays
        if name in COUNTER_ARRAYS or name.startswith(SKETCH_PREFIX)
    ]
    arrays.update({name: ArrayStream.of(last.array(name)) for name in states})
    return write_table(out, header, arrays)


def _folded_entries(tables: Sequence[SavedTable]) -> Selection:
    entries, keys = Selection.whole(0, len(tables[0])), np.asarray(tables[0].array("keys"))
    for number, delta in enumerate(tables[1:], 1):
        living = _places(keys, np.asarray(delta.array("tombstones"))) < 0
        entries, keys = entries.only(living), keys[living]
        entries, keys = _overwritten(entries, keys, number, np.asarray(delta.array("keys")))
    return entries


def _overwritten(
    entries: Selection, keys: NDArray[np.int64], number: int, changed: NDArray[np.int64]
) -> tuple[Selection, NDArray[np.int64]]:
    """Let source `number` speak for its keys `changed`: where they are, or at the end."""
    places = _places(keys, changed)
    known = places >= 0
    source, place = (
        np.where(known, np.int16(number), entries.source),
        np.where(known, places, entries.place),
    )
    new = np.ones(len(changed), np.bool_)
    new[places[known]] = False
    added = Selection.whole(number, len(changed)).only(new)
    return Selection(source, place).then(added), np.concatenate([keys, changed[new]])


def _places(keys: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.int32]:
    """Where each key stands in `among`, int32 [n]; -1 where it does not."""
    if not len(among):
        return np.full(len(keys), -1, np.int32)
    order, ascending = (
        np.argsort(among),
        np.argsort(keys),
    )  # both sorted: one walk through memory, no search at random
    ordered, sought = among[order], keys[ascending]
    at = np.minimum(np.searchsorted(ordered, sought), len(ordered) - 1)
    places = np.empty(len(keys), np.int32)
    places[ascending] = np.where(ordered[at] == sought, order[at], -1)
    return places


def _folded_tombstones(tables: Sequence[SavedTable]) -> Tombstones:
    """All of them; a delta tells again what was deleted between the save before it and the next step."""
    keys, steps = np.zeros(0, np.int64), np.zeros(0, np.int32)
    for table in tables:
        earlier = steps <= (table.header.since or 0)
        keys = np.concatenate([keys[earlier], table.array("tombstones")])
        steps = np.concatenate([steps[earlier], table.array("tombstone_steps")])
    return keys, steps


def _refuse_broken_chain(tables: Sequence[SavedTable]) -> None:
    _refuse_kind(tables[0], "full")
    for before, delta in pairwise(tables):
        _refuse_kind(delta, "delta")
        _refuse_gap(delta.folder, delta.header, str(before.folder), before.header.step)
        here, there = before.header, delta.header
        if here.fields != there.fields[: len(here.fields)] or (here.shard, here.shards) != (
            there.shard,
            there.shards,
        ):
            what = f"fields {here.fields}, shard {here.shard} of {here.shards}"
            raise InputError(
                f"{before.folder} has {what}, {delta.folder} was saved from another table: give its own deltas"
            )


def _refuse_kind(table: SavedTable, kind: str) -> None:
    if table.header.kind != kind:
        raise InputError(
            f"{table.folder} holds a {table.header.kind} table, a {kind} one is needed here: give the other folder"
        )


def _refuse_gap(folder: Path, header: TableHeader, base: str, step: int) -> None:
    if header.since != step:
        cure = f"apply the delta that starts at step {step}, or restore the table of step {header.since}"
        raise InputError(
            f"{folder} is the delta since step {header.since}, {base} is at step {step}: {cure}"
        )
