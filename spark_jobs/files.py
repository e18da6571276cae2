"""Parquet files that depend on their records only: sorted, with plain names and no other files.

Also the session's settings for small partitions, on which planning and compiling cost more than
the work.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession

RECORDS_PER_FILE = 1_000_000
SMALL_BYTES = 4 * 2**20
"""Up to this many bytes of Parquet a partition is small, and gets the plan that is made fastest."""

_FOR_SMALL = {
    # One reducer: grouped records need no second shuffle into one sorted file.
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.files.minPartitionNum": "1",
    # Adaptive execution plans every stage again, and on one reducer there is nothing to adapt.
    "spark.sql.adaptive.enabled": "false",
    # Interpreted: compiling a query, by Spark and then by the JVM, takes seconds.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}


def table_of(rows: Iterable[tuple[object, ...]], schema: pa.Schema) -> pa.Table:
    """Return rows as an Arrow table of this schema."""
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(each, field.type) for each, field in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)


def are_small(paths: Iterable[Path], factor: float = 1) -> bool:
    """Return whether Parquet files, and those in folders, have at most `factor · SMALL_BYTES`."""
    files = (
        file for path in paths for file in ([path] if path.is_file() else path.rglob("*.parquet"))
    )
    return sum(file.stat().st_size for file in files) <= factor * SMALL_BYTES


@contextmanager
def session_settings(spark: SparkSession, settings: Mapping[str, str]) -> Iterator[None]:
    """Change settings of the session while the block runs."""
    before = {name: spark.conf.get(name, None) for name in settings}
    try:
        for name, value in settings.items():
            spark.conf.set(name, value)
        yield
    finally:
        for name, old in before.items():
            if old is None:
                spark.conf.unset(name)
            else:
                spark.conf.set(name, old)


@contextmanager
def fitted(spark: SparkSession, *, small: bool) -> Iterator[None]:
    """Use the settings for small partitions while the block runs, if `small`."""
    with session_settings(spark, _FOR_SMALL if small else {}):
        yield


def files_for(records: int) -> int:
    """Return the number of files for so many records: at least one."""
    return max(1, -(-records // RECORDS_PER_FILE))


def write_sorted(frame: DataFrame, folder: Path, order: Sequence[str], records: int) -> None:
    """Write `part-*.parquet` files whose records, read in the order of file names, are sorted.

    Args:
        order: names of the columns to sort by.
        records: about how many there are; above a million they are split into files by range.
    """
    files = files_for(records)
    ranged = frame.repartitionByRange(files, *order) if files > 1 else frame.coalesce(1)
    _write(ranged, folder, order)


def write_placed(
    frame: DataFrame, folder: Path, by: str, order: Sequence[str], place: Column, files: int
) -> None:
    """Write `<by>=<value>/part-*.parquet` files, each sorted by `order`.

    Args:
        by: the column that names the folders; a value without records has no folder.
        order: names of the columns to sort by.
        place: number of a record's file, from 0, ascending with `order` within a folder; the
            records of one place are of one folder.
        files: the number of places.
    """
    # Spark draws ranges from a sample, which depends on the session and on the partitions of
    # `frame`. Places do not.
    _write(frame.repartitionById(files, place.cast("int")), folder, order, by)


def write_grouped(
    frame: DataFrame, folder: Path, keys: Sequence[str], records: int, by: str = ""
) -> None:
    """Write files of about a million records, split by the hash of `keys` and sorted by `keys`.

    Args:
        frame: an aggregation by exactly these keys (and `by`), which is its last shuffle.
        keys: of the aggregation.
        records: about how many groups there are at most.
        by: a column that names folders, as in `write_placed`.
    """
    # The shuffle of the aggregation also splits the files, so the groups are not shuffled again:
    # as many reducers as files, and adaptive execution may not merge them.
    one_each = {
        "spark.sql.shuffle.partitions": str(files_for(records)),
        "spark.sql.adaptive.coalescePartitions.enabled": "false",
    }
    with session_settings(frame.sparkSession, one_each):
        _write(frame, folder, keys, by)


def write_file(frame: DataFrame, path: Path, order: Sequence[str]) -> None:
    """Write one Parquet file of this name, sorted by `order`."""
    if frame.sparkSession.conf.get("spark.sql.shuffle.partitions") != "1":
        # Without this shuffle the `coalesce` of `write_sorted` would run the aggregation before it
        # in the single task that writes. With one reducer that is so in any case.
        frame = frame.repartition(1)
    # Spark writes folders only. The rename gives its file the name in one step.
    staging = path.with_name(f".{path.name}.d")
    write_sorted(frame, staging, order, records=1)
    (staging / "part-00000.parquet").replace(path)
    shutil.rmtree(staging)


def _write(frame: DataFrame, folder: Path, order: Sequence[str], by: str = "") -> None:
    folders = [by] if by else []
    ordered = frame.sortWithinPartitions(*folders, *order)
    ordered.write.mode("overwrite").partitionBy(*folders).parquet(str(folder))
    _tidy(folder)


def _tidy(folder: Path) -> None:
    """Delete Spark's markers and checksums, and number the files of each folder from 0."""
    number = 0
    # Spark's names begin with the number of the task, so their order is that of the tasks. They
    # also hold a random id, without which the same records give the same folder.
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            _tidy(path)
        elif path.suffix == ".parquet" and not path.name.startswith("."):
            path.rename(folder / f"part-{number:05d}.parquet")
            number += 1
        else:
            path.unlink()
