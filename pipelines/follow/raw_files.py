"""Files of the log as they land: which are complete, and what rows they hold."""

from __future__ import annotations

import csv
import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import InputError
from pipelines.follow.raw_rows import as_logged, read_rows
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


def landed(folder: Path) -> dict[str, Path]:
    """Return the complete files by name, in the order of names: `*.parquet`, `*.csv`, `*.csv.gz`.

    A file's name is its path below the folder, so partitions may have folders of their own (`dt=2026-01-01/hm=1304/part.csv`).
    What begins with `.` or `_`, a file or a folder, is in the making.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} is no folder: make it, and let files be renamed into it when they are complete"
        )
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.name.endswith(_ENDINGS)]
    names = sorted(
        path.as_posix()
        for path in paths
        if not any(part.startswith(_HIDDEN) for part in path.parts)
    )
    return {name: folder / name for name in names}


def read_file(path: Path, source: Source) -> RawFile:
    """Read a file, by its ending as Parquet or as CSV with a header.

    Raises:
        InputError: it cannot be read.
    """
    if path.suffix == ".parquet":
        return RawFile(
            as_logged(read_rows(path), source.model_copy(update={"format": Format.PARQUET}))
        )
    rows, malformed = _read_csv(path, source.separator)
    return RawFile(as_logged(rows, source.model_copy(update={"format": Format.CSV})), malformed)


def _read_csv(path: Path, separator: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    import pandas as pd

    lines = list(csv.reader(_text(path).splitlines(keepends=True), delimiter=separator))
    if not lines:
        raise InputError(f"{path}: empty, without a header")
    header, fitting = lines[0], [line for line in lines[1:] if len(line) == len(lines[0])]
    malformed = tuple(
        separator.join(line) for line in lines[1:] if line and len(line) != len(header)
    )
    return pd.DataFrame(fitting, columns=header, dtype=object), malformed


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path}: cannot be read as CSV: {error}") from error
