"""Apply deltas to a loaded model. Needs TensorFlow and NumPy only; copy this file to any server.

    model = tf.saved_model.load("export/saved_model")
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


class DeltaError(ValueError):
    """A delta is damaged or is of another model. The loaded model is unchanged."""


def apply_delta(model: Any, folder: Path) -> str:
    """Apply the delta in `folder` to a model that `tf.saved_model.load` returned.

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
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise DeltaError(
                f"{folder}: format {manifest['format']}, this client reads {FORMAT}: use the "
                "client of that export"
            )
        # The manifest is written last, and has the digest of the arrays: a copy may be cut short.
        if hashlib.sha256((folder / "arrays.npz").read_bytes()).hexdigest() != manifest["sha256"]:
            raise DeltaError(
                f"{folder}: arrays.npz is damaged or cut short: load the next full export"
            )
        with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
            return manifest, {name: stored[name] for name in stored.files}
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise DeltaError(
            f"{folder}: no readable delta ({error!r}): load the next full export"
        ) from error
