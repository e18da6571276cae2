"""Load full exports and apply deltas to them. Needs TensorFlow and NumPy only; copy this file to
any server.

    model = load_full(Path("full/000000003"))
    for folder in sorted(Path("deltas").iterdir()):
        apply_delta(model, folder)

It must not import this project. Requests may be answered in the meantime. Apply deltas one at a
time, from one thread.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

FORMAT = 1
_MANIFEST, _SEAL = "manifest.json", "manifest_sha256"


class DeltaError(ValueError):
    """A delta or a full export is damaged, incomplete or does not fit. No loaded model changed."""


def load_full(folder: Path) -> Any:
    """Load the full export in `folder`, after every file was compared with the manifest.

    Raises:
        DeltaError: a file is missing, damaged or not completely copied yet, or the loaded model is
            not the one that the manifest names.
    """
    manifest = _read_manifest(folder)
    try:
        # The publisher's own copy in `compressed/` need not be on a server.
        files = {n: f for n, f in manifest["files"].items() if n.startswith("saved_model/")}
        wrong = [n for n, f in files.items() if _sha256(folder / n) != f["sha256"]]
        expected = manifest["version"]
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise DeltaError(f"{folder}: incomplete ({error!r}): wait for the copy to end") from error
    if wrong or not files:
        raise DeltaError(f"{folder}: {wrong} are damaged or cut short: copy the folder again")
    model = tf.saved_model.load(str(folder / "saved_model"))
    if expected and version(model) != expected:
        raise DeltaError(f"{folder} holds the model {version(model)}, its manifest says {expected}")
    return model


def apply_delta(model: Any, folder: Path) -> str:
    """Apply the delta in `folder` to a model that `load_full` or `tf.saved_model.load` returned.

    Everything is checked before anything is changed.

    Returns:
        The model's new version.

    Raises:
        DeltaError: the delta is damaged, cut short, or of another model.
    """
    manifest, arrays = read_delta(folder)
    loaded = version(model)
    # The graph checks this as well; here the message can name both versions.
    if manifest["base"] != loaded:
        raise DeltaError(
            f"{folder} changes the model {manifest['base']}, loaded is {loaded}: apply the deltas "
            "in order"
        )
    wrong = why_not_applicable(model, arrays)
    if wrong:
        raise DeltaError(f"{folder}: {wrong}: load the next full export")
    inputs = {name: tf.constant(array) for name, array in arrays.items()}
    versions = {name: tf.constant(manifest[name]) for name in ("base", "result")}
    answer = model.signatures["apply_delta"](**inputs, **versions)
    return str(answer["version"].numpy().decode())


def version(model: Any) -> str:
    """Return the version of a loaded model.

    Raises:
        DeltaError: it was exported without `apply_delta`.
    """
    if "apply_delta" not in model.signatures:
        raise DeltaError(
            "this export takes no deltas (vectors form, bands or projections): load full exports "
            "instead"
        )
    return str(model.signatures["model_version"]()["version"].numpy().decode())


def read_delta(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return a delta's manifest and its arrays by name.

    Raises:
        DeltaError: a file is missing or damaged.
    """
    manifest = _read_manifest(folder)
    try:
        if manifest["format"] != FORMAT:
            raise DeltaError(
                f"{folder}: format {manifest['format']}, this client reads {FORMAT}: use the "
                "client of that export"
            )
        # The manifest is written last, and has the digest of the arrays: a copy may be cut short.
        if _sha256(folder / "arrays.npz") != manifest["sha256"]:
            raise DeltaError(
                f"{folder}: arrays.npz is damaged or cut short: load the next full export"
            )
        with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
            return manifest, {name: stored[name] for name in stored.files}
    except (OSError, KeyError) as error:
        raise DeltaError(
            f"{folder}: no readable delta ({error!r}): load the next full export"
        ) from error


def why_not_applicable(model: Any, arrays: dict[str, np.ndarray]) -> str:
    """Return why a delta's arrays do not fit the inputs of `apply_delta`; empty: they fit."""
    _, specs = model.signatures["apply_delta"].structured_input_signature
    odd = sorted((set(specs) - {"base", "result"}) ^ set(arrays))
    if odd:
        return f"the arrays {odd} are missing or unknown"
    for name, array in arrays.items():
        spec = specs[name]
        # TensorFlow would spread a row of width 1 over the columns of a wider slab.
        if array.dtype != spec.dtype.as_numpy_dtype or not spec.shape.is_compatible_with(
            array.shape
        ):
            return f"{name} is {array.dtype} {array.shape}, the model has {spec.dtype} {spec.shape}"
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"{name} has values that are not finite"
    return _why_wrong_rows(arrays, {name for name in arrays if specs[name].shape[:1] == [None]})


def _why_wrong_rows(arrays: dict[str, np.ndarray], by_row: set[str]) -> str:
    """Return what is wrong with the keys of the tables, or with the number of their rows."""
    lists = ("keys", "tombstones")
    tables = [name.removesuffix("keys") for name in by_row if name.endswith("keys")]
    for table in tables:
        keys = np.concatenate([arrays[table + name] for name in lists])
        if len(np.unique(keys)) != len(keys):
            return f"{table}keys has a key twice, or one that is deleted too"
    for name in sorted(name for name in by_row if not name.endswith(lists)):
        # One group's name may be the beginning of another one's.
        table = max((each for each in tables if name.startswith(each)), key=len)
        if len(arrays[name]) != len(arrays[table + "keys"]):
            return f"{name} has {len(arrays[name])} rows for {len(arrays[table + 'keys'])} keys"
    return ""


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        seal = manifest.pop(_SEAL)
        text = json.dumps(manifest, sort_keys=True)
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise DeltaError(
            f"{folder}: no readable manifest ({error!r}): wait for the copy to end, or load the "
            "next full export"
        ) from error
    # Otherwise a changed digit of `result` would be believed as the new version.
    if hashlib.sha256(text.encode()).hexdigest() != seal:
        raise DeltaError(f"{folder}: manifest.json is damaged: load the next full export")
    return dict(manifest)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
