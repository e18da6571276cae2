"""Raw rows of the log in memory, named, joined and spelled as ingest does it, without Spark."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from features.canonical import NULL, canonical
from features.errors import InputError
from spark_jobs.settings import Format, SideTable, Source

if TYPE_CHECKING:
    import pandas as pd

_KEY = "__join_key"
_INT64_LIMIT = 2.0**63


def read_rows(path: Path, separator: str = ",") -> pd.DataFrame:
    """Read a CSV or Parquet file with every value as the log has it (text; null stays null)."""
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(
                path, dtype_backend="numpy_nullable"
            )  # else a null makes integers floats
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as {'Parquet' if path.suffix == '.parquet' else 'CSV'}: {error}"
        ) from error


def as_logged(rows: pd.DataFrame, source: Source) -> pd.DataFrame:
    """Name columns as the schema does, and read as null what ingest reads as null."""
    nulls = source.null_values if source.format is Format.CSV else ()
    return rows.rename(columns=source.rename).replace(list(nulls), NULL)


def join(rows: pd.DataFrame, sides: Sequence[tuple[SideTable, pd.DataFrame]]) -> pd.DataFrame:
    """Join side tables, as `side_columns` read them, as ingest does: ids in canonical spelling, nulls for unknown ones."""
    for table, side in sides:
        require(rows, {table.key}, "the input", f"which the join with {table.path} reads")
        keyed = rows.assign(**{_KEY: _ids(rows[table.key])})
        rows = keyed.merge(side, on=_KEY, how="left").drop(columns=_KEY)
    return rows


def side_columns(table: SideTable) -> pd.DataFrame:
    """Read a side table for `join`; raises InputError when it cannot be read, lacks a column or repeats an id."""
    side = read_rows(Path(table.path), table.separator)
    key = table.table_key or table.key
    columns = list(table.columns) or [c for c in side.columns if c != key]
    require(side, {key, *columns}, table.path, "which `side_tables` names")
    keyed = (
        side[columns]
        .rename(columns={c: table.prefix + c for c in columns})
        .assign(**{_KEY: _ids(side[key])})
    )
    keyed = keyed[keyed[_KEY] != NULL]
    if keyed[_KEY].duplicated().any():
        repeated = keyed[_KEY][keyed[_KEY].duplicated()].iloc[0]
        raise InputError(
            f"side table {table.path}: {key} must be unique, but {repeated!r} repeats. Keep one record per id."
        )
    return keyed


def _ids(column: pd.Series) -> list[str]:
    return [canonical(value) for value in raw(column, None)]


def require(rows: pd.DataFrame, names: set[str], where: str, why: str) -> None:
    """Raise InputError unless the rows, which lie at `where`, have these columns."""
    missing = sorted(names - set(rows.columns))
    if missing:
        raise InputError(f"{where} lacks the columns {missing}, {why}")


def raw(column: pd.Series, separator: str | None) -> np.ndarray:
    """Return raw strings [n], or [n, longest] padded with `""` for a multi-valued column."""
    if separator is None:
        return np.array([text(v) for v in column], dtype=object)
    lists = [values(v, separator) for v in column]
    width = max([1, *map(len, lists)])
    return np.array([values + [""] * (width - len(values)) for values in lists], dtype=object)


def text(value: object) -> str:
    """Spell a value as ingest does: null is empty, an integral float (of the range of int64) an integer."""
    if (
        isinstance(value, float | np.floating)
        and float(value).is_integer()
        and abs(float(value)) < _INT64_LIMIT
    ):
        return str(int(value))
    return NULL if _is_null(value) else str(value)


def values(value: object, separator: str) -> list[str]:
    """Return the elements of a list, or of text split at the separator, spelled by `text`."""
    if isinstance(value, list | tuple | np.ndarray):
        return [text(v) for v in value if not _is_null(v)]
    return [] if _is_null(value) else [part for part in str(value).split(separator) if part]


def _is_null(value: object) -> bool:
    import pandas as pd

    return (
        value is None
        or value is pd.NA
        or value is pd.NaT
        or (isinstance(value, float | np.floating) and value != value)
    )
