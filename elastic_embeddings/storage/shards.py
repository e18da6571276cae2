"""A table in parts by the hash of the key, and from any number of parts to any other.

    <folder>/shards.json             the shards of this checkpoint and the SHA-256 of each one's `table.json`
    <folder>/shard-00000-of-00003/   a complete table of the keys with mix64(key) % 3 == 0

A shard's array `order` holds each entry's place in the whole table, so 1 → 3 → 1 shards gives the same bytes. Where a shard
was saved without it, by a process that knew nothing of the others, its entries' own places stand for it, and equal places
go by shard. Sketches cannot be cut by key: each shard gets a copy, and their elementwise maximum is an upper bound for
the keys of each when they are put together. Counters of the whole go to shard 0 and add up again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.hashing import mix64
from elastic_embeddings.errors import InputError
from elastic_embeddings.storage.array_files import ArrayStream
from elastic_embeddings.storage.checkpoint import (
    COUNTER_ARRAYS,
    HEADER,
    ORDER,
    SKETCH_PREFIX,
    TableHeader,
    read_header,
    write_table,
)
from elastic_embeddings.storage.delta import Tombstones, tombstone_arrays
from elastic_embeddings.storage.selection import (
    SavedTable,
    Selection,
    refuse_unlike,
    selected_arrays,
)

INDEX = "shards.json"
_HASHED_AT_ONCE = 1 << 20


def shard_of(keys: NDArray[np.int64], shards: int) -> NDArray[np.int32]:
    """Return int32 [n]: which of `shards` shards each key int64 [n] belongs to."""
    out = np.empty(len(keys), np.int32)
    for start in range(0, len(keys), _HASHED_AT_ONCE):
        part = slice(start, start + _HASHED_AT_ONCE)
        out[part] = mix64(np.ascontiguousarray(keys[part]).view(np.uint64)) % np.uint64(shards)
    return out


def shard_folders(folder: Path, shards: int) -> tuple[Path, ...]:
    """Return where the shards of a checkpoint of `shards` shards lie."""
    return tuple(folder / f"shard-{i:05d}-of-{shards:05d}" for i in range(shards))


def split(table: Path, folder: Path, shards: int) -> None:
    """Cut a table into a sharded checkpoint, which takes the place of an older one in `folder`.

    Raises:
        InputError: `shards` is below 1, or a file of `table` is missing or damaged.
    """
    if shards < 1:
        raise InputError(f"{folder}: cannot cut a table into {shards} shards, give at least 1")
    reshard([table], shard_folders(folder, shards))
    seal(folder, shards)


def merge(folder: Path, table: Path) -> None:
    """Put a sharded checkpoint together into one table.

    Raises:
        InputError: a shard is missing, damaged or of another save.
    """
    reshard(read_shards(folder), [table])


def seal(folder: Path, shards: int) -> None:
    """Say that all shards are written: replace `shards.json` at once, then delete shards that it no longer names.

    Raises:
        InputError: a shard is missing.
    """
    folders = shard_folders(folder, shards)
    for path in folders:
        read_header(path)
    body = {"shards": {path.name: _sha256(path / HEADER) for path in folders}}
    draft = folder / f".{INDEX}.saving"
    with draft.open("w", encoding="utf-8") as file:
        json.dump(body, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / INDEX)
    for stale in set(folder.glob("shard-*-of-*")) - set(folders):
        shutil.rmtree(stale)


def read_shards(folder: Path) -> tuple[Path, ...]:
    """Return the folders of a sharded checkpoint, in order.

    Raises:
        InputError: `shards.json` is missing or damaged, or a shard is missing or was saved again since.
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
                f"{header} is missing or not the one that {INDEX} names: restore from another checkpoint"
            )
    return tuple(folder / name for name in named)


def reshard(sources: Sequence[Path], targets: Sequence[Path]) -> None:
    """Write the table that all shards of a save make into another number of shards; one source or target is a whole table.

    Args:
        sources: folders of all shards of one save, in any order.
        targets: where its parts go, by number.

    Raises:
        InputError: a file is missing or damaged, a shard is missing, or they are of different saves.
    """
    tables = sorted(
        (SavedTable.open(folder) for folder in sources), key=lambda table: table.header.shard
    )
    _refuse_incomplete(tables)
    refuse_unlike(tables)
    entries = _in_order(tables)
    owners = shard_of(entries.take([table.array("keys") for table in tables]), len(targets))
    for number, target in enumerate(targets):
        header = tables[0].header.model_copy(
            update={"shard": number, "shards": len(targets), "arrays": {}}
        )
        places = np.flatnonzero(owners == number)
        arrays = selected_arrays(tables, entries.only(places)) | _undivided(tables, header)
        if len(targets) > 1:
            arrays[ORDER] = ArrayStream.of(places)
        write_table(target, header, arrays)


def _in_order(tables: Sequence[SavedTable]) -> Selection:
    """All entries of all shards as the whole table has them."""
    entries = Selection(np.zeros(0, np.int16), np.zeros(0, np.int32))
    orders = []
    for number, table in enumerate(tables):
        entries = entries.then(Selection.whole(number, len(table)))
        orders.append(table.array(ORDER) if ORDER in table.header.arrays else np.arange(len(table)))
    return entries.only(np.argsort(np.concatenate(orders), kind="stable"))


def _undivided(tables: Sequence[SavedTable], header: TableHeader) -> dict[str, ArrayStream]:
    """Tombstones, sketches and counters of one target."""
    keys, steps = (
        np.concatenate([t.array(name) for t in tables])
        for name in ("tombstones", "tombstone_steps")
    )
    mine = shard_of(keys, header.shards) == header.shard
    tombstones: Tombstones = (keys[mine], steps[mine])
    sketches = [name for name in tables[0].header.arrays if name.startswith(SKETCH_PREFIX)]
    return {
        **tombstone_arrays(tombstones, header.since or header.deletions_since),
        **{name: ArrayStream.of(_maximum(tables, name)) for name in sketches},
        **{
            name: ArrayStream.of(_total(tables, name) * np.int64(header.shard == 0))
            for name in COUNTER_ARRAYS
        },
    }


def _maximum(tables: Sequence[SavedTable], name: str) -> NDArray[np.generic]:
    return np.maximum.reduce([table.array(name) for table in tables])


def _total(tables: Sequence[SavedTable], name: str) -> NDArray[np.int64]:
    return np.sum([table.array(name) for table in tables], axis=0, dtype=np.int64)


def _refuse_incomplete(tables: Sequence[SavedTable]) -> None:
    """Raise unless the tables are all shards of one save, in order."""
    if not tables:
        raise InputError("no shard was given: give the folders of all shards of one save")
    found = [(table.header.shard, table.header.shards) for table in tables]
    if found != [(i, len(tables)) for i in range(len(tables))]:
        raise InputError(
            f"{tables[0].folder.parent}: shards {found} were given as (number, of): give each shard of one save once"
        )
    saves = {
        table.header.model_copy(update={"shard": 0, "arrays": {}}).model_dump_json()
        for table in tables
    }
    if len(saves) > 1:
        steps = [table.header.step for table in tables]
        raise InputError(
            f"{tables[0].folder.parent}: the shards are of different saves (steps {steps}): give those of one save"
        )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
