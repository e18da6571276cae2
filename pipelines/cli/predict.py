"""Score a file of raw rows with the serving model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from features.errors import InputError
from features.schema import MultiValued, Schema
from pipelines.cli import console
from pipelines.config import Config
from pipelines.follow.raw_rows import (
    join_side_tables,
    normalize,
    raw_strings,
    read_rows,
    read_side_table,
    require_columns,
)
from pipelines.store.artifacts import Store
from pipelines.tracking.champion import known_champion

if TYPE_CHECKING:
    import pandas as pd

BATCH_ROWS = 4096

_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"


def predict_file(config: Config, store: Store, path: Path) -> pd.DataFrame:
    """Return the rows of a file in their order, with a column `probability` (float32).

    Raises:
        InputError: no model was promoted yet, the file cannot be read, or a feature column is
            missing.
    """
    # 1. Find the model that serves: the export that the champion's decision was about.
    model = config.tracking.registered_model
    champion = known_champion(store, model, console.warning)
    if champion is None:
        raise InputError(
            f"no champion of {model} yet: run the chain until a model is promoted "
            "(`elastic-ctr status` shows how far it is)"
        )
    export = champion.export(store)
    if export is None:
        raise InputError(
            f"the champion of {model}, {champion}, is not in {store.workspace}: restore its "
            "artifacts, or `elastic-ctr rollback` to a version that is there"
        )
    export.verify()
    # 2. Read and join the rows by the rules of ingest, so that the model sees what it was
    #    trained on.
    rows = read_rows(path, config.source.separator)
    sides = [(table, read_side_table(table)) for table in config.source.side_tables]
    joined = join_side_tables(normalize(rows, config.source), sides)
    rows["probability"] = score_rows(export.path / "saved_model", config.features, joined)
    return rows


def escape_formulas(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows in which no text begins as a spreadsheet's formula does, numbers aside.

    Raw logs hold what users typed; opened in a spreadsheet, `=HYPERLINK(…)` would be run.
    """
    escaped = rows.copy(deep=False)
    for name in rows.select_dtypes(include="object"):
        text = rows[name].astype(str)
        formula = text.str.match(r"[=+\-@\t\r]") & ~text.str.fullmatch(_NUMBER)
        escaped[name] = rows[name].where(~formula, "'" + text)
    return escaped


def score_rows(saved_model: Path, schema: Schema, rows: pd.DataFrame) -> np.ndarray:
    """Return the probabilities of rows of the log, float32 [n], by an exported model.

    Args:
        saved_model: the export.
        schema: names the columns.
        rows: n rows, as `normalize` and `join_side_tables` return them.

    Raises:
        InputError: a feature column is missing.
    """
    columns = {schema.source_column(field) for field in schema.column_fields()}
    require_columns(rows, columns, "the input", "which the model reads")
    # Imported after the checks: it takes seconds.
    import tensorflow as tf

    signature = tf.saved_model.load(str(saved_model)).signatures["serving_default"]
    # Compression may have dropped fields of the schema.
    names = signature.structured_input_signature[1]
    inputs = {
        f.name: raw_strings(
            rows[schema.source_column(f)], f.separator if isinstance(f, MultiValued) else None
        )
        for f in schema.column_fields()
        if f.name in names
    }
    # An array to start with: a file without rows gets an empty column.
    scores = [np.zeros(0, np.float32)]
    # In batches, as one call would hold the intermediate tensors of all rows at once.
    for start in range(0, len(rows), BATCH_ROWS):
        batch = {k: tf.constant(v[start : start + BATCH_ROWS]) for k, v in inputs.items()}
        scores.append(signature(**batch)["probability"].numpy())
    return np.concatenate(scores)
