"""Ingest: the raw log's records of one day or hour to the `impressions` artifact; what cannot be used is quarantined, counted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from features.errors import InputError, NoDataError
from features.partition import Partition, day_of
from features.schema import Schema
from spark_jobs.aggregates import DAY, Metric, aggregates, counts, write_metrics
from spark_jobs.files import are_small, fitted, write_sorted
from spark_jobs.negatives import MOMENT, recent, with_negatives
from spark_jobs.records import (
    REASON,
    UNDATED,
    Reason,
    accounted,
    as_json,
    impressions,
    judged,
    moments,
    told_by_files,
)
from spark_jobs.settings import Negatives, Partitioning, Source, fill_pattern
from spark_jobs.sources import describe, join_side_tables, read_errors, read_log
from spark_jobs.times import bounds_ms

_ORDER = ("timestamp_ms", "record_id")
_JUDGED = ".judged"
_MINUTES_PER_DAY = 1440


@dataclass(frozen=True)
class IngestReport:
    """What became of the partition's records: `rows_in = rows_kept + rows_quarantined`, the latter by reason."""

    rows_in: int
    rows_kept: int
    rows_quarantined: int
    reasons: dict[str, int]


def ingest(
    spark: SparkSession, source: Source, schema: Schema, partition: Partition, out: Path
) -> IngestReport:
    """Write `impressions/`, `quarantine/` and `aggregates.parquet` of one day or hour into `out`.

    It is a local date, or an hour that the clock shows, in the schema's time zone. Which records are rows in, undated ones
    too, is told by `spark_jobs.records.accounted`; the hours of a day together give what the day gives. `record_id` hashes
    the raw record; where duplicates are not removed, the hash of a repeat takes its number in. Drawn negatives count as rows in.

    Args:
        spark: the session.
        source: where the log lies and how it is read.
        schema: which columns are label, ids, time, features and extras.
        partition: the day or hour to ingest.
        out: an existing folder.

    Raises:
        NoDataError: the source has no record of it, or the clock skips it.
        InputError: a file cannot be read, a column is missing, a side table repeats an id, or no time can be read at all.
    """
    if not bounds_ms(partition, schema.timezone):
        raise NoDataError(
            f"the clock of {schema.timezone} skips {partition}: there is no such time"
        )
    with read_errors(), ExitStack() as held:
        raw = _raw(spark, source, schema, partition, held)
        records = judged(raw, source, schema, partition)
        held.enter_context(fitted(spark, small=_is_small(raw, source, partition)))
        try:
            return _write(spark, _put_aside(records, out), source, schema, partition, out)
        except NoDataError:
            _require_times(raw, source, schema)
            raise
        finally:
            shutil.rmtree(out / _JUDGED, ignore_errors=True)


_LOG_FACTOR = 4
"""How much larger a small log may be than a small partition: its files may hold several days, and columns nobody asks for.
Measured on KuaiRand, whose 14,000 records a day are read from 11 MB."""


def _is_small(raw: DataFrame, source: Source, partition: Partition) -> bool:
    """Whether the log's files and the side tables are; those that are not on this machine are not looked at."""
    log = [unquote(urlsplit(uri).path) for uri in raw.inputFiles() if uri.startswith("file:")]
    paths = [
        Path(name)
        for name in (*log, *(fill_pattern(table.path, partition) for table in source.side_tables))
    ]
    return bool(log) and all(path.exists() for path in paths) and are_small(paths, _LOG_FACTOR)


def _put_aside(records: DataFrame, out: Path) -> DataFrame:
    """Write judged records and return them as read again: they are read several times, and the log only once.

    A cached frame would do, but that of a client that was killed would stay in a resident server.
    """
    records.write.parquet(str(out / _JUDGED))
    return records.sparkSession.read.schema(records.schema).parquet(str(out / _JUDGED))


@contextmanager
def _persisted(frame: DataFrame) -> Iterator[DataFrame]:
    frame.persist()
    try:
        yield frame
    finally:
        frame.unpersist()


