"""Which files can hold a day: Globo's hourly files are named by an hour's number and hold the
sessions that began in it.

A session's clicks all lie in the file of its beginning, and some sessions last for days, so no
range of numbers is enough: the times inside the files decide. Reading that one column of all files
takes seconds, where ingesting a day from all takes minutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from elastic_embeddings.core.hashing import mix64
from features.errors import InputError
from features.schema import Schema
from pipelines.config import Config
from pipelines.stages.ingest import source_files
from spark_jobs.negatives import SLOTS
from spark_jobs.settings import Source
from spark_jobs.times import bounds_ms

Times = Mapping[Path, NDArray[np.int64]]
"""Moments of the records of each file, int64 [n] milliseconds."""

_MS_PER_MINUTE = 60_000


def moments(config: Config, day: date) -> Times:
    """Read the moments of all records that the source's patterns match for a day.

    Raises:
        InputError: no file is there, or one cannot be read.
    """
    files = source_files(config.source, day)
    if not files:
        raise InputError(
            f"no file matches {config.source.path}: point ELASTIC_CTR_DATA at the folder that holds globo/clicks, or use --quick"
        )
    return {file: _moments(file, config.features.timestamp.column) for file in files}


def files_of(times: Times, source: Source, schema: Schema, day: date) -> list[Path]:
    """Return the files with a record of the day or of the window before it that its negatives are
    drawn from.
    """
    bounds = bounds_ms(day, schema.timezone)
    window_ms = source.negatives.window_minutes * _MS_PER_MINUTE if source.negatives else 0
    first, end = bounds[0][0] - window_ms * (SLOTS + 1) // SLOTS, bounds[-1][1]
    return [file for file, ms in times.items() if np.any((ms >= first) & (ms < end))]


def narrowed(config: Config, files: Sequence[Path]) -> Config:
    """Return the configuration with these files as its source."""
    paths = tuple(str(file) for file in files)
    return config.model_copy(update={"source": config.source.model_copy(update={"path": paths})})


def within_share(keys: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Return bool [n]: whether a key int64 [n] is of the share of all keys, drawn by its hash, that
    is kept.
    """
    return (mix64(keys.view(np.uint64)) >> np.uint64(11)) < np.uint64(share * 2**53)


def _moments(file: Path, column: str) -> NDArray[np.int64]:
    only = csv.ConvertOptions(include_columns=[column], column_types={column: pa.int64()})
    try:
        stamps: NDArray[np.int64] = csv.read_csv(file, convert_options=only)[column].to_numpy()
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise InputError(f"{file}: {column} cannot be read ({error}): replace the file") from error
    return stamps
