"""The table on disk: a folder of plain `.npy` arrays and a `table.json` that names, shapes and checksums them. NumPy only.

Entries (every key counted in the index) lie in order of first occurrence, rows in the order of their entries; row numbers are
not stored. e entries, r admitted, f fields:

    table.json                 header, and the SHA-256 of the header itself
    keys, counts, last_seen    int64, integer, int32 [e]; last_seen is the step of the last occurrence
    admitted, fields           bool, int16 [e]; the field's place in the header's `fields`
    <slab>.weights             [r, dim], one row for each admitted entry
    <slab>.<slot>              [r, width], one file per optimizer slot
    tombstones, .._steps       int64, int32 [t], deleted keys, ascending by (step, key): see `elastic_embeddings.storage.delta`
    counters.<name>            int64 [f], events, hits, admitted, evicted, revived
    sketch.<i>.<name>          what a counting sketch is made of
    order                      int64 [e], in a shard alone: see `elastic_embeddings.storage.shards`

16-bit slabs are uint16 bits (bfloat16) or float16. A delta has the same files. A folder is replaced as a whole
(`elastic_embeddings.storage.replacement`); an array passes through memory in chunks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, JsonValue, ValidationError

from elastic_embeddings.errors import InputError
from elastic_embeddings.storage.array_files import (
    ArrayHeader,
    ArrayStream,
    check_file,
    map_array,
    read_stream,
    write_stream,
)
from elastic_embeddings.storage.replacement import replacing, whole

HEADER = "table.json"
FORMAT = 2
WEIGHTS = "weights"
ENTRY_ARRAYS = ("keys", "counts", "last_seen", "admitted", "fields")
TOMBSTONE_ARRAYS = ("tombstones", "tombstone_steps")
COUNTERS = ("events", "hits", "admitted", "evicted", "revived")
COUNTER_ARRAYS = tuple(f"counters.{name}" for name in COUNTERS)
ORDER = "order"
SKETCH_PREFIX = "sketch."

ArrayName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.]*$")]
"""Becomes a file's name, so it may not leave the folder."""


class SlabHeader(BaseModel, frozen=True, extra="forbid"):
    """What a slab was made of when it was saved.

    Attributes:
        dim: width of its vectors.
        init_scale: of initial vectors.
        dtype: of weights and slots; bfloat16 lies in the file as uint16 bits.
        optimizer: the class's name.
        parameters: of the optimizer, as its constructor takes them.
        slots: name → width, in column order of the packed state.
    """

    dim: int
    init_scale: float
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    optimizer: str
    parameters: dict[str, JsonValue]
    slots: dict[str, int]


class TableHeader(BaseModel, frozen=True, extra="forbid"):
    """What `table.json` says.

    Attributes:
        format: of the files; another one is refused.
        kind: a full table, or a delta: what changed after step `since`.
        step: optimizer steps taken, the clock of `last_seen`.
        since: the step that a delta starts from; None in a full table.
        deletions_since: tombstones of steps up to this one were dropped; no delta can start before it.
        seed: what initial vectors and admission were drawn with.
        fields: names, by code.
        days: the steps taken when each day began.
        slabs: by name.
        shard, shards: which part of the keys it holds, `mix64(key) % shards == shard`.
        arrays: by file name without suffix.
    """

    format: Literal[2] = 2
    kind: Literal["full", "delta"] = "full"
    step: int
    since: int | None = None
    deletions_since: int = 0
    seed: int
    fields: tuple[str, ...]
    days: tuple[int, ...] = (0,)
    slabs: dict[str, SlabHeader]
    shard: int = 0
    shards: int = 1
    arrays: dict[ArrayName, ArrayHeader] = {}


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
    """Write a table and put it in the place of `folder` when it is complete and on the disk; return the full header.

    Args:
        folder: made if missing; an older table there is replaced, any other content is refused.
        header: all but its `arrays`, which are filled in here.
        arrays: by name; written in order of the names, with one chunk of one array in memory at a time.

    Raises:
        InputError: arrays are missing, unknown or do not fit each other or their chunks, or `folder` is not a table's.
    """
    _refuse_misfits(folder, header, arrays)
    _refuse_foreign(folder)
    with replacing(folder) as staged:
        described = {
            name: write_stream(_path(staged, name), stream)
            for name, stream in sorted(arrays.items())
        }
        complete = header.model_copy(update={"arrays": described})
        _write_header(staged / HEADER, complete)
    return complete


