"""Read raw rows of the log without Spark, with the names and text forms that ingest gives them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from features.canonical import NULL, canonical, float_text
from features.errors import InputError
from spark_jobs.settings import Format, SideTable, Source

if TYPE_CHECKING:
    import pandas as pd

_ENDINGS = (".parquet", ".csv", ".csv.gz")
_INCOMPLETE = (".", "_")
_JOIN_KEY = "__join_key"
_LONGEST_CELL = 2**31 - 1


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
    names = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(_INCOMPLETE)]
        inside = Path(parent).relative_to(folder)
        names += [
            (inside / name).as_posix()
            for name in files
            if name.endswith(_ENDINGS) and not name.startswith(_INCOMPLETE)
        ]
    return {name: folder / name for name in sorted(names)}


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        InputError: it is a symbolic link, which may lead to a file that is no log, or a pipe.
        OSError: it cannot be read now; a later attempt may succeed.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise InputError(f"{path} is a link or a pipe: move the file itself here")
    return path.read_bytes()


def read_file(path: Path, source: Source, data: bytes | None = None) -> RawFile:
    """Read a log file: Parquet, or CSV with a header, depending on its ending.

    Args:
        path: the file.
        source: how it is read.
        data: the file's bytes, if they were read already.

    Raises:
        InputError: it cannot be read.
    """
    import pandas as pd

    data = read_bytes(path) if data is None else data
    if path.suffix == ".parquet":
        parquet = source.model_copy(update={"format": Format.PARQUET})
        return RawFile(_unique(normalize(_parquet_rows(path, io.BytesIO(data)), parquet), path))
    # 1. Decode the file.
    try:
        text = _decoded(gzip.decompress(data) if path.suffix == ".gz" else data, source.encoding)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path}: cannot be read as CSV: {error}") from error
    # 2. Split the lines by their number of values. pandas would fail on the whole file instead.
    lines = list(_records(text, source.separator))
    if not lines:
        raise InputError(f"{path}: the file is empty; a header is expected")
    header, *records = lines
    fitting = [record for record in records if len(record) == len(header)]
    malformed = tuple(
        source.separator.join(record) for record in records if record and len(record) != len(header)
    )
    # 3. Keep every value as text.
    rows = pd.DataFrame(fitting, columns=header, dtype=object)
    rows = normalize(rows, source.model_copy(update={"format": Format.CSV}))
    return RawFile(_unique(rows, path), malformed)


def _unique(rows: pd.DataFrame, path: Path) -> pd.DataFrame:
    repeated = sorted(set(rows.columns[rows.columns.duplicated()]))
    if repeated:
        raise InputError(f"{path} has the columns {repeated} more than once")
    return rows


def _decoded(data: bytes, encoding: str) -> str:
    # As ingest reads it: a byte that is not in the encoding costs a character, not the file.
    return data.decode(encoding, errors="replace").removeprefix("\ufeff")


def _records(text: str, separator: str) -> Iterator[list[str]]:
    """Yield the values of each line. As for Spark, a line ends at `\\n`, `\\r` or `\\r\\n`."""
    # Not `splitlines`, which also splits at characters that occur inside of values.
    lines = io.StringIO(text, newline=None)
    # The default limit of 131,072 characters would end the whole file at one long value.
    csv.field_size_limit(_LONGEST_CELL)
    if '"' not in text:
        yield from csv.reader(lines, delimiter=separator)
        return
    for line in lines:
        # Line by line, as Spark does: a quote that is never closed costs its line only.
        yield from csv.reader([line.removesuffix("\n")], delimiter=separator)


def read_rows(path: Path, separator: str = ",") -> pd.DataFrame:
    """Read a CSV or Parquet file without converting values. Nulls of Parquet stay null.

    Raises:
        InputError: it cannot be read.
    """
    import pandas as pd

    if path.suffix == ".parquet":
        return _parquet_rows(path, path)
    try:
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path}: cannot be read as CSV: {error}") from error


def _parquet_rows(path: Path, file: Path | io.BytesIO) -> pd.DataFrame:
    import pandas as pd

    try:
        # With NumPy's types a null would turn a column of integers into floats.
        return pd.read_parquet(file, dtype_backend="numpy_nullable")
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as Parquet: {error}") from error


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
        return NULL if _is_null(value) else float_text(value)
    if isinstance(value, bytes):
        # Spark casts bytes to text as UTF-8.
        return value.decode("utf-8", "replace")
    if _is_null(value):
        return NULL
    if isinstance(value, list | tuple | np.ndarray):
        # `str` of an array leaves out what is in its middle.
        return json.dumps([raw_string(each) for each in value])
    if isinstance(value, Decimal):
        # `str` writes small ones with an exponent, and Spark does not.
        return f"{value:f}"
    if isinstance(value, datetime):
        return _time_text(value)
    return str(value)


def _time_text(value: datetime) -> str:
    """Return a time as ingest writes it: in UTC with microseconds, or without a zone."""
    if value.tzinfo is not None:
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    return f"{value:%Y-%m-%d %H:%M:%S.%f}".rstrip("0").removesuffix(".")


def raw_list(value: object, separator: str) -> list[str]:
    """Return the elements of a list, or of text split at the separator, as text."""
    if isinstance(value, list | tuple | np.ndarray):
        return [raw_string(v) for v in value if not _is_null(v)]
    return [part for part in raw_string(value).split(separator) if part]


def _is_null(value: object) -> bool:
    import pandas as pd

    if isinstance(value, float | np.floating):
        return bool(value != value)
    return value is None or value is pd.NA or value is pd.NaT
