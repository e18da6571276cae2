"""The table on disk: a folder of plain `.npy` arrays and a `table.json`. NumPy only.

Entries (every key counted in the index) are in order of first occurrence, rows in the order of
their entries; row numbers are not stored. e entries, r admitted, f fields:

    table.json                 header, and the SHA-256 of the header itself
    keys, counts, last_seen    int64, integer, int32 [e]; last_seen is the step of the last one
    admitted, fields           bool, int16 [e]; the field's position in the header's `fields`
    <slab>.weights             [r, dim], one row for each admitted entry
    <slab>.<slot>              [r, width], one file per optimizer slot
    tombstones, .._steps       int64, int32 [t], deleted keys, ascending by (step, key)
    counters.<name>            int64 [f], events, hits, admitted, evicted, revived
    sketch.<i>.<name>          the arrays of a counting sketch
    order                      int64 [e], only in a shard: see `elastic_embeddings.storage.shards`

16-bit slabs are uint16 bits (bfloat16) or float16. A delta has the same files, see
`elastic_embeddings.storage.delta`. A folder is replaced as a whole, see
`elastic_embeddings.storage.files`. Arrays are written and read in chunks.

Reading raises InputError if a file is missing or damaged, or if the header has no such array.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.errors import InputError
from elastic_embeddings.storage.files import (
    ArrayHeader,
    ArrayStream,
    check_file,
    map_array,
    read_stream,
    readable_folder,
    replacing,
    write_stream,
)
from elastic_embeddings.storage.header import TableHeader

HEADER = "table.json"
FORMAT = 2
WEIGHTS = "weights"
ENTRY_ARRAYS = ("keys", "counts", "last_seen", "admitted", "fields")
TOMBSTONE_ARRAYS = ("tombstones", "tombstone_steps")
COUNTERS = ("events", "hits", "admitted", "evicted", "revived")
COUNTER_ARRAYS = tuple(f"counters.{name}" for name in COUNTERS)
ORDER = "order"
SKETCH_PREFIX = "sketch."

_HINT = "restore from another checkpoint"


@dataclass(frozen=True)
class SavedVectors:
    """The admitted keys of a saved table and their vectors, without optimizer state.

    Attributes:
        keys: int64 [rows], in order of first occurrence.
        counts: int64 [rows], occurrences of each key.
        vectors: slab name → float32 [rows, dim].
    """

    keys: NDArray[np.int64]
    counts: NDArray[np.int64]
    vectors: Mapping[str, NDArray[np.float32]]


def write_table(
    folder: Path, header: TableHeader, arrays: Mapping[str, ArrayStream]
) -> TableHeader:
    """Write a table, replace `folder` once it is complete on the disk, and return the full header.

    Args:
        folder: created if missing; an older table there is replaced, other content is an error.
        header: without its `arrays`, which are filled in here.
        arrays: by name; written in order of the names, with one chunk in memory at a time.

    Raises:
        InputError: arrays are missing, unknown or do not fit each other or their chunks, or
            `folder` is not a table's.
    """
    _check_arrays(folder, header, arrays)
    _check_replaceable(folder)
    with replacing(folder) as staged:
        # In the order of the names: equal tables give equal headers, byte by byte.
        described = {
            name: write_stream(_path(staged, name), stream)
            for name, stream in sorted(arrays.items())
        }
        complete = replace(header, arrays=described)
        body = complete.to_json()
        with (staged / HEADER).open("x", encoding="utf-8") as file:
            # The header holds the checksums of the arrays, so its own covers the whole table.
            json.dump({"header": body, "sha256": _digest_of(body)}, file, indent=1)
            file.write("\n")
    return complete


def read_header(folder: Path) -> TableHeader:
    """Return the content of `table.json`."""
    path = readable_folder(folder) / HEADER
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        body, digest = document["header"], document["sha256"]
        found = body.get("format", 1)
        if found != FORMAT:
            raise InputError(
                f"{path} is of format {found}, this program reads {FORMAT}: "
                "train from scratch, or read it with the older program"
            )
        header = TableHeader.from_json(body)
    except InputError:
        raise  # it is a ValueError too, and has its own message
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: this folder holds no saved table, {_HINT}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read as a table's header ({error}): {_HINT}") from error
    if digest != _digest_of(body):
        raise InputError(f"{path} differs from its own checksum: it was damaged or edited, {_HINT}")
    return header


def verify(folder: Path, header: TableHeader) -> None:
    """Compare every array's file with the header, in one pass."""
    for name, described in header.arrays.items():
        check_file(_path(readable_folder(folder), name), described)


