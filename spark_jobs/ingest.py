"""Ingest: raw records of a day or hour to `impressions`; invalid ones to quarantine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from features.errors import InputError, NoDataError
from features.ingest_rules import IngestMode, ingest_rules
from features.partition import Partition, day_of
from features.schema import Schema
from spark_jobs.aggregates import DAY, aggregates, write_metrics
from spark_jobs.files import are_small, fitted, write_sorted
from spark_jobs.negatives import MOMENT, recent, with_negatives
from spark_jobs.records import (
    REASON,
    UNDATED,
    accounted,
    as_json,
    impressions,
    moments,
    partition_in_path,
    validated_records,
)
from spark_jobs.settings import Partitioning, Source, fill_pattern
from spark_jobs.sources import describe, join_side_tables, read_errors, read_log
from spark_jobs.times import bounds_ms

_ORDER = ("timestamp_ms", "record_id")
_VALIDATED = ".validated"
_MINUTES_PER_DAY = 1440
_LOG_FACTOR = 4
"""Size of a small log relative to a small partition: it may hold several days and unused columns.

Measured on KuaiRand, whose 14,000 records a day are read from 11 MB.
"""


@dataclass(frozen=True)
class IngestReport:
    """Records of the partition: `rows_in = rows_kept + rows_quarantined`, the latter by reason.

    `columns_not_used` are columns of the log that no setting names.
    """

    rows_in: int
    rows_kept: int
    rows_quarantined: int
    reasons: dict[str, int]
    columns_not_used: tuple[str, ...] = ()


def ingest(
    spark: SparkSession, source: Source, schema: Schema, partition: Partition, out: Path
) -> IngestReport:
    """Write `impressions/`, `quarantine/`, `aggregates.parquet` and `values.parquet` into `out`.

    They are those of one day or hour. `spark_jobs.records.accounted` decides which records are rows
    in; drawn negatives are too. The hours of a day together give what the day gives. `record_id`
    hashes the raw record; if duplicates are kept, the hash of a repeat includes its number.

    Args:
        source: the location of the log and its format.
        schema: which columns are label, ids, time, features and extras.
        partition: the local day or hour of the schema's time zone.

    Raises:
        NoDataError: the source has no record of it, or the clock skips it.
        InputError: a file cannot be read, a column is missing, a side table repeats an id, or no
            time can be read at all.
    """
    if not bounds_ms(partition, schema.timezone):
        raise NoDataError(
            f"the clock of {schema.timezone} skips {partition}: there is no such time"
        )
    where, validated = describe(source, partition), out / _VALIDATED
    with read_errors(), ExitStack() as stack:
        raw = _raw(spark, source, schema, partition, stack)
        records = validated_records(raw, source, schema, partition)
        stack.enter_context(fitted(spark, small=_is_small(raw, source, partition)))
        stack.callback(shutil.rmtree, validated, ignore_errors=True)
        # Written, because they are read several times and the log only once. A cached frame would
        # stay in a resident server if this client were killed.
        records.write.parquet(str(validated))
        records = spark.read.schema(records.schema).parquet(str(validated))
        try:
            report = _write(records, source, schema, partition, out)
            known = {*_used_columns(source, schema), *schema.forbidden}
            unused = {name for name in raw.columns if not name.startswith("__")} - known
            return replace(report, columns_not_used=tuple(sorted(unused)))
        except NoDataError:
            # A log with no readable time at all has the wrong unit; it is not a day without data.
            undated = raw.where(moments(raw, schema, where).isNotNull()).isEmpty()
            if undated and not raw.isEmpty():
                stamp = schema.timestamp
                raise InputError(
                    f"{where}: no time in column {stamp.column!r} can be read as"
                    f" {stamp.unit.value!r}: correct `timestamp.unit`"
                ) from None
            raise


def _used_columns(source: Source, schema: Schema) -> set[str]:
    """Return the columns, of the log or of a side table, that settings name."""
    names = {schema.label, schema.user, schema.item, schema.timestamp.column, *schema.extras}
    names |= {schema.source_column(field) for field in schema.column_fields()}
    names |= {table.key for table in source.side_tables}
    return names | ({source.negatives.session} if source.negatives else set())


def _is_small(raw: DataFrame, source: Source, partition: Partition) -> bool:
    """Whether log and side tables are small; files that are not on this machine never are."""
    log = [unquote(urlsplit(uri).path) for uri in raw.inputFiles() if uri.startswith("file:")]
    tables = (fill_pattern(table.path, partition) for table in source.side_tables)
    paths = [Path(name) for name in (*log, *tables)]
    return bool(log) and all(path.exists() for path in paths) and are_small(paths, _LOG_FACTOR)


def _raw(
    spark: SparkSession, source: Source, schema: Schema, partition: Partition, stack: ExitStack
) -> DataFrame:
    """Return the raw records with negatives, if declared; `stack` releases what they cache."""
    negatives = source.negatives
    used = _used_columns(source, schema)
    if negatives is None:
        return read_log(spark, source, partition, used)
    day, where = day_of(partition), describe(source, partition)

    def clicks_of(log: DataFrame) -> DataFrame:
        return recent(log, moments(log, schema, where), negatives, schema, partition)

    # The clicks are read twice: as clicks, and as the history that items are drawn from.
    history = clicks_of(read_log(spark, source, day, used)).persist()
    stack.callback(history.unpersist)
    clicks = history
    if partition != day:
        clicks = history.where(accounted(F.col(MOMENT), source, schema, partition))
    for earlier in _earlier_logs(spark, source, negatives.window_minutes, partition):
        history = history.unionByName(clicks_of(earlier))
    return with_negatives(clicks, history, negatives, schema, partition)


def _earlier_logs(
    spark: SparkSession, source: Source, window_minutes: int, partition: Partition
) -> Iterator[DataFrame]:
    """Yield the logs of earlier days that the window overlaps, if each day has its own files."""
    if source.partition is Partitioning.TIMESTAMP:
        return
    for back in range(1, 2 + window_minutes // _MINUTES_PER_DAY):
        try:
            yield read_log(spark, source, day_of(partition) - timedelta(days=back))
        except NoDataError:
            continue


def _write(
    records: DataFrame, source: Source, schema: Schema, partition: Partition, out: Path
) -> IngestReport:
    """Write the partition's files from validated records."""
    spark = records.sparkSession
    # 1. Plan the impressions first: errors of side tables and columns come before those of counts.
    valid = records.where(F.col(REASON).isNull())
    joined = join_side_tables(spark, valid, source.side_tables, partition)
    kept = impressions(joined, schema, describe(source, partition))
    # 2. Count the records.
    columns = [REASON, UNDATED]
    groups = pq.read_table(out / _VALIDATED, columns=columns).group_by(columns)
    counts = groups.aggregate([([], "count_all")]).to_pylist()
    reasons = {rule.reason: 0 for rule in ingest_rules(IngestMode.SPARK)}
    for group in counts:
        if group[REASON] is not None:
            reasons[group[REASON]] += group["count_all"]
    rows_in, bad = sum(group["count_all"] for group in counts), sum(reasons.values())
    undated = sum(group["count_all"] for group in counts if group[UNDATED])
    report = IngestReport(rows_in, rows_in - bad, bad, reasons)
    _check_records(report, undated, source, schema, partition)
    _check_some_kept(report, records, describe(source, partition))
    # 3. Write.
    write_sorted(kept, out / "impressions", _ORDER, report.rows_kept)
    quarantined = records.where(F.col(REASON).isNotNull())
    quarantined = quarantined.select(
        F.col(REASON).alias("reason"), as_json(records).alias("record")
    )
    write_sorted(quarantined, out / "quarantine", ("reason", "record"), report.rows_quarantined)
    written = spark.read.schema(kept.schema).parquet(str(out / "impressions"))
    totals = {"rows_in": rows_in, "rows_quarantined": bad, "undated": undated}
    totals |= {f"quarantined:{reason}": count for reason, count in reasons.items()}
    metrics = ((DAY, name, float(count)) for name, count in totals.items())
    write_metrics([*metrics, *aggregates(written, schema, out)], out / "aggregates.parquet")
    return report


