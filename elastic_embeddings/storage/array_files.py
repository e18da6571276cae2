"""One array, one `.npy` file: written and read in chunks along the first axis, with a SHA-256. NumPy only, no pickle."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import BaseModel

from elastic_embeddings.errors import InputError

_CHUNK_BYTES = 8 << 20
_CURE = "restore from another checkpoint"
_MAGIC = np.lib.format.magic(1, 0)
_MAGIC_BYTES = len(_MAGIC)


class ArrayHeader(BaseModel, frozen=True, extra="forbid"):
    """One array file: its shape, its NumPy dtype (`<i8`) and the SHA-256 of the whole file, as `sha256sum` prints it."""

    shape: tuple[int, ...]
    dtype: str
    sha256: str


@dataclass(frozen=True)
class ArrayStream:
    """An array that need never be in memory as a whole.

    Attributes:
        shape: of the whole array, at least one axis.
        dtype: of every chunk; nothing is converted.
        chunks: pieces along axis 0, in order; each may be overwritten once the next is asked for.
    """

    shape: tuple[int, ...]
    dtype: DTypeLike
    chunks: Iterable[NDArray]

    @classmethod
    def of(cls, array: NDArray) -> ArrayStream:
        """Return the stream of an array in memory: views of about 8 MiB, so a strided array is not copied as a whole."""
        return cls(array.shape, array.dtype, chunks_of(array))


def chunks_of(array: NDArray) -> Iterator[NDArray]:
    """Yield views of an array, each of about 8 MiB."""
    rows = rows_per_chunk(array.shape, array.dtype)
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def rows_per_chunk(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    """Return how many rows of an array of this shape and dtype make about 8 MiB, at least 1."""
    row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
    return max(1, _CHUNK_BYTES // max(1, row_bytes))


def write_stream(path: Path, stream: ArrayStream) -> ArrayHeader:
    """Write a new `.npy` file chunk by chunk; return its header. Syncing it to the disk is the caller's business.

    Raises:
        InputError: a chunk has another dtype or width than the stream says, or the chunks do not add up to its shape.
    """
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for piece in _pieces(path, stream):
            file.write(piece)
            digest.update(piece)
    return ArrayHeader(
        shape=stream.shape, dtype=np.dtype(stream.dtype).str, sha256=digest.hexdigest()
    )


def read_stream(path: Path, header: ArrayHeader, rows: int) -> Iterator[NDArray]:
    """Yield an array file in chunks of `rows` rows (the last may be shorter); at least one chunk, possibly empty.

    The size is checked, the checksum is not: see `check_file`.

    Raises:
        InputError: the file is missing, no `.npy`, or not as long as the header says.
    """
    with _opened(path, header) as file:
        for start in range(0, max(1, header.shape[0]), rows):
            chunk = np.empty((min(rows, header.shape[0] - start), *header.shape[1:]), header.dtype)
            if file.readinto(_bytes_of(chunk)) != chunk.nbytes:
                raise InputError(
                    f"{path} ended while it was read: something else writes to it, {_CURE}"
                )
            yield chunk


def map_array(path: Path, header: ArrayHeader) -> NDArray:
    """Return an array file mapped into memory, read-only; the size is checked, the checksum is not.

    Raises:
        InputError: the file is missing, no `.npy`, or not as long as the header says.
    """
    with _opened(path, header) as file:
        return np.memmap(file, header.dtype, "r", file.tell(), header.shape)


def check_file(path: Path, header: ArrayHeader) -> None:
    """Read the whole file once, in pieces, and compare it with its header.

    Raises:
        InputError: the file is missing, of another size, or differs from its checksum.
    """
    with _opened(path, header) as file:
        file.seek(0)
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != header.sha256:
        raise InputError(f"{path} differs from its checksum: it is damaged, {_CURE}")


def _pieces(path: Path, stream: ArrayStream) -> Iterator[bytes | memoryview]:
    """The bytes of the file: NumPy's own header, then each chunk."""
    dtype, rows = np.dtype(stream.dtype), 0
    yield _npy_header(stream.shape, dtype)
    for chunk in stream.chunks:
        if chunk.dtype != dtype or chunk.shape[1:] != stream.shape[1:]:
            raise InputError(
                f"{path}: a chunk is {chunk.dtype} {chunk.shape} of an array {dtype} {stream.shape}: give equal ones"
            )
        rows += len(chunk)
        yield _bytes_of(np.ascontiguousarray(chunk))
    if rows != stream.shape[0]:
        raise InputError(
            f"{path}: the chunks hold {rows} rows, {stream.shape[0]} were announced: give chunks that add up"
        )


def _npy_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    buffer = io.BytesIO()
    described = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def _bytes_of(array: NDArray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _opened(path: Path, header: ArrayHeader) -> io.BufferedReader:
    """Open the file behind its NumPy header."""
    if not path.is_file():
        raise InputError(f"{path} is missing: the checkpoint is incomplete, {_CURE}")
    file = path.open("rb")
    try:
        _refuse_other(path, file, header)
    except BaseException:
        file.close()
        raise
    return file


def _refuse_other(path: Path, file: io.BufferedReader, header: ArrayHeader) -> None:
    """Raise unless the file is as long as the array; what NumPy's header says is the checksum's business."""
    start = file.read(_MAGIC_BYTES + 2)
    if len(start) < _MAGIC_BYTES + 2 or not start.startswith(_MAGIC):
        raise InputError(f"{path} is not a NumPy array: it differs from its checksum, {_CURE}")
    file.seek(int.from_bytes(start[_MAGIC_BYTES:], "little"), os.SEEK_CUR)
    expected = (
        file.tell() + int(np.prod(header.shape, dtype=np.int64)) * np.dtype(header.dtype).itemsize
    )
    found = path.stat().st_size
    if found != expected:
        raise InputError(
            f"{path} has {found} bytes, not {expected}: it differs from its checksum, {_CURE}"
        )