def read_chunks(
    folder: Path, header: TableHeader, name: str, rows_per_chunk: int
) -> Iterator[NDArray[Any]]:
    """Yield an array in chunks of rows, at least one, possibly empty. Call `verify` before."""
    path, described = _locate(folder, header, name)
    return read_stream(path, described, rows_per_chunk)


def read_array(folder: Path, header: TableHeader, name: str) -> NDArray[Any]:
    """Return a whole array, its checksum verified."""
    path, described = _locate(folder, header, name)
    check_file(path, described)
    # At least 1: an empty array is one empty chunk, and a range cannot have the step 0.
    return next(read_stream(path, described, max(1, described.shape[0])))


def open_array(folder: Path, header: TableHeader, name: str) -> NDArray[Any]:
    """Return an array mapped into memory, read-only, for random access. Call `verify` before."""
    return map_array(*_locate(folder, header, name))


def read_vectors(folder: Path) -> SavedVectors:
    """Return the admitted keys of a saved table and their vectors. Needs no TensorFlow.

    Raises:
        InputError: a file is missing or damaged, or the rows do not fit the admitted keys.
    """
    header = read_header(folder)
    keys, counts, admitted = (
        read_array(folder, header, name) for name in ("keys", "counts", "admitted")
    )
    rows, vectors = int(np.count_nonzero(admitted)), {}
    for name, slab in header.slabs.items():
        stored = read_array(folder, header, array_name(name, WEIGHTS))
        if len(stored) != rows:
            raise InputError(
                f"{folder}: {rows} keys are admitted, the slabs have other rows: {_HINT}"
            )
        if slab.dtype == "bfloat16":
            # A bfloat16 is the upper half of a float32.
            vectors[name] = (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
        else:
            vectors[name] = stored.astype(np.float32, copy=False)
    return SavedVectors(keys[admitted], counts[admitted].astype(np.int64), vectors)


def array_name(slab: str, variable: str) -> str:
    """Return the name of a slab variable's array, such as `deep.weights`."""
    return f"{slab}.{variable}"


def row_arrays(header: TableHeader) -> dict[str, int]:
    """Return the widths of the arrays with a row for each admitted key: weights and slots."""
    widths = {}
    for name, slab in header.slabs.items():
        widths[array_name(name, WEIGHTS)] = slab.dim
        widths.update({array_name(name, slot): width for slot, width in slab.slots.items()})
    return widths


def _check_arrays(folder: Path, header: TableHeader, arrays: Mapping[str, ArrayStream]) -> None:
    """Raise unless the arrays are those of the format, with lengths and widths that fit."""
    # 1. The expected shapes; a missing array has length 0 here and is reported below.
    lengths = {name: stream.shape[0] for name, stream in arrays.items()}
    widths = row_arrays(header)
    rows, tombstones = lengths.get(next(iter(widths), ""), 0), lengths.get(TOMBSTONE_ARRAYS[0], 0)
    expected: dict[str, tuple[int, ...]] = {
        **dict.fromkeys((*ENTRY_ARRAYS, ORDER), (lengths.get("keys", 0),)),
        **{name: (rows, width) for name, width in widths.items()},
        **dict.fromkeys(TOMBSTONE_ARRAYS, (tombstones,)),
        **dict.fromkeys(COUNTER_ARRAYS, (len(header.fields),)),
    }
    # 2. Compare. Sketches have any shape, and only shards have an order.
    wrong = {
        name: stream.shape
        for name, stream in arrays.items()
        if expected.get(name, stream.shape) != stream.shape
    }
    missing = sorted(expected.keys() - arrays.keys() - {ORDER})
    unknown = sorted(
        name for name in arrays.keys() - expected.keys() if not name.startswith(SKETCH_PREFIX)
    )
    if wrong or missing or unknown:
        raise InputError(
            f"{folder} cannot hold this table: arrays of other shapes {wrong}, missing {missing}, "
            f"unknown {unknown}; give the arrays that the module's docstring lists"
        )


def _check_replaceable(folder: Path) -> None:
    """Raise if replacing the folder would delete something that is not a table's."""
    if not folder.exists():
        return
    other = folder.is_file() or any(
        path.is_dir() or path.suffix not in (".npy", ".json") for path in folder.iterdir()
    )
    if other or (any(folder.iterdir()) and not (folder / HEADER).is_file()):
        raise InputError(
            f"{folder} holds something other than a table and would be lost: "
            "save into another folder"
        )


def _locate(folder: Path, header: TableHeader, name: str) -> tuple[Path, ArrayHeader]:
    if name not in header.arrays:
        raise InputError(
            f"{folder / HEADER} names no array {name!r}: the table was saved with other slabs or "
            "slots"
        )
    return _path(readable_folder(folder), name), header.arrays[name]


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _digest_of(body: object) -> str:
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()
