"""Score a file of raw rows with the champion's export."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from features.canonical import NULL, canonical
from features.errors import InputError
from features.schema import MultiValued, Schema
from pipelines.artifacts import Store
from pipelines.config import Config
from pipelines.lineage import champion, promoted
from spark_jobs.settings import Format, SideTable, Source

if TYPE_CHECKING:
    import pandas as pd

BATCH_ROWS = 4096
_KEY = "__join_key"
_INT64_LIMIT = 2.0**63


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
    joined = _join(_as_logged(rows, config.source), config.source.side_tables)
    rows["probability"] = _score(export.path / "saved_model", config.features, joined)
    return rows


def read_rows(path: Path, separator: str = ",") -> pd.DataFrame:
    """Read a CSV or Parquet file with every value as the log has it (text; null stays null)."""
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path, dtype_backend="numpy_nullable")  # else a null makes integers floats
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path}: cannot be read as {'Parquet' if path.suffix == '.parquet' else 'CSV'}: {error}") from error


def _as_logged(rows: pd.DataFrame, source: Source) -> pd.DataFrame:
    """Name columns as the schema does, and read as null what ingest reads as null."""
    nulls = source.null_values if source.format is Format.CSV else ()
    return rows.rename(columns=source.rename).replace(list(nulls), NULL)


def _join(rows: pd.DataFrame, tables: tuple[SideTable, ...]) -> pd.DataFrame:
    """Join side tables as ingest does: ids meet in canonical spelling, an id that a table lacks gets nulls."""
    for table in tables:
        _require(rows, {table.key}, "the input", f"which the join with {table.path} reads")
        keyed = rows.assign(**{_KEY: _ids(rows[table.key])})
        rows = keyed.merge(_side_columns(table), on=_KEY, how="left").drop(columns=_KEY)
    return rows


def _side_columns(table: SideTable) -> pd.DataFrame:
    side = read_rows(Path(table.path), table.separator)
    key = table.table_key or table.key
    columns = list(table.columns) or [c for c in side.columns if c != key]
    _require(side, {key, *columns}, table.path, "which `side_tables` names")
    keyed = side[columns].rename(columns={c: table.prefix + c for c in columns}).assign(**{_KEY: _ids(side[key])})
    keyed = keyed[keyed[_KEY] != NULL]
    if keyed[_KEY].duplicated().any():
        repeated = keyed[_KEY][keyed[_KEY].duplicated()].iloc[0]
        raise InputError(f"side table {table.path}: {key} must be unique, but {repeated!r} repeats. Keep one record per id.")
    return keyed


def _ids(column: pd.Series) -> list[str]:
    return [canonical(value) for value in _raw(column, None)]


def _require(rows: pd.DataFrame, names: set[str], where: str, why: str) -> None:
    missing = sorted(names - set(rows.columns))
    if missing:
        raise InputError(f"{where} lacks the columns {missing}, {why}")


def _score(saved_model: Path, schema: Schema, rows: pd.DataFrame) -> np.ndarray:
    _require(rows, {schema.source_column(f) for f in schema.column_fields()}, "the input", "which the model reads")
    import tensorflow as tf

    signature = tf.saved_model.load(str(saved_model)).signatures["serving_default"]
    asked = signature.structured_input_signature[1]  # compression may have dropped fields
    inputs = {
        f.name: _raw(rows[schema.source_column(f)], f.separator if isinstance(f, MultiValued) else None)
        for f in schema.column_fields()
        if f.name in asked
    }
    batches = [slice(start, start + BATCH_ROWS) for start in range(0, len(rows), BATCH_ROWS)]
    scores = [signature(**{k: tf.constant(v[b]) for k, v in inputs.items()})["probability"].numpy() for b in batches]
    return np.concatenate(scores) if scores else np.zeros(0, np.float32)


def _raw(column: pd.Series, separator: str | None) -> np.ndarray:
    """Return raw strings [n], or [n, longest] padded with `""` for a multi-valued column."""
    if separator is None:
        return np.array([_text(v) for v in column], dtype=object)
    lists = [_values(v, separator) for v in column]
    width = max([1, *map(len, lists)])
    return np.array([values + [""] * (width - len(values)) for values in lists], dtype=object)


def _text(value: object) -> str:
    """Spell a value as ingest does: null is empty, an integral float (of the range of int64) an integer."""
    if isinstance(value, float | np.floating) and float(value).is_integer() and abs(float(value)) < _INT64_LIMIT:
        return str(int(value))
    return NULL if _is_null(value) else str(value)


def _values(value: object, separator: str) -> list[str]:
    if isinstance(value, list | tuple | np.ndarray):
        return [_text(v) for v in value if not _is_null(v)]
    return [] if _is_null(value) else [part for part in str(value).split(separator) if part]


def _is_null(value: object) -> bool:
    import pandas as pd

    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float | np.floating) and value != value)
