"""The table on disk: plain `.npy` arrays and a `table.json` that names, shapes and checksums them. NumPy only.

    table.json                header and the SHA-256 of the header itself
    keys, counts, last_seen   int64 [entries], every key ever counted
    rows                      int32 [entries], 0 = not admitted
    <slab>.weights, <slab>.z  float32 [rows, dim], row 1 first; one file per optimizer slot

Writing in one place and renaming into another is the caller's business.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from features.errors import InputError
from features.schema import Frozen
from training.settings import OptimizerSettings

HEADER = "table.json"
INDEX_ARRAYS = ("keys", "counts", "last_seen", "rows")


class ArrayHeader(Frozen):
    """One array file: its shape, NumPy dtype and the SHA-256 of its bytes."""

    shape: tuple[int, ...]
    dtype: str
    sha256: str


class SlabHeader(Frozen):
    """What a slab was made of when it was saved."""

    dim: int
    init_scale: float
    optimizer: OptimizerSettings
    slots: tuple[str, ...]


class TableHeader(Frozen):
    """What `table.json` says.

    Attributes:
        step: optimizer steps taken.
        batches: batches prepared, the clock of `last_seen`.
        seed: what initial vectors were drawn with.
        slabs: by name.
        arrays: by file name without suffix.
    """

    step: int
    batches: int
    seed: int
    slabs: dict[str, SlabHeader]
    arrays: dict[str, ArrayHeader] = {}


@dataclass(frozen=True)
class SavedVectors:
    """The admitted keys of a saved table and their vectors, without optimizer state.

    Attributes:
        keys: int64 [rows], in row order.
        counts: int64 [rows], occurrences of each key.
        vectors: slab name → float32 [rows, dim].
    """

    keys: NDArray[np.int64]
    counts: NDArray[np.int64]
    vectors: Mapping[str, NDArray[np.float32]]


def write_table(folder: Path, header: TableHeader, arrays: Iterable[tuple[str, NDArray]]) -> None:
    """Write the arrays one by one as they come, then the header that describes them.

    Args:
        folder: made if missing.
        header: all but its `arrays`, which are filled in here.
        arrays: `(name, array)`; a generator keeps one array in memory at a time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described = {name: _write_array(folder, name, array) for name, array in arrays}
    body = header.model_copy(update={"arrays": described}).model_dump(mode="json")
    document = {"header": body, "sha256": _digest_of(body)}
    (folder / HEADER).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_header(folder: Path) -> TableHeader:
    """Return what `table.json` says.

    Raises:
        InputError: it is missing, damaged or of another format.
    """
    path = folder / HEADER
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        body, digest = document["header"], document["sha256"]
        header = TableHeader.model_validate(body)
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: this folder holds no saved table, restore from another checkpoint") from error
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise InputError(f"{path} cannot be read as a table's header ({error}): restore from another checkpoint") from error
    if digest != _digest_of(body):
        raise InputError(f"{path} differs from its own checksum: it was damaged or edited, restore from another checkpoint")
    return header


def read_arrays(folder: Path, header: TableHeader, names: Iterable[str]) -> Iterator[tuple[str, NDArray]]:
    """Yield `(name, array)` for the names, each checked against the header.

    Raises:
        InputError: an array is not in the header, its file is missing, or its bytes differ from what was written.
    """
    for name in names:
        yield name, _read_array(folder, name, header)


def read_vectors(folder: Path) -> SavedVectors:
    """Return the admitted keys and their vectors of a saved table; no TensorFlow, no optimizer state.

    Raises:
        InputError: a file is missing or damaged.
    """
    header = read_header(folder)
    index = dict(read_arrays(folder, header, ("keys", "counts", "rows")))
    admitted = np.flatnonzero(index["rows"])
    by_row = admitted[np.argsort(index["rows"][admitted])]
    vectors = {slab: _read_array(folder, array_name(slab, "weights"), header) for slab in header.slabs}
    return SavedVectors(index["keys"][by_row], index["counts"][by_row], vectors)


def array_name(slab: str, variable: str) -> str:
    """Return the name of a slab variable's array, such as `deep.weights`."""
    return f"{slab}.{variable}"


def _write_array(folder: Path, name: str, array: NDArray) -> ArrayHeader:
    path = _path(folder, name)
    np.save(path, np.ascontiguousarray(array), allow_pickle=False)
    return ArrayHeader(shape=array.shape, dtype=array.dtype.str, sha256=_file_digest(path))


def _read_array(folder: Path, name: str, header: TableHeader) -> NDArray:
    path = _path(folder, name)
    if name not in header.arrays:
        raise InputError(f"{folder / HEADER} names no array {name!r}: the table was saved with other slabs or slots")
    if not path.is_file():
        raise InputError(f"{path} is missing: the checkpoint is incomplete, restore from another one")
    expected = header.arrays[name]
    if _file_digest(path) != expected.sha256:
        raise InputError(f"{path} differs from its checksum in {HEADER}: it is damaged, restore from another checkpoint")
    return np.load(path, allow_pickle=False)


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
