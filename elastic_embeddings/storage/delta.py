"""The changes of a table since a step, as a folder: full + deltas = full. NumPy only.

A delta has the files of `elastic_embeddings.storage.checkpoint`. It holds the entries with
`last_seen > since`, in entry order, with the rows of the admitted ones; the tombstones with
`tombstone_steps > since`; and sketches and counters as a whole. A tombstone's step is the first
that no longer finds the key: 1 + the steps at its deletion. So a key that is deleted after a save
and before the next step is in the delta that starts from that save.

A delta is applied in this order: keys with a tombstone are deleted; entries that still exist are
overwritten in place; the others are appended, in their order. So a key that was deleted and
occurred again is at the same position as in the live table.

Reading raises InputError if a file is missing or damaged, or if the deltas do not fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.errors import InputError
from elastic_embeddings.storage.checkpoint import (
    COUNTER_ARRAYS,
    SKETCH_PREFIX,
    TOMBSTONE_ARRAYS,
    read_array,
    write_table,
)
from elastic_embeddings.storage.files import ArrayStream
from elastic_embeddings.storage.header import TableHeader
from elastic_embeddings.storage.selection import RowSelection, SavedTable, selected_arrays

DeletedKeys = tuple[NDArray[np.int64], NDArray[np.int32]]
"""Deleted keys, and for each the first step that no longer finds it."""


@dataclass(frozen=True)
class DeltaFile:
    """A verified delta on disk.

    Attributes:
        folder: of the delta.
        header: with `since` and `step`.
        tombstones: int64 [t], keys to be deleted first.
        keys: int64 [e], in entry order.
        counts: integer [e].
        last_seen: int32 [e].
        admitted: bool [e]; the k-th true one has row k of the row arrays.
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
        """Verify a delta and read its entries, not its rows."""
        saved = SavedTable.open(folder)
        _check_kind(saved, "delta")
        names = ("tombstones", "keys", "counts", "last_seen", "admitted", "fields")
        arrays = (read_array(folder, saved.header, name) for name in names)
        return cls(folder, saved.header, *arrays)

    def check_follows(self, step: int) -> None:
        """Raise InputError unless the delta starts from the state after `step` steps."""
        _check_no_gap(self.folder, self.header, "this table", step)


def write_delta(
    folder: Path, header: TableHeader, arrays: Mapping[str, ArrayStream]
) -> TableHeader:
    """Write a delta as `write_table` writes a table; return the full header.

    Args:
        folder: created if missing; an older delta there is replaced.
        header: of kind "delta", with `since`.
        arrays: of the changed entries only.

    Raises:
        InputError: `header` is not a delta's, or tombstones that it needs were dropped, or as
            `write_table`.
    """
    if header.kind != "delta" or header.since is None or not 0 <= header.since <= header.step:
        raise InputError(
            f"{folder}: a {header.kind} since {header.since} at step {header.step} is no delta: "
            "give 0 <= since <= step"
        )
    # Without the dropped tombstones, a reader of the delta would keep deleted keys.
    if header.since < header.deletions_since:
        raise InputError(
            f"{folder}: deletions up to step {header.deletions_since} are forgotten, a delta since "
            f"{header.since} would miss some: save a full table, or a delta since "
            f"{header.deletions_since} or later"
        )
    return write_table(folder, header, arrays)


def tombstone_arrays(deleted: DeletedKeys, since: int) -> dict[str, ArrayStream]:
    """Return the tombstone arrays of the steps after `since`, ascending by (step, key)."""
    keys, steps = deleted
    chosen = np.flatnonzero(steps > since)
    # A canonical order: a table and the fold of its deltas must have equal bytes.
    order = chosen[np.lexsort((keys[chosen], steps[chosen]))]
    streams = (
        ArrayStream.of(keys[order].astype(np.int64)),
        ArrayStream.of(steps[order].astype(np.int32)),
    )
    return dict(zip(TOMBSTONE_ARRAYS, streams, strict=True))


