"""Files of the log as they land: which are complete, and what rows they hold."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import InputError
from pipelines.raw_rows import as_logged, read_rows
from spark_jobs.settings import Format, Source

if TYPE_CHECKING:
    import pandas as pd

_ENDINGS = (".parquet", ".csv", ".csv.gz")
_HIDDEN = (".", "_")


@dataclass(frozen=True)
class RawFile:
    """A file's rows under the schema's column names, and its lines that do not fit the header, as they are."""

    rows: pd.DataFrame
    malformed: tuple[str, ...] = ()


def landed(folder: Path, taken: Collection[str], most: int) -> list[Path]:
    """Return the first files, by name, that are there and not taken: `*.parquet`, `*.csv`, `*.csv.gz`.

    Names that begin with `.` or `_` are files in the making.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: make it, and let files be renamed into it when they are complete")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(_ENDINGS))
    return [folder / name for name in names if not name.startswith(_HIDDEN) and name not in taken][:most]


def read_file(path: Path, source: Source) -> RawFile:
    """Read a file, by its ending as Parquet or as CSV with a header.

    Raises:
        InputError: it cannot be read.
    """
    if path.suffix == ".parquet":
        return RawFile(as_logged(read_rows(path), source.model_copy(update={"format": Format.PARQUET})))
    rows, malformed = _read_csv(path, source.separator)
    return RawFile(as_logged(rows, source.model_copy(update={"format": Format.CSV})), malformed)


def _read_csv(path: Path, separator: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    import pandas as pd

    lines = list(csv.reader(_text(path).splitlines(keepends=True), delimiter=separator))
    if not lines:
        raise InputError(f"{path}: empty, without a header")
    header, fitting = lines[0], [line for line in lines[1:] if len(line) == len(lines[0])]
    malformed = tuple(separator.join(line) for line in lines[1:] if line and len(line) != len(header))
    return pd.DataFrame(fitting, columns=header, dtype=object), malformed


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path}: cannot be read as CSV: {error}") from error
