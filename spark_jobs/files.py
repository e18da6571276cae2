"""Writing Parquet so that the same records give the same files: sorted, plainly named, nothing beside them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from pyspark.sql import DataFrame

RECORDS_PER_FILE = 1_000_000


def write_sorted(frame: DataFrame, folder: Path, order: Sequence[str], records: int) -> None:
    """Write `part-*.parquet` files that are sorted over the whole: file names ascend with `order`.

    Args:
        frame: what to write.
        folder: made, and replaced where it exists.
        order: names of the columns to sort by.
        records: how many there are about; above a million they are cut into files by range.
    """
    files = -(-records // RECORDS_PER_FILE)
    ranged = frame.repartitionByRange(files, *order) if files > 1 else frame.coalesce(1)
    ranged.sortWithinPartitions(*order).write.mode("overwrite").parquet(str(folder))
    _tidy(folder)


def write_file(frame: DataFrame, path: Path, order: Sequence[str]) -> None:
    """Write one Parquet file of this very name, sorted by `order`."""
    staging = path.with_name(f".{path.name}.d")
    write_sorted(frame, staging, order, records=1)
    (staging / "part-00000.parquet").replace(path)
    shutil.rmtree(staging)


def _tidy(folder: Path) -> None:
    """Drop Spark's markers and checksums, and the random part of its file names."""
    for path in folder.iterdir():
        if path.suffix == ".parquet" and not path.name.startswith("."):
            path.rename(folder / f"{path.name[: len('part-00000')]}.parquet")
        else:
            path.unlink()