def read_header(folder: Path) -> TableHeader:
    """Return what `table.json` says.

    Raises:
        InputError: it is missing, damaged or of another format.
    """
    path = whole(folder) / HEADER
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        body, digest = document["header"], document["sha256"]
        _refuse_format(path, body)
        header = TableHeader.model_validate(body)
    except FileNotFoundError as error:
        raise InputError(
            f"{path} is missing: this folder holds no saved table, restore from another checkpoint"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise InputError(
            f"{path} cannot be read as a table's header ({error}): restore from another checkpoint"
        ) from error
    if digest != _digest_of(body):
        raise InputError(
            f"{path} differs from its own checksum: it was damaged or edited, restore from another checkpoint"
        )
    return header


def verify(folder: Path, header: TableHeader) -> None:
    """Check every array's file against the header in one pass that keeps nothing, before anything is taken from it.

    Raises:
        InputError: a file is missing, of another size or damaged; the first such by name.
    """
    for name, described in header.arrays.items():
        check_file(_path(whole(folder), name), described)


def read_chunks(
    folder: Path, header: TableHeader, name: str, rows_per_chunk: int
) -> Iterator[NDArray]:
    """Yield an array in chunks of `rows_per_chunk` along axis 0, at least one, possibly empty. Call `verify` before.

    Raises:
        InputError: the header has no such array, or its file is missing or of another size.
    """
    return read_stream(_path(whole(folder), name), _described(folder, header, name), rows_per_chunk)


def read_array(folder: Path, header: TableHeader, name: str) -> NDArray:
    """Return a whole array, its checksum verified.

    Raises:
        InputError: the header has no such array, or its file is missing or damaged.
    """
    path, described = _path(whole(folder), name), _described(folder, header, name)
    check_file(path, described)
    return next(read_stream(path, described, max(1, described.shape[0])))


def open_array(folder: Path, header: TableHeader, name: str) -> NDArray:
    """Return an array mapped into memory, read-only, for access in any order. Call `verify` before.

    Raises:
        InputError: the header has no such array, or its file is missing or of another size.
    """
    return map_array(_path(whole(folder), name), _described(folder, header, name))


def read_vectors(folder: Path) -> SavedVectors:
    """Return the admitted keys and their vectors of a saved table; no TensorFlow, no optimizer state.

    Raises:
        InputError: a file is missing or damaged, or the rows do not fit the admitted keys.
    """
    header = read_header(folder)
    keys, counts, admitted = (
        read_array(folder, header, name) for name in ("keys", "counts", "admitted")
    )
    vectors = {name: _vectors(folder, header, name) for name in header.slabs}
    rows = int(np.count_nonzero(admitted))
    if any(len(array) != rows for array in vectors.values()):
        raise InputError(
            f"{folder}: {rows} keys are admitted, the slabs have other rows: restore from another checkpoint"
        )
    return SavedVectors(keys[admitted], counts[admitted].astype(np.int64), vectors)


def array_name(slab: str, variable: str) -> str:
    """Return the name of a slab variable's array, such as `deep.weights`."""
    return f"{slab}.{variable}"


def row_arrays(header: TableHeader) -> dict[str, int]:
    """Return the arrays with a row for each admitted key, and their widths: weights and slots of every slab."""
    widths = {}
    for name, slab in header.slabs.items():
        widths[array_name(name, WEIGHTS)] = slab.dim
        widths.update({array_name(name, slot): width for slot, width in slab.slots.items()})
    return widths


def _vectors(folder: Path, header: TableHeader, slab: str) -> NDArray[np.float32]:
    stored = read_array(folder, header, array_name(slab, WEIGHTS))
    if header.slabs[slab].dtype == "bfloat16":  # the upper half of a float32
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return stored.astype(np.float32, copy=False)


def _refuse_misfits(folder: Path, header: TableHeader, arrays: Mapping[str, ArrayStream]) -> None:
    """Raise unless the arrays are those of the layout and as long and wide as each other and the header say."""
    expected = _expected_shapes(header, arrays)
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
        what = f"arrays of other shapes {wrong}, missing {missing}, unknown {unknown}"
        raise InputError(
            f"{folder} cannot hold this table: {what}; give the arrays that the module's docstring lists"
        )


def _expected_shapes(
    header: TableHeader, arrays: Mapping[str, ArrayStream]
) -> dict[str, tuple[int, ...]]:
    def length(name: str) -> int:
        """Entries of an array; 0 where it is missing."""
        return arrays[name].shape[0] if name in arrays else 0

    widths = row_arrays(header)
    rows = length(next(iter(widths), ""))
    return {
        **{name: (length("keys"),) for name in (*ENTRY_ARRAYS, ORDER)},
        **{name: (rows, width) for name, width in widths.items()},
        **{name: (length(TOMBSTONE_ARRAYS[0]),) for name in TOMBSTONE_ARRAYS},
        **{name: (len(header.fields),) for name in COUNTER_ARRAYS},
    }


def _refuse_foreign(folder: Path) -> None:
    """Raise where replacing the folder would delete something that is no table's."""
    if not folder.exists():
        return
    foreign = folder.is_file() or any(
        path.is_dir() or path.suffix not in (".npy", ".json") for path in folder.iterdir()
    )
    if foreign or (any(folder.iterdir()) and not (folder / HEADER).is_file()):
        raise InputError(
            f"{folder} holds something other than a table and would be lost: save into a folder of its own"
        )


def _refuse_format(path: Path, body: Mapping[str, Any]) -> None:
    found = body.get("format", 1)
    if found != FORMAT:
        raise InputError(
            f"{path} is of format {found}, this program reads {FORMAT}: train anew, or read it with the older program"
        )


def _write_header(path: Path, header: TableHeader) -> None:
    body = header.model_dump(mode="json")
    with path.open("x", encoding="utf-8") as file:
        json.dump({"header": body, "sha256": _digest_of(body)}, file, indent=1)
        file.write("\n")


def _described(folder: Path, header: TableHeader, name: str) -> ArrayHeader:
    if name not in header.arrays:
        raise InputError(
            f"{folder / HEADER} names no array {name!r}: the table was saved with other slabs or slots"
        )
    return header.arrays[name]


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _digest_of(body: object) -> str:
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()