def _raw(
    spark: SparkSession, source: Source, schema: Schema, partition: Partition, held: ExitStack
) -> DataFrame:
    if source.negatives is None:
        return read_log(spark, source, partition)
    log, where = read_log(spark, source, day_of(partition)), describe(source.path)
    history = held.enter_context(
        _persisted(recent(log, moments(log, schema, where), source.negatives, schema, partition))
    )
    clicks = (
        history
        if partition == day_of(partition)
        else history.where(accounted(F.col(MOMENT), source, schema, partition))
    )
    for earlier in _earlier_logs(spark, source, source.negatives, partition):
        history = history.unionByName(
            recent(earlier, moments(earlier, schema, where), source.negatives, schema, partition)
        )
    return with_negatives(clicks, history, source.negatives, schema, partition)


def _earlier_logs(
    spark: SparkSession, source: Source, negatives: Negatives, partition: Partition
) -> Iterator[DataFrame]:
    """The logs of the days before that a window reaches into, where each day has files of its own."""
    if source.partition is Partitioning.TIMESTAMP:
        return
    for back in range(1, 2 + negatives.window_minutes // _MINUTES_PER_DAY):
        try:
            yield read_log(spark, source, day_of(partition) - timedelta(days=back))
        except NoDataError:
            continue


def _write(
    spark: SparkSession,
    records: DataFrame,
    source: Source,
    schema: Schema,
    partition: Partition,
    out: Path,
) -> IngestReport:
    joined = join_side_tables(
        spark, records.where(F.col(REASON).isNull()), source.side_tables, partition
    )
    kept = impressions(joined, schema, describe(source.path))
    groups = (
        pq.read_table(out / _JUDGED, columns=[REASON, UNDATED])
        .group_by([REASON, UNDATED])
        .aggregate([([], "count_all")])
    )
    counted = groups.to_pylist()
    report, undated = (
        _report(counted),
        sum(group["count_all"] for group in counted if group[UNDATED]),
    )
    _require_records(report, undated, source, schema, partition)
    write_sorted(kept, out / "impressions", _ORDER, report.rows_kept)
    bad = records.where(F.col(REASON).isNotNull()).select(
        F.col(REASON).alias("reason"), as_json(records).alias("record")
    )
    write_sorted(bad, out / "quarantine", ("reason", "record"), report.rows_quarantined)
    written = spark.read.schema(kept.schema).parquet(str(out / "impressions"))
    write_metrics(
        [*_counts(report, undated), *aggregates(written, schema, out)], out / "aggregates.parquet"
    )
    return report


def _report(groups: list[dict[str, Any]]) -> IngestReport:
    reasons = {reason.value: 0 for reason in Reason}
    for group in groups:
        if group[REASON] is not None:
            reasons[group[REASON]] += group["count_all"]
    rows_in, quarantined = sum(group["count_all"] for group in groups), sum(reasons.values())
    return IngestReport(rows_in, rows_in - quarantined, quarantined, reasons)


def _require_records(
    report: IngestReport, undated: int, source: Source, schema: Schema, partition: Partition
) -> None:
    """Refuse a day or hour without records; where times tell it, those that none can claim make none."""
    elsewhere = report.reasons[Reason.WRONG_DAY]
    if report.rows_in - (0 if told_by_files(source, partition) else undated + elsewhere) > 0:
        return
    also = (
        f" ({undated} records have no readable time in {schema.timestamp.column!r})"
        if undated
        else ""
    )
    also += f" ({elsewhere} records are of other days)" if elsewhere else ""
    raise NoDataError(
        f"{describe(source.path)} holds no record of {partition} ({schema.timezone}){also}"
    )


def _require_times(raw: DataFrame, source: Source, schema: Schema) -> None:
    """Refuse a log none of whose times can be read: that is a wrong unit, not a day without data."""
    where, stamp = describe(source.path), schema.timestamp
    if raw.where(moments(raw, schema, where).isNotNull()).isEmpty() and not raw.isEmpty():
        raise InputError(
            f"{where}: no time in column {stamp.column!r} can be read as {stamp.unit.value!r}: correct `timestamp.unit`"
        )


def _counts(report: IngestReport, undated: int) -> Iterator[Metric]:
    yield from counts(
        {"rows_in": report.rows_in, "rows_quarantined": report.rows_quarantined, "undated": undated}
    )
    for reason, number in report.reasons.items():
        yield Metric(DAY, f"quarantined:{reason}", float(number))
