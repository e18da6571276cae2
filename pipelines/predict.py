"""Score a file of raw rows with the champion's export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from features.errors import InputError
from features.schema import MultiValued, Schema
from pipelines.artifacts import Store
from pipelines.config import Config
from pipelines.lineage import champion, promoted
from spark_jobs.settings import SideTable

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
        raise InputError(f"no champion in {store.workspace}: run the chain until a model is promoted (`elastic-ctr status`)")
    rows = read_rows(path, config.source.separator)
    joined = _join(rows.rename(columns=config.source.rename), config.source.side_tables)
    rows["probability"] = _score(export.path / "saved_model", config.features, joined)
    return rows


def read_rows(path: Path, separator: str = ",") -> pd.DataFrame:
    """Read a CSV or Parquet file with every value as the log has it (text; null stays null)."""
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as {'Parquet' if path.suffix == '.parquet' else 'CSV'}: {error}") from error


def _join(rows: pd.DataFrame, tables: tuple[SideTable, ...]) -> pd.DataFrame:
    for table in tables:
        side = read_rows(Path(table.path), table.separator)
        key = table.table_key or table.key
        columns = list(table.columns) or [c for c in side.columns if c != key]
        side = side[[key, *columns]].rename(columns={c: table.prefix + c for c in columns})
        side[key] = side[key].astype(str)
        rows = (
            rows.assign(_key=rows[table.key].astype(str))
            .merge(side.rename(columns={key: "_key"}), on="_key", how="left")
            .drop(columns="_key")
        )
    return rows


def _score(saved_model: Path, schema: Schema, rows: pd.DataFrame) -> np.ndarray:
    import tensorflow as tf

    missing = sorted({schema.source_column(f) for f in schema.column_fields()} - set(rows.columns))
    if missing:
        raise InputError(f"the input lacks the columns {missing}, which the model reads")
    inputs = {
        f.name: _raw(rows[schema.source_column(f)], f.separator if isinstance(f, MultiValued) else None)
        for f in schema.column_fields()
    }
    signature = tf.saved_model.load(str(saved_model)).signatures["serving_default"]
    batches = [slice(start, start + BATCH_ROWS) for start in range(0, len(rows), BATCH_ROWS)]
    scores = [signature(**{k: tf.constant(v[b]) for k, v in inputs.items()})["probability"].numpy() for b in batches]
    return np.concatenate(scores) if scores else np.zeros(0, np.float32)


def _raw(column: pd.Series, separator: str | None) -> np.ndarray:
    """Return raw strings [n], or [n, longest] padded with `""` for a multi-valued column."""
    if separator is None:
        return np.array(["" if _is_null(v) else str(v) for v in column], dtype=object)
    lists = [_values(v, separator) for v in column]
    width = max([1, *map(len, lists)])
    return np.array([values + [""] * (width - len(values)) for values in lists], dtype=object)


def _values(value: object, separator: str) -> list[str]:
    if isinstance(value, list | tuple | np.ndarray):
        return [str(v) for v in value]
    return [] if _is_null(value) else [part for part in str(value).split(separator) if part]


def _is_null(value: object) -> bool:
    import pandas as pd

    return value is None or value is pd.NA or (isinstance(value, float) and value != value)