def _check_some_kept(report: IngestReport, records: DataFrame, where: str) -> None:
    """Check that not all records are quarantined for one and the same reason."""
    reason = max(report.reasons, key=lambda name: report.reasons[name])
    if report.rows_in == 0 or report.reasons[reason] < report.rows_in:
        return
    example = records.select(as_json(records)).first()
    check = next(rule.check for rule in ingest_rules(IngestMode.SPARK) if rule.reason == reason)
    raise InputError(
        f"{where}: all {report.rows_in} records are quarantined as {reason!r}: of none is it true"
        f" that {check.value}. Example: {example[0] if example else ''}. Correct the YAML or the"
        " files."
    )


def _check_records(
    report: IngestReport, undated: int, source: Source, schema: Schema, partition: Partition
) -> None:
    """Check that the partition has records."""
    # Unless the path names the partition, records of other or unknown days say nothing about it.
    elsewhere = report.reasons["wrong_day"]
    if report.rows_in - (0 if partition_in_path(source, partition) else undated + elsewhere) > 0:
        return
    also = ""
    if undated:
        also += f" ({undated} records have no readable time in {schema.timestamp.column!r})"
    if elsewhere:
        also += f" ({elsewhere} records are of other days)"
    raise NoDataError(
        f"{describe(source, partition)} holds no record of {partition} ({schema.timezone}){also}"
    )
