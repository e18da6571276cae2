"""Content digests: two results are equal if their digests are.

Parquet tables count by their rows in order, NumPy files by their arrays, JSON by its values without
measured times, other files by their bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Pictures and reports hold no data, `serving.json` holds measurements. TensorFlow keeps neither the
# bytes nor the size of a SavedModel's protocol buffers stable; the validation report counts the
# predictions of an export instead.
IGNORED_PARTS = frozenset({"plots", "data_docs", "saved_model", "serving.json"})
_MEASURED = (
    "seconds",
    "_s",
    "_ms",
    "_per_s",
    "input_share",
    "rss_bytes",
    "bytes_exported",
    "bytes_graph",
)
"""Endings of JSON keys whose values differ from run to run."""

_CHUNK_BYTES = 1 << 20


def content_digest(folder: Path) -> str:
    """Return a hex digest of a folder's content; names of Parquet parts do not count."""
    digest = hashlib.sha256()
    for name, part in sorted(_parts(folder)):
        digest.update(f"{name}\x00{part}\n".encode())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def files_of(folder: Path) -> list[Path]:
    """Return the files below a folder, sorted, without names that start with `_` or `.`."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    )


def _parts(folder: Path) -> Iterator[tuple[str, str]]:
    tables: set[Path] = set()
    for path in files_of(folder):
        name = path.relative_to(folder)
        if IGNORED_PARTS & set(name.parts):
            continue
        if path.suffix == ".parquet" and path.name.startswith("part-"):
            # A folder of parts is one table, however its rows are distributed over the parts.
            tables.add(path.parent)
        else:
            yield str(name), _file_digest(path)
    for table in tables:
        yield str(table.relative_to(folder)), _table_digest(sorted(table.glob("*.parquet")))


def _file_digest(path: Path) -> str:
    if path.suffix == ".parquet":
        return _table_digest([path])
    if path.suffix in (".npy", ".npz"):
        return _array_digest(path)
    if path.suffix == ".json":
        values = _without_measurements(json.loads(path.read_text(encoding="utf-8")))
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return file_sha256(path)


def _table_digest(paths: list[Path]) -> str:
    import pyarrow.parquet as pq

    digest = hashlib.sha256()
    for path in paths:
        file = pq.ParquetFile(path)
        # The metadata names the library and its version.
        digest.update(str(file.schema_arrow.remove_metadata()).encode())
        for batch in file.iter_batches(batch_size=65_536):
            for column in batch.columns:
                digest.update(repr(column.to_pylist()).encode())
    return digest.hexdigest()


def _array_digest(path: Path) -> str:
    import numpy as np

    digest = hashlib.sha256()
    loaded = np.load(path, allow_pickle=False)
    names = [""] if path.suffix == ".npy" else sorted(loaded.files)
    for name in names:
        array = loaded[name] if name else loaded
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _without_measurements(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_measurements(each) for each in value]
    if not isinstance(value, dict):
        return value
    # A record such as {"name": "p99_ms", "value": …} is a measurement as a whole.
    if str(value.get("name", "")).endswith(_MEASURED):
        return value["name"]
    kept = {k: v for k, v in value.items() if not str(k).endswith(_MEASURED)}
    return {k: _without_measurements(v) for k, v in kept.items()}
