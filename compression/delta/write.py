"""Deltas: what changed between two models in stored form, as a folder that a loaded export applies.

A full export and all deltas after it give the next full export, bit for bit. A folder holds
`arrays.npz`, the inputs of the signature `apply_delta` (`compression.delta.content`), and
`manifest.json`: `format`, `base` and `result` (digests of the content before and after), `sha256`
of the arrays' file, figures, and `manifest_sha256` of all of this (`sealed`). Servers apply it with
`compression/delta/delta_client.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compression.delta import content
from compression.model import CompactModel, positions_of
from features.errors import InputError
from features.files import atomic_folder, folder_bytes
from training.data.arrays import Arrays, read_arrays, write_arrays
from training.data.scalers import Scaler
from training.packed.matrix import Matrix
from training.packed.rows import Band, PackedRows, PackedSlab

ARRAYS = "arrays.npz"
MANIFEST = "manifest.json"
FORMAT = 1
_SEAL = "manifest_sha256"


@dataclass(frozen=True)
class Delta:
    """The changes from one content to another.

    Attributes:
        base: digest of the model that it changes.
        result: digest of the changed model.
        arrays: inputs of `apply_delta` by name, without `base` and `result`.
        figures: number of changed or new rows, and of tombstones.
    """

    base: str
    result: str
    arrays: Arrays
    figures: Mapping[str, int]


def delta_between(before: CompactModel, after: CompactModel, base: str = "") -> Delta:
    """Return the delta from one model to another: rows that are new or differ in a bit, and keys
    that are removed.

    Args:
        before: what is served.
        after: what is to be served.
        base: digest of `before`, if known; it is computed otherwise.

    Raises:
        InputError: a slab cannot be changed row by row (bands, projections), or the models differ
            in more than rows, dense weights and scalers.
    """
    why = content.why_no_delta(before) or content.why_no_delta(after)
    if why:
        raise InputError(
            f"no delta can be made of this model: {why}. Export it in full each time, or store "
            "each slab in one band of values, without the steps widths and product"
        )
    if content.graph_digest(before) != content.graph_digest(after):
        raise InputError(
            "a delta carries rows, dense weights and scalers, but the two models differ in fields, "
            "model settings, relations, encodings or stored forms: export the second one in full"
        )
    # 1. Compare the tables. Rows are matched by key: their order differs from model to model.
    tables = {}
    for name, old in before.tables.items():
        new = after.tables[name]
        changed = ~_unchanged(old, new)
        removed = old.keys[positions_of(old.keys, new.keys) < 0]
        tables[name] = content.TableChanges(new.take(changed), removed)
    # 2. Name both contents, so that a server applies the delta to its base only.
    return Delta(
        base=base or content.content_digest(before),
        result=content.content_digest(after),
        arrays=content.delta_inputs(after, tables),
        figures={
            "rows": sum(len(table.rows.keys) for table in tables.values()),
            "tombstones": sum(len(table.tombstones) for table in tables.values()),
        },
    )


def applied(model: CompactModel, delta: Delta) -> CompactModel:
    """Return what `apply_delta` makes of a model, computed in memory.

    Raises:
        InputError: the delta is of another model, or its result is not the one that it names.
    """
    if content.content_digest(model) != delta.base:
        raise InputError(
            f"this delta changes the model {delta.base[:12]}…, not this one: apply the deltas in "
            "order"
        )
    # What the graph does: scalers and dense weights are replaced, rows changed by key.
    description, arrays = model.description, delta.arrays
    names = description.spec.layout.dense
    numbers = zip(names, *arrays[content.SCALERS], strict=True)
    scalers = {name: Scaler(float(mean), float(std)) for name, mean, std in numbers}
    after = replace(
        model,
        description=replace(description, scalers=scalers),
        tables={name: _with_changes(rows, name, arrays) for name, rows in model.tables.items()},
        dense={
            name: _matrix_from(arrays, content.dense_name(name), weight)
            if isinstance(weight, Matrix)
            else arrays[content.dense_name(name)]
            for name, weight in model.dense.items()
        },
    )
    if content.content_digest(after) != delta.result:
        raise InputError(
            f"the delta to {delta.result[:12]}… makes something else of its base: load the next "
            "full export"
        )
    return after


def write_delta(delta: Delta, folder: Path, figures: Mapping[str, Any] | None = None) -> int:
    """Write a delta as `folder`, which appears when it is complete; return its bytes.

    Args:
        delta: what to write.
        folder: must not exist.
        figures: the caller's figures for the manifest (key `told`), JSON data.

    Raises:
        InputError: `folder` exists already.
    """
    if folder.exists():
        raise InputError(
            f"{folder} exists already: a delta that may have been applied is never replaced, "
            "choose another name"
        )
    # A server polls the folder: it must not see a delta that is half written.
    with atomic_folder(folder) as partial:
        write_arrays(partial / ARRAYS, delta.arrays)
        document = {
            "format": FORMAT,
            "base": delta.base,
            "result": delta.result,
            "sha256": _sha256(partial / ARRAYS),
            **delta.figures,
            "told": figures or {},
        }
        (partial / MANIFEST).write_text(sealed(document))
    return folder_bytes(folder)


def read_delta(folder: Path, base: str | None = None) -> Delta:
    """Read what `write_delta` wrote.

    Args:
        folder: the delta.
        base: the content that it must apply to; None: any.

    Raises:
        InputError: a file is missing, damaged or cut short, or the delta applies to another model.
    """
    manifest = _read_manifest(folder / MANIFEST)
    if base is not None and manifest["base"] != base:
        raise InputError(
            f"{folder} changes the model {manifest['base'][:12]}…, not {base[:12]}…: apply the "
            "deltas in order"
        )
    path = folder / ARRAYS
    if not path.exists() or _sha256(path) != manifest["sha256"]:
        raise InputError(
            f"{path} is missing or damaged (its SHA-256 is not that of the delta's manifest): load "
            "the next full export instead"
        )
    figures = {name: int(manifest[name]) for name in ("rows", "tombstones")}
    return Delta(manifest["base"], manifest["result"], read_arrays(path), figures)


def sealed(document: Mapping[str, Any]) -> str:
    """Return the JSON text of a manifest with its own SHA-256 as `manifest_sha256`."""
    digest = _document_sha256(document)
    return json.dumps({**document, _SEAL: digest}, indent=1) + "\n"


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what `sealed` returned; raises InputError if it is missing or damaged."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if document.pop(_SEAL) != _document_sha256(document):
            raise ValueError("its content is not that of its SHA-256")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: no readable manifest of a delta or export ({error!r}): load the next full "
            "export instead"
        ) from error
    return document


def _document_sha256(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _unchanged(before: PackedRows, after: PackedRows) -> NDArray[np.bool_]:
    """Whether each row of `after`, bool [N], is the row of its key in `before`, bit for bit."""
    known = positions_of(after.keys, before.keys)
    if not len(before.keys):
        # There is no position 0 to compare with.
        return np.zeros(len(after.keys), bool)
    equal, positions = known >= 0, np.maximum(known, 0)
    for name, slab in after.slabs.items():
        new, old = slab.only_matrix(), before.slabs[name].only_matrix()
        for ours, theirs in ((new.values, old.values), (new.scales, old.scales)):
            # As integers: -0.0 and 0.0 differ in a bit, and NaN equals itself.
            bits = f"u{ours.dtype.itemsize}"
            new_bits, old_bits = (np.ascontiguousarray(rows).view(bits) for rows in (ours, theirs))
            equal &= np.all(new_bits == old_bits[positions], axis=1)
    return equal


def _with_changes(rows: PackedRows, group: str, arrays: Mapping[str, NDArray[Any]]) -> PackedRows:
    """A group's rows without the removed and changed ones, followed by the new and changed ones."""
    keys, tombstones = (
        arrays[content.table_name(group, "keys")],
        arrays[content.table_name(group, "tombstones")],
    )
    kept = rows.take(~np.isin(rows.keys, np.concatenate([keys, tombstones])))
    slabs = {}
    for name, slab in kept.slabs.items():
        old = slab.only_matrix()
        new = _matrix_from(arrays, content.table_name(group, name), old)
        values = np.concatenate([old.values, new.values])
        scales = np.concatenate([old.scales, new.scales])
        slabs[name] = PackedSlab((Band(Matrix(old.form, old.width, values, scales)),))
    return PackedRows(np.concatenate([kept.keys, keys]), slabs)


def _matrix_from(arrays: Mapping[str, NDArray[Any]], name: str, like: Matrix) -> Matrix:
    values, scales = content.matrix_names(name)
    no_scales = np.zeros((len(arrays[values]), 0), np.float16)
    return Matrix(like.form, like.width, arrays[values], arrays.get(scales, no_scales))


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = read_sealed(path)
    missing = {"format", "base", "result", "sha256", "rows", "tombstones"} - set(manifest)
    if missing or manifest["format"] != FORMAT:
        raise InputError(
            f"{path}: a delta of format {manifest.get('format')}, missing keys: {sorted(missing)}; "
            f"only format {FORMAT} can be read"
        )
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
