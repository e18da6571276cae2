"""Array files, and folders that are replaced as a whole. NumPy only, no pickle.

An array is one `.npy` file, written and read in chunks along the first axis, with a SHA-256.

A folder `table` is replaced in these steps: the new content is written into its sibling
`.table.saving` and synced; `table` is renamed to `.table.replaced` and `.table.saving` to `table`;
the old one is deleted. At every moment `table` is complete, or it is missing between the two
renames while `.table.replaced` is complete. Readers go through `readable_folder`, which then
returns that one, and the next save renames it back first. Readers ignore the remains of a killed
save and the next save removes them. Only one process may write to a folder at a time, and a reader
must not be open during two saves.

Reading raises InputError if a file is missing, is no `.npy`, or differs from its header.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from elastic_embeddings.core.sync import sync_path
from elastic_embeddings.errors import InputError

_CHUNK_BYTES = 8 << 20
_HINT = "restore from another checkpoint"
# Version 1.0 of the format, in which two bytes hold the length of the header.
_MAGIC = np.lib.format.magic(1, 0)
_SYNCS_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True)
class ArrayHeader:
    """The description of one array file.

    Attributes:
        shape: of the array.
        dtype: as NumPy writes it (`<i8`).
        sha256: of the whole file, as `sha256sum` prints it.
    """

    shape: tuple[int, ...]
    dtype: str
    sha256: str


@dataclass(frozen=True)
class ArrayStream:
    """An array that is never in memory as a whole.

    Attributes:
        shape: of the whole array, at least one axis.
        dtype: of every chunk; nothing is converted.
        chunks: pieces along axis 0, in order; each may be overwritten once the next is requested.
    """

    shape: tuple[int, ...]
    dtype: DTypeLike
    chunks: Iterable[NDArray[Any]]

    @classmethod
    def of(cls, array: NDArray[Any]) -> ArrayStream:
        """Return the stream of an array in memory: views of about 8 MiB."""
        rows = rows_per_chunk(array.shape, array.dtype)
        chunks = (array[start : start + rows] for start in range(0, len(array), rows))
        return cls(array.shape, array.dtype, chunks)


def rows_per_chunk(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    """Return how many rows of an array of this shape and dtype make about 8 MiB, at least 1."""
    row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
    return max(1, _CHUNK_BYTES // max(1, row_bytes))


def write_stream(path: Path, stream: ArrayStream) -> ArrayHeader:
    """Write a new `.npy` file chunk by chunk and return its header. The caller syncs it.

    Raises:
        InputError: a chunk has another dtype or width than the stream, or the chunks do not add up
            to its shape.
    """
    dtype, rows, digest = np.dtype(stream.dtype), 0, hashlib.sha256()
    npy_header = io.BytesIO()
    described = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": stream.shape,
    }
    np.lib.format.write_array_header_1_0(npy_header, described)
    with path.open("xb") as file:
        file.write(npy_header.getvalue())
        digest.update(npy_header.getvalue())
        for chunk in stream.chunks:
            if chunk.dtype != dtype or chunk.shape[1:] != stream.shape[1:]:
                raise InputError(
                    f"{path}: a chunk is {chunk.dtype} {chunk.shape} of an array {dtype} "
                    f"{stream.shape}: give equal ones"
                )
            rows += len(chunk)
            # A chunk may be columns of a packed state, whose bytes are not contiguous.
            content = _bytes_of(np.ascontiguousarray(chunk))
            file.write(content)
            digest.update(content)
    if rows != stream.shape[0]:
        raise InputError(
            f"{path}: the chunks hold {rows} rows, {stream.shape[0]} were announced: "
            "give chunks that add up"
        )
    return ArrayHeader(shape=stream.shape, dtype=dtype.str, sha256=digest.hexdigest())


def read_stream(path: Path, header: ArrayHeader, rows: int) -> Iterator[NDArray[Any]]:
    """Yield an array file in chunks of `rows` rows; at least one chunk, possibly empty.

    The size is checked, the checksum is not: see `check_file`.
    """
    with _open_array(path, header) as file:
        for start in range(0, max(1, header.shape[0]), rows):
            chunk = np.empty((min(rows, header.shape[0] - start), *header.shape[1:]), header.dtype)
            if file.readinto(_bytes_of(chunk)) != chunk.nbytes:
                raise InputError(
                    f"{path} ended while it was read: another process writes to it, {_HINT}"
                )
            yield chunk


def map_array(path: Path, header: ArrayHeader) -> NDArray[Any]:
    """Return an array file mapped into memory, read-only; only its size is checked."""
    with _open_array(path, header) as file:
        return np.memmap(file, header.dtype, "r", file.tell(), header.shape)


def check_file(path: Path, header: ArrayHeader) -> None:
    """Read the whole file once, in pieces, and compare it with its header."""
    with _open_array(path, header) as file:
        file.seek(0)
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != header.sha256:
        raise InputError(f"{path} differs from its checksum: it is damaged, {_HINT}")


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give the block an empty folder, which replaces `folder` when the block ends without an error.

    Args:
        folder: its parents are created if missing; it contains files only, no folders.
    """
    folder = folder.absolute()
    staged, replaced = _sibling(folder, "saving"), _sibling(folder, "replaced")
    # 1. Undo what a killed save left: finish its swap, or rename the old folder back.
    shutil.rmtree(staged, ignore_errors=True)
    if replaced.exists() and folder.exists():
        shutil.rmtree(replaced)
    elif replaced.exists():
        replaced.rename(folder)
    staged.mkdir(parents=True)
    try:
        yield staged
        # 2. Sync before the rename: otherwise a power cut may leave the new name on empty files.
        #    Several at a time, because the disk syncs many files in about the time of one.
        with ThreadPoolExecutor(_SYNCS_AT_ONCE) as pool:
            for _ in pool.map(sync_path, staged.iterdir()):
                pass
        sync_path(staged)
        # 3. Swap. The parent is synced so that the new name survives before the old data goes.
        if folder.exists():
            folder.rename(replaced)
        staged.rename(folder)
        sync_path(folder.parent)
        # What cannot be deleted now is removed by the next save.
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        # After the swap there is no such folder; after an error it holds a part of a table.
        shutil.rmtree(staged, ignore_errors=True)


def readable_folder(folder: Path) -> Path:
    """Return the folder, or the old one if a save was killed between its two renames."""
    replaced = _sibling(folder.absolute(), "replaced")
    return replaced if not folder.exists() and replaced.exists() else folder


def _sibling(folder: Path, role: str) -> Path:
    return folder.with_name(f".{folder.name}.{role}")


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


@contextmanager
def _open_array(path: Path, header: ArrayHeader) -> Iterator[io.BufferedReader]:
    """Open the file behind its NumPy header and check its length."""
    if not path.is_file():
        raise InputError(f"{path} is missing: the checkpoint is incomplete, {_HINT}")
    with path.open("rb") as file:
        # NumPy's own header is not compared with ours: the checksum covers it.
        start = file.read(len(_MAGIC) + 2)
        if len(start) < len(_MAGIC) + 2 or not start.startswith(_MAGIC):
            raise InputError(f"{path} is not a NumPy array: it differs from its checksum, {_HINT}")
        file.seek(int.from_bytes(start[len(_MAGIC) :], "little"), os.SEEK_CUR)
        array_bytes = int(np.prod(header.shape, dtype=np.int64)) * np.dtype(header.dtype).itemsize
        expected, found = file.tell() + array_bytes, path.stat().st_size
        if found != expected:
            raise InputError(
                f"{path} has {found} bytes, not {expected}: it differs from its checksum, {_HINT}"
            )
        yield file
