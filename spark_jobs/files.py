"""Writing Parquet so that the same records give the same files: sorted, plainly named, nothing beside them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

RECORDS_PER_FILE = 1_000_000


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


def write_placed(frame: DataFrame, folder: Path, order: Sequence[str], place: Column, files: int) -> None:
    """Write `part-*.parquet` files, each sorted by `order`, with every record in the file that `place` (an integer) numbers.

    Unlike ranges, which Spark draws from a sample, places do not depend on the session, nor on how `frame` is partitioned.
    """
    placed = frame.repartitionById(files, F.pmod(place, F.lit(files)).cast("int"))
    placed.sortWithinPartitions(*order).write.mode("overwrite").parquet(str(folder))
    _tidy(folder)


def write_grouped(frame: DataFrame, folder: Path, keys: Sequence[str], records: int) -> None:
    """Write files of about a million records, dealt out by the hash of `keys`; each is sorted by `keys`.

    The shuffle that sums up the groups deals them out, so that they are not shuffled a second time: as many reducers as files,
    and none put together with another.

    Args:
        frame: an aggregation by exactly these keys, its last shuffle.
        folder: made, and replaced where it exists.
        keys: of the aggregation.
        records: how many groups there are at most, about.
    """
    with _reducers(frame.sparkSession, files_for(records)):
        frame.sortWithinPartitions(*keys).write.mode("overwrite").parquet(str(folder))
    _tidy(folder)


@contextmanager
def _reducers(spark: SparkSession, count: int) -> Iterator[None]:
    """Let shuffles end in this many partitions while the block runs."""
    settings = {"spark.sql.shuffle.partitions": str(count), "spark.sql.adaptive.coalescePartitions.enabled": "false"}
    before = {name: spark.conf.get(name) for name in settings}
    try:
        for name, value in settings.items():
            spark.conf.set(name, value)
        yield
    finally:
        for name, value in before.items():
            spark.conf.set(name, value)


def files_for(records: int) -> int:
    """Return how many files so many records are cut into: at least one."""
    return max(1, -(-records // RECORDS_PER_FILE))


def write_file(frame: DataFrame, path: Path, order: Sequence[str]) -> None:
    """Write one Parquet file of this very name, sorted by `order`."""
    staging = path.with_name(f".{path.name}.d")
    # Gathered before it is sorted: with coalesce the one task that writes would do the aggregation before it as well.
    write_sorted(frame.repartition(1), staging, order, records=1)
    (staging / "part-00000.parquet").replace(path)
    shutil.rmtree(staging)


def _tidy(folder: Path) -> None:
    """Drop Spark's markers and checksums, and the random part of its file names."""
    for path in folder.iterdir():
        if path.suffix == ".parquet" and not path.name.startswith("."):
            path.rename(folder / f"{path.name[: len('part-00000')]}.parquet")
        else:
            path.unlink()
