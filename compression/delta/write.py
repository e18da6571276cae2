"""What changed between two models in stored form, as a folder that a loaded export takes in: full + deltas = full, to the bit.

A folder holds `arrays.npz`, the inputs of the signature `apply_delta` by name (`compression.delta.changes`), and `manifest.json`,
written last: `format`, `base` and `result` (contents before and after, `compression.delta.digest`), `sha256` of the arrays' file, and
figures. It appears as a whole, by a rename. A stranger applies it with `compression/delta/delta_client.py`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compression.delta.apply import changed_dense, changed_rows, with_scalers
from compression.delta.changes import Changes, TableChanges, scalers_of, why_no_delta
from compression.delta.digest import content_digest, graph_digest
from compression.model import CompactModel
from elastic_embeddings.storage.replacement import sync_path
from features.errors import InputError
from training.data.arrays import Arrays, read_arrays, write_arrays
from training.packed.rows import PackedRows

ARRAYS = "arrays.npz"
MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Delta:
    """The way from one content to another.

    Attributes:
        base: digest of the model that it changes.
        result: digest of the model that this makes of it.
        arrays: inputs of `apply_delta` by name, `base` and `result` left out.
        figures: rows changed or new, tombstones.
    """

    base: str
    result: str
    arrays: Arrays
    figures: Mapping[str, int]


def delta_between(before: CompactModel, after: CompactModel, base: str = "") -> Delta:
    """Return the delta from one model to another: the rows that are new or differ in a stored bit, the keys that are gone.

    Args:
        before: what is served.
        after: what is to be served.
        base: digest of `before`, if known, which saves computing it.

    Raises:
        InputError: a row of theirs has no place of its own (bands, projections), or more than rows, weights and scalers differ.
    """
    _refuse_what_needs_a_full_export(before, after)
    tables = {name: _changes(rows, after.tables[name]) for name, rows in before.tables.items()}
    return Delta(
        base=base or content_digest(before),
        result=content_digest(after),
        arrays=Changes(tables, after.dense, scalers_of(after)).arrays(),
        figures={
            "rows": sum(len(table.rows.keys) for table in tables.values()),
            "tombstones": sum(len(table.tombstones) for table in tables.values()),
        },
    )


def applied(model: CompactModel, delta: Delta) -> CompactModel:
    """Return what `apply_delta` makes of a model, in memory: full + deltas = full.

    Raises:
        InputError: the delta is of another model, or does not make of it what it says.
    """
    if content_digest(model) != delta.base:
        raise InputError(
            f"this delta changes the model {delta.base[:12]}…, not this one: apply the deltas in order"
        )
    tables = {name: changed_rows(rows, name, delta.arrays) for name, rows in model.tables.items()}
    told = with_scalers(model.description, delta.arrays)
    after = replace(
        model, tables=tables, dense=changed_dense(model.dense, delta.arrays), description=told
    )
    if content_digest(after) != delta.result:
        raise InputError(
            f"the delta to {delta.result[:12]}… makes something else of its base: load the next full export"
        )
    return after


def write_delta(delta: Delta, folder: Path, told: Mapping[str, Any] | None = None) -> int:
    """Write a delta as `folder`, which appears when it is complete; return its bytes.

    Args:
        delta: what to write.
        folder: must not exist.
        told: figures of the caller's for the manifest, JSON data.

    Raises:
        InputError: `folder` exists already.
    """
    if folder.exists():
        raise InputError(
            f"{folder} exists already: a delta that may have been applied is never replaced, choose another name"
        )
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_arrays(partial / ARRAYS, delta.arrays)
    document = {
        "format": FORMAT,
        "base": delta.base,
        "result": delta.result,
        "sha256": _sha256(partial / ARRAYS),
    }
    (partial / MANIFEST).write_text(
        json.dumps(document | dict(delta.figures) | {"told": told or {}}, indent=1) + "\n"
    )
    partial.rename(folder)
    sync_path(folder.parent)
    return sum(file.stat().st_size for file in folder.iterdir())


def read_delta(folder: Path, base: str | None = None) -> Delta:
    """Read what `write_delta` wrote.

    Args:
        folder: the delta.
        base: the content that it must apply to; None: any.

    Raises:
        InputError: a file is missing, damaged or cut short, or the delta applies to another model.
    """
    manifest = _manifest(folder)
    if base is not None and manifest["base"] != base:
        raise InputError(
            f"{folder} changes the model {manifest['base'][:12]}…, not {base[:12]}…: apply the deltas in order"
        )
    path = folder / ARRAYS
    if not path.exists() or _sha256(path) != manifest["sha256"]:
        raise InputError(
            f"{path} is missing or damaged (its SHA-256 is not the manifest's): load the next full export instead"
        )
    arrays = read_arrays(path)
    return Delta(
        manifest["base"],
        manifest["result"],
        arrays,
        {name: int(manifest[name]) for name in ("rows", "tombstones")},
    )


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"format", "base", "result", "sha256", "rows", "tombstones"} - set(manifest)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path}: no readable manifest of a delta ({error}): load the next full export instead"
        ) from error
    if missing or manifest["format"] != FORMAT:
        raise InputError(
            f"{path}: format {manifest.get('format')}, without {sorted(missing)}: this reads format {FORMAT} only"
        )
    return manifest


def _refuse_what_needs_a_full_export(before: CompactModel, after: CompactModel) -> None:
    why = why_no_delta(before) or why_no_delta(after)
    if why:
        raise InputError(
            f"no delta can be made of this model: {why}. Export it in full each time, or store each slab in one band of values, "
            "without the steps widths and product"
        )
    if graph_digest(before) != graph_digest(after):
        raise InputError(
            "a delta carries rows, dense weights and scalers, but fields, model settings, relations, encodings or stored forms "
            "differ between the two models: export the second one in full"
        )


def _changes(before: PackedRows, after: PackedRows) -> TableChanges:
    known = _places(before.keys, after.keys)
    same = (known >= 0) & _equal_rows(before, np.maximum(known, 0), after)
    return TableChanges(after.take(~same), before.keys[_places(after.keys, before.keys) < 0])


def _equal_rows(
    before: PackedRows, places: NDArray[np.int64], after: PackedRows
) -> NDArray[np.bool_]:
    """Whether each row of `after`, bool [N], is to the bit the one of `before` at its place."""
    if not len(before.keys):
        return np.zeros(len(after.keys), bool)
    equal = np.ones(len(after.keys), bool)
    for name, slab in after.slabs.items():
        here, there = slab.only_matrix(), before.slabs[name].only_matrix()
        for new, old in ((here.values, there.values), (here.scales, there.scales)):
            equal &= np.all(_bits(new) == _bits(old)[places], axis=1)
    return equal


def _bits(rows: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(rows).view(f"u{rows.dtype.itemsize}")


def _places(among: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each key lies in `among`, int64 [n]; -1 where it does not."""
    if not len(among):
        return np.full(len(keys), -1)
    order = np.argsort(among)
    at = order[np.minimum(np.searchsorted(among, keys, sorter=order), len(among) - 1)]
    return np.where(among[at] == keys, at, -1)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
