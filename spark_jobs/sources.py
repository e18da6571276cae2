"""Reading a source: files to one DataFrame of the raw log, and side tables joined to it by id."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, StringType, StructField, StructType

from features.canonical import NULL
from features.errors import InputError, NoDataError
from features.partition import Partition, kind_of
from spark_jobs.settings import Format, Partitioning, SideTable, Source, fill_pattern
from spark_jobs.values import quoted, single_value

CORRUPT = "__corrupt"
"""Text of a CSV line that does not fit the header, else null; always null for Parquet."""

# Damaged files have no error condition in common: these occur in the messages of pyspark 4.3.
_READ_FAILURES = re.compile(
    r"FAILED_READ_FILE|CANNOT_READ_FILE_FOOTER|CANNOT_MERGE_SCHEMAS|CSV header|EOFException"
    r"|ZipException|not a gzip|invalid block"
)
_FILE = re.compile(r"(?:file:/+|[a-z0-9]+://)[^\s,;'\"]+?(?=[.,;:'\"]?(?:\s|$))")
_JOIN_KEY = "__join_key"
_SHOWN_COLUMNS = 40
_SHOWN_REPEATS = 5


def read_log(spark: SparkSession, source: Source, partition: Partition) -> DataFrame:
    """Return the raw records of a source: the log's columns under their schema names and `CORRUPT`.

    CSV columns are strings; Parquet columns keep their types. With `partition: path` only the files
    of the day (or of the hour, if hours have files) are read, else all that the pattern matches.

    Raises:
        NoDataError: `partition: path` and the day or hour has no file.
        InputError: the pattern matches nothing, a column to rename is missing, or a file cannot be
            read.
    """
    # 1. The files.
    paths = [fill_pattern(pattern, partition) for pattern in source.patterns]
    matched = [path for path in paths if _matches(spark, path)]
    unmatched = [path for path in paths if path not in matched]
    if source.partition is Partitioning.PATH and not matched:
        cause = f"the {kind_of(partition)} has no data, or `source.path` is wrong"
        raise NoDataError(f"no file for {partition} at {describe(tuple(paths))}: {cause}")
    if source.partition is Partitioning.TIMESTAMP and unmatched:
        raise InputError(
            f"`source.path` matches no file: {describe(tuple(unmatched))}. Correct the pattern or"
            " the working folder."
        )
    with read_errors():
        frame = _read_table(spark, matched, source.format, source.separator, source.null_values)
    # 2. The names.
    where = describe(source.path)
    require_columns(frame.columns, dict.fromkeys(source.rename, "`rename`"), where)
    names = [source.rename.get(name, name) for name in frame.columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"{where}: after `rename` two columns are called {twice}: choose other names"
        )
    renamed = (quoted(old).alias(new) for old, new in zip(frame.columns, names, strict=True))
    return frame.select(*renamed)


def join_side_tables(
    spark: SparkSession, frame: DataFrame, tables: Iterable[SideTable], partition: Partition
) -> DataFrame:
    """Return the frame with each side table's columns joined by id; unknown ids get nulls.

    Ids are compared in canonical form, so that `7`, `"7"` and `7.0` are equal.

    Raises:
        InputError: a table's file or column is missing, its id repeats, or its columns clash with
            the log's.
    """
    sides: list[tuple[SideTable, DataFrame]] = []
    present = list(frame.columns)
    for table in tables:
        side = _side_columns(spark, table, partition)
        require_columns(present, {table.key: f"the join with {table.path}"}, "the log")
        if clashes := sorted(set(side.columns) & set(present)):
            raise InputError(
                f"side table {table.path} and the log both have columns {clashes}: list `columns`"
                " or set a `prefix`"
            )
        present += [name for name in side.columns if name != _JOIN_KEY]
        sides.append((table, side))
    _check_unique(sides)
    for table, side in sides:
        keyed = frame.withColumn(_JOIN_KEY, canonical_column(frame, table.key))
        frame = keyed.join(F.broadcast(side), _JOIN_KEY, "left").drop(_JOIN_KEY)
    return frame


def require_columns(columns: Iterable[str], wanted: Mapping[str, str], where: str) -> None:
    """Check that columns are there.

    Args:
        columns: the columns that exist.
        wanted: the columns needed, each with what needs it.
        where: the file pattern, for the message.

    Raises:
        InputError: names the missing columns, the closest ones, and those that exist.
    """
    present = [name for name in columns if name != CORRUPT]
    missing = []
    for name, use in wanted.items():
        if name not in present:
            close = difflib.get_close_matches(name, present, n=1, cutoff=0.5)
            hint = f", perhaps {close[0]!r}" if close else ""
            missing.append(f"{name!r} (for {use}){hint}")
    if missing:
        shown = ", ".join(present[:_SHOWN_COLUMNS])
        shown += ", …" if len(present) > _SHOWN_COLUMNS else ""
        raise InputError(
            f"{where} has no column {'; '.join(missing)}. Columns there are: {shown}. Correct the"
            " YAML or add a `rename`."
        )


@contextmanager
def read_errors() -> Iterator[None]:
    """Turn Spark's failures to read a file into an InputError that names the file."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        text = str(error)
        if not _READ_FAILURES.search(text):
            raise
        found = _FILE.search(text)
        named = found.group(0) if found else "of the source"
        cause = str(error.java_exception.getMessage()) if isinstance(error, Py4JJavaError) else text
        raise InputError(
            f"file {named} cannot be read (truncated, damaged or of another layout):"
            f" {' '.join(cause.split())[:300]}. Replace or remove it."
        ) from error


