"""Content digests: what two runs are compared by. They see data, not file names, timings or pictures.

Parquet counts by its rows in order, NumPy files by their arrays, JSON by its values without measured times, any other
file by its bytes. Plots, Data Docs and the protocol buffers of a SavedModel (whose bytes TensorFlow does not keep
stable, nor their size) do not count, nor what serving cost: the predictions of an export do, in the validation report.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
_SUM_CHUNK_BYTES = 1 << 20


def content_digest(folder: Path) -> str:
    """Return a hex digest of what a folder holds."""
    digest = hashlib.sha256()
    for name, part in sorted(_parts(folder)):
        digest.update(f"{name}\x00{part}\n".encode())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_SUM_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def files_of(folder: Path) -> list[Path]:
    """Return the visible files below a folder, sorted; names that start with `_` or `.` are not content."""
    paths = (p for p in folder.rglob("*") if p.is_file())
    return sorted(
        p
        for p in paths
        if not any(part.startswith((".", "_")) for part in p.relative_to(folder).parts)
    )


def _parts(folder: Path) -> Iterator[tuple[str, str]]:
    tables: set[Path] = set()
    for path in files_of(folder):
        name = path.relative_to(folder)
        if IGNORED_PARTS & set(name.parts):
            continue
        if path.suffix == ".parquet" and path.name.startswith("part-"):
            tables.add(path.parent)
        else:
            yield str(name), _digest(path)
    for table in tables:
        yield str(table.relative_to(folder)), _table_digest(sorted(table.glob("*.parquet")))


def _digest(path: Path) -> str:
    if path.suffix == ".parquet":
        return _table_digest([path])
    if path.suffix in (".npy", ".npz"):
        return _array_digest(path)
    if path.suffix == ".json":
        return hashlib.sha256(
            _stable_json(json.loads(path.read_text(encoding="utf-8"))).encode()
        ).hexdigest()
    return file_sha256(path)


def _table_digest(paths: list[Path]) -> str:
    """Digest the rows of Parquet files in order, one row group at a time, whatever their encoding."""
    import pyarrow.parquet as pq

    digest = hashlib.sha256()
    for path in paths:
        file = pq.ParquetFile(path)
        digest.update(str(file.schema_arrow.remove_metadata()).encode())
        for batch in file.iter_batches(batch_size=65_536):
            for column in batch.columns:
                digest.update(repr(column.to_pylist()).encode())
    return digest.hexdigest()


def _array_digest(path: Path) -> str:
    import numpy as np

    digest = hashlib.sha256()
    loaded = np.load(path, allow_pickle=False)
    arrays = (
        {"": loaded} if path.suffix == ".npy" else {name: loaded[name] for name in loaded.files}
    )
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _stable_json(value: Any) -> str:
    return json.dumps(_without_measurements(value), sort_keys=True)


def _without_measurements(value: Any) -> Any:
    if isinstance(value, dict) and str(value.get("name", "")).endswith(_MEASURED):
        return value["name"]
    if isinstance(value, dict):
        return {
            k: _without_measurements(v) for k, v in value.items() if not str(k).endswith(_MEASURED)
        }
    return [_without_measurements(v) for v in value] if isinstance(value, list) else value
