"""Score a file of raw rows with the champion's export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from features.errors import InputError
from features.schema import MultiValued, Schema
from pipelines.config import Config
from pipelines.follow.raw_rows import as_logged, join, raw, read_rows, require, side_columns
from pipelines.store.artifacts import Store
from pipelines.store.lineage import champion, promoted

if TYPE_CHECKING:
    import pandas as pd

BATCH_ROWS = 4096


def predict_file(config: Config, store: Store, path: Path) -> pd.DataFrame:
    """Return the file's rows in order with a column `probability` float32.

    Raises:
        InputError: there is no champion, the file cannot be read, or a feature column is missing.
    """
    decision = champion(store)
    export = promoted(store, decision, "export") if decision else None
    if export is None:
        raise InputError(
            f"no champion in {store.workspace}: run the chain until a model is promoted (`elastic-ctr status`)"
        )
    rows = read_rows(path, config.source.separator)
    sides = [(table, side_columns(table)) for table in config.source.side_tables]
    joined = join(as_logged(rows, config.source), sides)
    rows["probability"] = _score(export.path / "saved_model", config.features, joined)
    return rows


def _score(saved_model: Path, schema: Schema, rows: pd.DataFrame) -> np.ndarray:
    require(
        rows,
        {schema.source_column(f) for f in schema.column_fields()},
        "the input",
        "which the model reads",
    )
    import tensorflow as tf

    signature = tf.saved_model.load(str(saved_model)).signatures["serving_default"]
    asked = signature.structured_input_signature[1]  # compression may have dropped fields
    inputs = {
        f.name: raw(
            rows[schema.source_column(f)], f.separator if isinstance(f, MultiValued) else None
        )
        for f in schema.column_fields()
        if f.name in asked
    }
    batches = [slice(start, start + BATCH_ROWS) for start in range(0, len(rows), BATCH_ROWS)]
    scores = [
        signature(**{k: tf.constant(v[b]) for k, v in inputs.items()})["probability"].numpy()
        for b in batches
    ]
    return np.concatenate(scores) if scores else np.zeros(0, np.float32)
