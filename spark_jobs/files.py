"""Writing Parquet so that the same records give the same files: sorted, plainly named, alone.

Also how a session is fitted to how much is read: planning and compiling cost more than the work on
a small partition.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession

RECORDS_PER_FILE = 1_000_000
SMALL_BYTES = 4 * 2**20
"""Up to so many bytes of Parquet are worked on in the way that is the least to plan."""

_FOR_SMALL = {
    # One reducer: what is grouped needs no second shuffle into one sorted file.
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.files.minPartitionNum": "1",
    # Adaptive execution plans each stage anew, and there is nothing to learn from the stage before.
    "spark.sql.adaptive.enabled": "false",
    # Interpreted: to compile a query, and what Java's own compiler makes of it later, takes seconds.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}


def are_small(paths: Iterable[Path], factor: float = 1) -> bool:
    """Return whether Parquet files, and those in folders, have at most `factor` times `SMALL_BYTES` together."""
    files = (
        file for path in paths for file in ([path] if path.is_file() else path.rglob("*.parquet"))
    )
    return sum(file.stat().st_size for file in files) <= factor * SMALL_BYTES


@contextmanager
def fitted(spark: SparkSession, *, small: bool) -> Iterator[None]:
    """Give the session the settings for small partitions while the block runs, if it is one."""
    with session_settings(spark, _FOR_SMALL if small else {}):
        yield


@contextmanager
def session_settings(spark: SparkSession, settings: Mapping[str, str]) -> Iterator[None]:
    """Give the session other settings while the block runs."""
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


def write_sorted(frame: DataFrame, folder: Path, order: Sequence[str], records: int) -> None:
    """Write `part-*.parquet` files that are sorted over the whole: file names ascend with `order`.

    Args:
        frame: what to write.
        folder: made, and replaced where it exists.
        order: names of the columns to sort by.
        records: how many there are about; above a million they are cut into files by range.
    """
    files = files_for(records)
    ranged = frame.repartitionByRange(files, *order) if files > 1 else frame.coalesce(1)
    ranged.sortWithinPartitions(*order).write.mode("overwrite").parquet(str(folder))
    _tidy(folder)


def write_placed(
    frame: DataFrame, folder: Path, by: str, order: Sequence[str], place: Column, files: int
) -> None:
    """Write `<by>=<value>/part-*.parquet` files, each sorted by `order`, with a record in the file that `place` numbers.

    Unlike ranges, which Spark draws from a sample, places do not depend on the session, nor on how `frame` is partitioned.

    Args:
        frame: what to write.
        folder: made, and replaced where it exists.
        by: the column that names the folders; without records a value has none.
        order: names of the columns to sort by.
        place: integer, from 0, ascending with `order` within a folder; one place's records are of one folder.
        files: how many places there are in all.
    """
    placed = frame.repartitionById(files, place.cast("int")).sortWithinPartitions(by, *order)
    placed.write.mode("overwrite").partitionBy(by).parquet(str(folder))
    _tidy(folder)


def write_grouped(
    frame: DataFrame, folder: Path, keys: Sequence[str], records: int, by: str = ""
) -> None:
    """Write files of about a million records, dealt out by the hash of `keys`; each is sorted by `keys`.

    The shuffle that sums up the groups deals them out, so that they are not shuffled a second time: as many reducers as files,
    and none put together with another.

    Args:
        frame: an aggregation by exactly these keys (and `by`), its last shuffle.
        folder: made, and replaced where it exists.
        keys: of the aggregation.
        records: how many groups there are at most, about.
        by: a column that names folders, `<by>=<value>/part-*.parquet`; without records a value has none.
    """
    files = str(files_for(records))
    one_each = {
        "spark.sql.shuffle.partitions": files,
        "spark.sql.adaptive.coalescePartitions.enabled": "false",
    }
    with session_settings(frame.sparkSession, one_each):
        folders = [by] if by else []
        ordered = frame.sortWithinPartitions(*folders, *keys)
        ordered.write.mode("overwrite").partitionBy(*folders).parquet(str(folder))
    _tidy(folder)


def files_for(records: int) -> int:
    """Return how many files so many records are cut into: at least one."""
    return max(1, -(-records // RECORDS_PER_FILE))


def write_file(frame: DataFrame, path: Path, order: Sequence[str]) -> None:
    """Write one Parquet file of this very name, sorted by `order`."""
    staging = path.with_name(f".{path.name}.d")
    # Gathered before it is sorted: with coalesce alone the one task that writes would do the
    # aggregation before it as well. With one reducer it does so anyway.
    gathered = (
        frame
        if frame.sparkSession.conf.get("spark.sql.shuffle.partitions") == "1"
        else frame.repartition(1)
    )
    write_sorted(gathered, staging, order, records=1)
    (staging / "part-00000.parquet").replace(path)
    shutil.rmtree(staging)


def _tidy(folder: Path) -> None:
    """Drop Spark's markers and checksums, and number the files of each folder from 0 in the order of their tasks."""
    number = 0
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            _tidy(path)
        elif path.suffix == ".parquet" and not path.name.startswith("."):
            path.rename(folder / f"part-{number:05d}.parquet")
            number += 1
        else:
            path.unlink()