def fold(full: Path, deltas: Sequence[Path], out: Path) -> TableHeader:
    """Write the full table of a table and the deltas after it, with the bytes of a full save.

    Rows are copied in chunks; some 60 bytes of memory are needed for each entry.

    Args:
        full: a full table.
        deltas: each of which starts at the step of the one before.
        out: created if missing; may be `full` itself.

    Raises:
        InputError: a file is missing or damaged, the chain has a gap, or fields or slabs differ.
    """
    tables = [SavedTable.open(folder) for folder in (full, *deltas)]
    _check_chain(tables)
    last = tables[-1]
    header = replace(last.header, kind="full", since=None, arrays={})
    arrays = selected_arrays(tables, _folded_entries(tables))
    # All tombstones. A delta repeats the deletions between the save before it and the next step,
    # so those of the save are dropped.
    keys, steps = np.zeros(0, np.int64), np.zeros(0, np.int32)
    for table in tables:
        earlier = steps <= (table.header.since or 0)
        keys = np.concatenate([keys[earlier], table.array("tombstones")])
        steps = np.concatenate([steps[earlier], table.array("tombstone_steps")])
    arrays.update(tombstone_arrays((keys, steps), header.deletions_since))
    # Counters and sketches are complete in every delta.
    for name in last.header.arrays:
        if name in COUNTER_ARRAYS or name.startswith(SKETCH_PREFIX):
            arrays[name] = ArrayStream.of(last.array(name))
    return write_table(out, header, arrays)


def _folded_entries(tables: Sequence[SavedTable]) -> RowSelection:
    """The entries of the folded table, and the newest file that has each."""
    entries, keys = RowSelection.whole(0, len(tables[0])), np.asarray(tables[0].array("keys"))
    for number, delta in enumerate(tables[1:], 1):
        # 1. Delete.
        alive = _positions_in(np.asarray(delta.array("tombstones")), keys) < 0
        entries, keys = entries.only(alive), keys[alive]
        # 2. Overwrite existing entries in place.
        changed = np.asarray(delta.array("keys"))
        at = _positions_in(changed, keys)
        overwritten = at >= 0
        source = np.where(overwritten, np.int16(number), entries.source)
        position = np.where(overwritten, at, entries.position)
        # 3. Append the new ones.
        new = np.ones(len(changed), np.bool_)
        new[at[overwritten]] = False
        appended = RowSelection.whole(number, len(changed)).only(new)
        entries = RowSelection(source, position).then(appended)
        keys = np.concatenate([keys, changed[new]])
    return entries


def _positions_in(array: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.int32]:
    """The position of each key in an array of distinct keys, int32 [n]; -1 where it is missing."""
    if not len(array):
        return np.full(len(keys), -1, np.int32)
    # Both are sorted: a search of ascending keys walks through memory in order.
    order, ascending = np.argsort(array), np.argsort(keys)
    ordered, sought = array[order], keys[ascending]
    # A key above all others is found behind the end, and is compared with the last one.
    at = np.minimum(np.searchsorted(ordered, sought), len(ordered) - 1)
    positions = np.empty(len(keys), np.int32)
    positions[ascending] = np.where(ordered[at] == sought, order[at], -1)
    return positions


def _check_chain(tables: Sequence[SavedTable]) -> None:
    _check_kind(tables[0], "full")
    for before, delta in pairwise(tables):
        _check_kind(delta, "delta")
        own, next_ = before.header, delta.header
        _check_no_gap(delta.folder, next_, str(before.folder), own.step)
        # Fields may be added at the end, but a field's code never changes.
        same_fields = own.fields == next_.fields[: len(own.fields)]
        if not same_fields or (own.shard, own.shards) != (next_.shard, next_.shards):
            raise InputError(
                f"{before.folder} has fields {own.fields}, shard {own.shard} of {own.shards}, "
                f"{delta.folder} was saved from another table: give its own deltas"
            )


def _check_kind(table: SavedTable, kind: str) -> None:
    if table.header.kind != kind:
        raise InputError(
            f"{table.folder} holds a {table.header.kind} table, a {kind} one is needed here: "
            "give the other folder"
        )


def _check_no_gap(folder: Path, header: TableHeader, base: str, step: int) -> None:
    if header.since != step:
        raise InputError(
            f"{folder} is the delta since step {header.since}, {base} is at step {step}: apply the "
            f"delta that starts at step {step}, or restore the table of step {header.since}"
        )