def describe(path: str | tuple[str, ...]) -> str:
    """Return a source's pattern(s) for a message."""
    return path if isinstance(path, str) else ", ".join(path)


def column_type(frame: DataFrame, name: str) -> DataType:
    """Return the type of a column of a frame."""
    return frame.schema[name].dataType


def canonical_column(frame: DataFrame, name: str) -> Column:
    """Return the canonical strings of a frame's column of single values."""
    return single_value(name, column_type(frame, name))


def _read_table(
    spark: SparkSession,
    paths: list[str],
    kind: Format,
    separator: str,
    null_values: tuple[str, ...] = (),
) -> DataFrame:
    """Return the records of files of one format, with the column `CORRUPT` last."""
    if kind is Format.PARQUET:
        return spark.read.parquet(*paths).withColumn(CORRUPT, F.lit(None).cast("string"))
    options = {
        "header": True,
        "sep": separator,
        # RFC 4180: a quote inside a quoted value is doubled. Spark's default is a backslash.
        "quote": '"',
        "escape": '"',
        "mode": "PERMISSIVE",
        # Spark then compares the header of every file with the schema, which is the first one's.
        "enforceSchema": False,
    }
    header = spark.read.options(**options).csv(paths).columns
    fields = StructType([StructField(name, StringType()) for name in (*header, CORRUPT)])
    reader = spark.read.options(**options, columnNameOfCorruptRecord=CORRUPT)
    frame = reader.schema(fields).csv(paths)
    if not null_values:
        return frame
    values = (F.when(~quoted(name).isin(*null_values), quoted(name)).alias(name) for name in header)
    return frame.select(*values, CORRUPT)


def _matches(spark: SparkSession, pattern: str) -> bool:
    """Whether a file pattern matches anything, as Hadoop reads patterns."""
    try:
        # `binaryFile` has fixed columns: Spark looks for the files and does not open them.
        return bool(spark.read.format("binaryFile").load(pattern).columns)
    except AnalysisException as error:
        if error.getCondition() != "PATH_NOT_FOUND":
            raise
        return False


def _side_columns(spark: SparkSession, table: SideTable, partition: Partition) -> DataFrame:
    """Return a side table's chosen columns under their prefixed names, and the canonical id.

    Records without an id are dropped.
    """
    path = fill_pattern(table.path, partition)
    if not _matches(spark, path):
        raise InputError(f"side table {path} does not exist: correct `side_tables` in the YAML")
    with read_errors():
        side = _read_table(spark, [path], table.format, table.separator)
    key = table.table_key or table.key
    names = table.columns or tuple(name for name in side.columns if name not in (key, CORRUPT))
    needed = {key: "the join", **dict.fromkeys(names, "`columns`")}
    require_columns(side.columns, needed, table.path)
    chosen = (quoted(name).alias(table.prefix + name) for name in names)
    keyed = side.select(canonical_column(side, key).alias(_JOIN_KEY), *chosen)
    return keyed.where(F.col(_JOIN_KEY) != NULL)


def _check_unique(sides: Sequence[tuple[SideTable, DataFrame]]) -> None:
    """Check that no table has an id twice; the error names the first table that has one."""
    if not sides:
        return
    # All tables in one query.
    ids = (
        side.select(F.lit(number).alias("number"), _JOIN_KEY)
        for number, (_, side) in enumerate(sides)
    )
    counted = reduce(DataFrame.unionByName, ids).groupBy("number", _JOIN_KEY).count()
    repeated = counted.where("count > 1").orderBy("number", _JOIN_KEY).limit(_SHOWN_REPEATS)
    with read_errors():
        repeats = repeated.collect()
    if repeats:
        first = repeats[0][0]
        table = sides[first][0]
        shown = ", ".join(
            f"{value!r} ({count} times)" for number, value, count in repeats if number == first
        )
        raise InputError(
            f"side table {table.path}: {table.table_key or table.key} must be unique, but repeats:"
            f" {shown}. Keep one record per id."
        )
