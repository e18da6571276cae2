"""A table in shards by the hash of the key, and from any number of shards to any other.

    <folder>/shards.json             the shards and the SHA-256 of each one's `table.json`
    <folder>/shard-00000-of-00003/   a complete table of the keys with mix64(key) % 3 == 0

A shard's array `order` holds each entry's position in the whole table, so 1 → 3 → 1 shards gives
the same bytes. If a shard was saved without it, by a process that did not know the others, the
the positions of its entries are used, and equal positions are ordered by shard. Sketches cannot be
split by key: each shard gets a copy, and their elementwise maximum is an upper bound when the
shards are merged. The counters of the whole table go to shard 0 and are added up again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.hashing import mix64
from elastic_embeddings.errors import InputError
from elastic_embeddings.storage.checkpoint import (
    COUNTER_ARRAYS,
    HEADER,
    ORDER,
    SKETCH_PREFIX,
    read_header,
    write_table,
)
from elastic_embeddings.storage.delta import tombstone_arrays
from elastic_embeddings.storage.files import ArrayStream
from elastic_embeddings.storage.header import TableHeader
from elastic_embeddings.storage.selection import (
    RowSelection,
    SavedTable,
    check_same_arrays,
    selected_arrays,
)

INDEX = "shards.json"
_HASHED_AT_ONCE = 1 << 20


def shard_of(keys: NDArray[np.int64], shards: int) -> NDArray[np.int32]:
    """Return the shard of each key int64 [n], int32 [n]."""
    out = np.empty(len(keys), np.int32)
    # In blocks: `mix64` in NumPy makes several temporary arrays as large as its argument.
    for start in range(0, len(keys), _HASHED_AT_ONCE):
        part = slice(start, start + _HASHED_AT_ONCE)
        out[part] = mix64(np.ascontiguousarray(keys[part]).view(np.uint64)) % np.uint64(shards)
    return out


def shard_folders(folder: Path, shards: int) -> tuple[Path, ...]:
    """Return the folders of the shards of a checkpoint."""
    return tuple(folder / f"shard-{i:05d}-of-{shards:05d}" for i in range(shards))


def split(table: Path, folder: Path, shards: int) -> None:
    """Split a table into a sharded checkpoint, which replaces an older one in `folder`.

    Raises:
        InputError: `shards` is below 1, or a file of `table` is missing or damaged.
    """
    if shards < 1:
        raise InputError(f"{folder}: cannot cut a table into {shards} shards, give at least 1")
    reshard([table], shard_folders(folder, shards))
    seal(folder, shards)


def merge(folder: Path, table: Path) -> None:
    """Merge a sharded checkpoint into one table."""
    reshard(read_shards(folder), [table])


def seal(folder: Path, shards: int) -> None:
    """Publish the shards once all are written: replace `shards.json`, then delete older shards."""
    folders = shard_folders(folder, shards)
    for path in folders:
        # Raises if a shard is missing: the index must not name one that cannot be read.
        read_header(path)
    body = {"shards": {path.name: _sha256(path / HEADER) for path in folders}}
    # Synced before the rename: otherwise a power cut may leave the new name on an empty file.
    draft = folder / f".{INDEX}.saving"
    with draft.open("w", encoding="utf-8") as file:
        json.dump(body, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / INDEX)
    # Only now: until the new index was in place, the old one named these shards.
    for stale in set(folder.glob("shard-*-of-*")) - set(folders):
        shutil.rmtree(stale)


def read_shards(folder: Path) -> tuple[Path, ...]:
    """Return the folders of a sharded checkpoint, in order.

    Raises:
        InputError: `shards.json` is missing or damaged, or a shard is missing or was saved again
            since.
    """
    path = folder / INDEX
    try:
        named = dict(json.loads(path.read_text(encoding="utf-8"))["shards"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: no readable index of shards ({error}): restore from another checkpoint"
        ) from error
    for name, digest in named.items():
        header = folder / name / HEADER
        if not header.is_file() or _sha256(header) != digest:
            raise InputError(
                f"{header} is missing or not the one that {INDEX} names: "
                "restore from another checkpoint"
            )
    return tuple(folder / name for name in named)


def reshard(sources: Sequence[Path], targets: Sequence[Path]) -> None:
    """Write the table of all shards of a save as another number of shards.

    Args:
        sources: folders of all shards of one save, in any order; a single one is a whole table.
        targets: folders of the new shards, by number; a single one becomes a whole table.

    Raises:
        InputError: a shard is missing or damaged, or they are of different saves.
    """
    opened = [SavedTable.open(folder) for folder in sources]
    tables = sorted(opened, key=lambda table: table.header.shard)
    _check_complete(tables)
    check_same_arrays(tables)
    # 1. Put the entries of all shards into the order of the whole table.
    entries = RowSelection(np.zeros(0, np.int16), np.zeros(0, np.int32))
    orders = []
    for number, table in enumerate(tables):
        entries = entries.then(RowSelection.whole(number, len(table)))
        orders.append(table.array(ORDER) if ORDER in table.header.arrays else np.arange(len(table)))
    entries = entries.only(np.argsort(np.concatenate(orders), kind="stable"))
    # 2. Write each target's entries.
    owners = shard_of(entries.read([table.array("keys") for table in tables]), len(targets))
    for number, target in enumerate(targets):
        header = replace(tables[0].header, shard=number, shards=len(targets), arrays={})
        positions = np.flatnonzero(owners == number)
        arrays = selected_arrays(tables, entries.only(positions)) | _shared_arrays(tables, header)
        # A whole table is in order by itself.
        if len(targets) > 1:
            arrays[ORDER] = ArrayStream.of(positions)
        write_table(target, header, arrays)


def _shared_arrays(tables: Sequence[SavedTable], header: TableHeader) -> dict[str, ArrayStream]:
    """Tombstones, sketches and counters of one target."""
    keys, steps = (
        np.concatenate([table.array(name) for table in tables])
        for name in ("tombstones", "tombstone_steps")
    )
    own = shard_of(keys, header.shards) == header.shard
    # A delta holds the deletions after `since`, a full table all that were not dropped.
    since = header.since or header.deletions_since
    arrays = tombstone_arrays((keys[own], steps[own]), since)
    for name in tables[0].header.arrays:
        if name.startswith(SKETCH_PREFIX):
            maximum = np.maximum.reduce([table.array(name) for table in tables])
            arrays[name] = ArrayStream.of(maximum)
    for name in COUNTER_ARRAYS:
        counters = [table.array(name) for table in tables]
        total: NDArray[np.int64] = np.sum(counters, axis=0, dtype=np.int64)
        arrays[name] = ArrayStream.of(total if header.shard == 0 else np.zeros_like(total))
    return arrays


def _check_complete(tables: Sequence[SavedTable]) -> None:
    """Raise unless the tables are all shards of one save, in order."""
    if not tables:
        raise InputError("no shard was given: give the folders of all shards of one save")
    folder = tables[0].folder.parent
    found = [(table.header.shard, table.header.shards) for table in tables]
    if found != [(i, len(tables)) for i in range(len(tables))]:
        raise InputError(
            f"{folder}: shards {found} were given as (number, of): give each shard of one save once"
        )
    # Shards of one save agree in everything but the shard's number and its arrays.
    headers = [replace(table.header, shard=0, arrays={}) for table in tables]
    if any(header != headers[0] for header in headers):
        steps = [header.step for header in headers]
        raise InputError(
            f"{folder}: the shards are of different saves (steps {steps}): give those of one save"
        )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
