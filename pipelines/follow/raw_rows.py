"""Read raw rows of the log without Spark, with the names and text forms that ingest gives them."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from features.canonical import NULL, canonical
from features.errors import InputError
from spark_jobs.settings import Format, SideTable, Source

if TYPE_CHECKING:
    import pandas as pd

_ENDINGS = (".parquet", ".csv", ".csv.gz")
_INCOMPLETE = (".", "_")
_JOIN_KEY = "__join_key"
_INT64_LIMIT = 2.0**63


@dataclass(frozen=True)
class RawFile:
    """Rows under the schema's column names, and the lines that do not fit the header."""

    rows: pd.DataFrame
    malformed: tuple[str, ...] = ()


def complete_files(folder: Path) -> dict[str, Path]:
    """Return the complete log files below a folder by name, in the order of names.

    A name is the path below the folder, such as `dt=2026-01-01/hm=1304/part.csv`. Files and folders
    that begin with `.` or `_` are still being written.

    Raises:
        InputError: the folder does not exist.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: make it, and have complete files renamed into it")
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.name.endswith(_ENDINGS)]
    names = sorted(
        path.as_posix()
        for path in paths
        if not any(part.startswith(_INCOMPLETE) for part in path.parts)
    )
    return {name: folder / name for name in names}


def read_file(path: Path, source: Source) -> RawFile:
    """Read a log file: Parquet, or CSV with a header, depending on its ending.

    Raises:
        InputError: it cannot be read.
    """
    import pandas as pd

    if path.suffix == ".parquet":
        parquet = source.model_copy(update={"format": Format.PARQUET})
        return RawFile(normalize(read_rows(path), parquet))
    # 1. Decode the file.
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path}: cannot be read as CSV: {error}") from error
    # 2. Split the lines by their number of values. pandas would fail on the whole file instead.
    lines = list(csv.reader(text.splitlines(keepends=True), delimiter=source.separator))
    if not lines:
        raise InputError(f"{path}: the file is empty; a header is expected")
    header, *records = lines
    fitting = [record for record in records if len(record) == len(header)]
    malformed = tuple(
        source.separator.join(record) for record in records if record and len(record) != len(header)
    )
    # 3. Keep every value as text.
    rows = pd.DataFrame(fitting, columns=header, dtype=object)
    return RawFile(normalize(rows, source.model_copy(update={"format": Format.CSV})), malformed)


def read_rows(path: Path, separator: str = ",") -> pd.DataFrame:
    """Read a CSV or Parquet file without converting values. Nulls of Parquet stay null.

    Raises:
        InputError: it cannot be read.
    """
    import pandas as pd

    is_parquet = path.suffix == ".parquet"
    try:
        if is_parquet:
            # With NumPy's types a null would turn a column of integers into floats.
            return pd.read_parquet(path, dtype_backend="numpy_nullable")
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        kind = "Parquet" if is_parquet else "CSV"
        raise InputError(f"{path}: cannot be read as {kind}: {error}") from error


def normalize(rows: pd.DataFrame, source: Source) -> pd.DataFrame:
    """Rename columns as the schema does, and make null what ingest reads as null."""
    nulls = source.null_values if source.format is Format.CSV else ()
    return rows.rename(columns=source.rename).replace(list(nulls), NULL)


def join_side_tables(
    rows: pd.DataFrame, tables: Sequence[tuple[SideTable, pd.DataFrame]]
) -> pd.DataFrame:
    """Join side tables, as `read_side_table` returns them, by the canonical spelling of ids.

    Columns are null where the table does not have the id.
    """
    for table, side in tables:
        require_columns(rows, {table.key}, "the input", f"which the join with {table.path} reads")
        keyed = rows.assign(**{_JOIN_KEY: _canonical_ids(rows[table.key])})
        rows = keyed.merge(side, on=_JOIN_KEY, how="left").drop(columns=_JOIN_KEY)
    return rows


def read_side_table(table: SideTable) -> pd.DataFrame:
    """Read a side table for `join_side_tables`.

    Raises:
        InputError: it cannot be read, a column is missing, or an id occurs twice.
    """
    side = read_rows(Path(table.path), table.separator)
    key = table.table_key or table.key
    columns = list(table.columns) or [c for c in side.columns if c != key]
    require_columns(side, {key, *columns}, table.path, "which `side_tables` names")
    renamed = side[columns].rename(columns={c: table.prefix + c for c in columns})
    keyed = renamed.assign(**{_JOIN_KEY: _canonical_ids(side[key])})
    # A null id joins nothing, so it may occur several times.
    keyed = keyed[keyed[_JOIN_KEY] != NULL]
    repeated = keyed[_JOIN_KEY][keyed[_JOIN_KEY].duplicated()]
    if len(repeated):
        raise InputError(
            f"side table {table.path}: {key} must be unique, but {repeated.iloc[0]!r} repeats. "
            "Keep one record per id."
        )
    return keyed


def require_columns(rows: pd.DataFrame, names: set[str], where: str, why: str) -> None:
    """Raise InputError if columns are missing. The message names where the rows are from."""
    missing = sorted(names - set(rows.columns))
    if missing:
        raise InputError(f"{where} lacks the columns {missing}, {why}")


def _canonical_ids(column: pd.Series) -> list[str]:
    return [canonical(raw_string(value)) for value in column]


def raw_strings(column: pd.Series, separator: str | None) -> np.ndarray:
    """Return a column as the strings that the served model reads.

    Args:
        column: raw values.
        separator: of a multi-valued field; None for a single-valued one.

    Returns:
        Objects [n], or [n, longest list] padded with `""` if there is a separator.
    """
    if separator is None:
        return np.array([raw_string(value) for value in column], dtype=object)
    lists = [raw_list(value, separator) for value in column]
    width = max([1, *map(len, lists)])
    return np.array([each + [""] * (width - len(each)) for each in lists], dtype=object)


def raw_string(value: object) -> str:
    """Return a value as text, as ingest does: null is empty, an integral float has no fraction."""
    if isinstance(value, float | np.floating):
        number = float(value)
        # Spark casts through a 64-bit integer, which holds no larger number.
        if number.is_integer() and abs(number) < _INT64_LIMIT:
            return str(int(number))
    return NULL if _is_null(value) else str(value)


def raw_list(value: object, separator: str) -> list[str]:
    """Return the elements of a list, or of text split at the separator, as text."""
    if isinstance(value, list | tuple | np.ndarray):
        return [raw_string(v) for v in value if not _is_null(v)]
    return [] if _is_null(value) else [part for part in str(value).split(separator) if part]


def _is_null(value: object) -> bool:
    import pandas as pd

    if isinstance(value, float | np.floating):
        return bool(value != value)
    return value is None or value is pd.NA or value is pd.NaT
