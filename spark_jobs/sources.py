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

_READ_FAILURES = re.compile(
    r"FAILED_READ_FILE|CANNOT_READ_FILE_FOOTER|CANNOT_MERGE_SCHEMAS|CSV header|EOFException|ZipException|not a gzip|invalid block"
)
_FILE = re.compile(r"(?:file:/+|[a-z0-9]+://)[^\s,;'\"]+?(?=[.,;:'\"]?(?:\s|$))")
_SHOWN_COLUMNS = 40
_SHOWN_REPEATS = 5


def read_log(spark: SparkSession, source: Source, partition: Partition) -> DataFrame:
    """Return the raw records of a source: the log's columns under their schema names, then `CORRUPT`.

    CSV columns are strings; Parquet columns keep their types. With `partition: path` only the files of the day, or of
    the hour where hours have files, are read, else all that the pattern matches.

    Raises:
        NoDataError: `partition: path` and the day or hour has no file.
        InputError: the pattern matches nothing, a column to rename is missing, or a file cannot be read.
    """
    paths = [fill_pattern(pattern, partition) for pattern in source.patterns]
    _require_files(spark, source, paths, partition)
    with read_errors():
        frame = read_table(spark, paths, source.format, source.separator, source.null_values)
    return _renamed(frame, source)


def join_side_tables(
    spark: SparkSession, frame: DataFrame, tables: Iterable[SideTable], partition: Partition
) -> DataFrame:
    """Return the frame with each side table's columns joined by id; an id that a table lacks gets nulls.

    Ids are compared in canonical spelling, so that `7`, `"7"` and `7.0` meet.

    Raises:
        InputError: a table's file or column is missing, its id repeats, or its columns clash with the log's.
    """
    sides: list[tuple[SideTable, DataFrame]] = []
    for table in tables:
        side = _side_columns(_read_side(spark, table, partition), table)
        _refuse_clash(
            [
                *frame.columns,
                *(name for _, other in sides for name in other.columns if name != _JOIN_KEY),
            ],
            side,
            table,
        )
        sides.append((table, side))
    _refuse_repeats(sides)
    for table, side in sides:
        key = _canonical(frame, table.key)
        frame = (
            frame.withColumn(_JOIN_KEY, key)
            .join(F.broadcast(side), _JOIN_KEY, "left")
            .drop(_JOIN_KEY)
        )
    return frame


def read_table(
    spark: SparkSession,
    paths: Iterable[str],
    kind: Format,
    separator: str,
    null_values: Iterable[str] = (),
) -> DataFrame:
    """Return the records of files of one format, with the column `CORRUPT` last."""
    if kind is Format.PARQUET:
        return spark.read.parquet(*paths).withColumn(CORRUPT, F.lit(None).cast("string"))
    options = {
        "header": True,
        "sep": separator,
        "quote": '"',
        "escape": '"',
        "mode": "PERMISSIVE",
        "enforceSchema": False,
    }
    header = spark.read.options(**options).csv(list(paths)).columns
    fields = StructType([StructField(name, StringType()) for name in (*header, CORRUPT)])
    frame = (
        spark.read.options(**options, columnNameOfCorruptRecord=CORRUPT)
        .schema(fields)
        .csv(list(paths))
    )
    return frame.select(*(_nulled(name, tuple(null_values)) for name in header), CORRUPT)


def require_columns(columns: Iterable[str], wanted: Mapping[str, str], where: str) -> None:
    """Refuse a frame that lacks a column.

    Args:
        columns: the columns there are.
        wanted: the columns needed, each with what needs it.
        where: the file pattern, for the message.

    Raises:
        InputError: names the missing columns, the closest ones, and those there are.
    """
    present = [name for name in columns if name != CORRUPT]
    missing = [
        f"{name!r} (for {use}){_closest(name, present)}"
        for name, use in wanted.items()
        if name not in present
    ]
    if missing:
        shown = ", ".join(present[:_SHOWN_COLUMNS]) + (
            ", …" if len(present) > _SHOWN_COLUMNS else ""
        )
        raise InputError(
            f"{where} has no column {'; '.join(missing)}. Columns there are: {shown}. Correct the YAML or add a `rename`."
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
        cause = str(error.java_exception.getMessage()) if isinstance(error, Py4JJavaError) else text
        reason = " ".join(cause.split())
        named = found.group(0) if found else "of the source"
        raise InputError(
            f"file {named} cannot be read (truncated, damaged or of another layout): {reason[:300]}. Replace or remove it."
        ) from error


_JOIN_KEY = "__join_key"


def describe(path: str | tuple[str, ...]) -> str:
    """Return a source's pattern(s) as a message shows them."""
    return path if isinstance(path, str) else ", ".join(path)


def _require_files(
    spark: SparkSession, source: Source, paths: list[str], partition: Partition
) -> None:
    unmatched = [path for path in paths if not _matches(spark, path)]
    if source.partition is Partitioning.PATH and len(unmatched) == len(paths):
        cause = f"the {kind_of(partition)} has no data, or `source.path` is wrong"
        raise NoDataError(f"no file for {partition} at {describe(tuple(paths))}: {cause}")
    if source.partition is Partitioning.TIMESTAMP and unmatched:
        raise InputError(
            f"`source.path` matches no file: {describe(tuple(unmatched))}. Correct the pattern or the working folder."
        )
    for path in unmatched:
        paths.remove(path)


def _matches(spark: SparkSession, pattern: str) -> bool:
    """Whether a file pattern, in Hadoop's own reading of it, matches anything.

    A reader that knows its columns beforehand looks for its files and no further.
    """
    try:
        return bool(spark.read.format("binaryFile").load(pattern).columns)
    except AnalysisException as error:
        if error.getCondition() != "PATH_NOT_FOUND":
            raise
        return False


def _renamed(frame: DataFrame, source: Source) -> DataFrame:
    where = describe(source.path)
    require_columns(frame.columns, {name: "`rename`" for name in source.rename}, where)
    names = [source.rename.get(name, name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"{where}: after `rename` two columns are called {twice}: choose other names"
        )
    return frame.select(
        *(quoted(old).alias(new) for old, new in zip(frame.columns, names, strict=True))
    )


def _nulled(name: str, null_values: tuple[str, ...]) -> Column:
    value = quoted(name)
    return F.when(~value.isin(*null_values), value).alias(name) if null_values else value


def _read_side(spark: SparkSession, table: SideTable, partition: Partition) -> DataFrame:
    paths = [fill_pattern(table.path, partition)]
    if not _matches(spark, paths[0]):
        raise InputError(f"side table {paths[0]} does not exist: correct `side_tables` in the YAML")
    with read_errors():
        return read_table(spark, paths, table.format, table.separator)


def _side_columns(side: DataFrame, table: SideTable) -> DataFrame:
    """The table's chosen columns under their prefixed names, keyed by the canonical id; records without one are left out."""
    key = table.table_key or table.key
    names = table.columns or tuple(name for name in side.columns if name not in (key, CORRUPT))
    require_columns(
        side.columns, {key: "the join", **dict.fromkeys(names, "`columns`")}, table.path
    )
    chosen = (quoted(name).alias(table.prefix + name) for name in names)
    return side.select(_canonical(side, key).alias(_JOIN_KEY), *chosen).where(
        F.col(_JOIN_KEY) != NULL
    )


def _refuse_clash(columns: list[str], side: DataFrame, table: SideTable) -> None:
    require_columns(columns, {table.key: f"the join with {table.path}"}, "the log")
    clashes = sorted(set(side.columns) & set(columns))
    if clashes:
        raise InputError(
            f"side table {table.path} and the log both have columns {clashes}: list `columns` or set a `prefix`"
        )


def _refuse_repeats(sides: Sequence[tuple[SideTable, DataFrame]]) -> None:
    """Refuse tables with an id twice, all of them in one query; the first table that has one is named."""
    if not sides:
        return
    ids = (
        side.select(F.lit(number).alias("number"), _JOIN_KEY)
        for number, (_, side) in enumerate(sides)
    )
    counted = reduce(DataFrame.unionByName, ids).groupBy("number", _JOIN_KEY).count()
    with read_errors():
        repeats = (
            counted.where("count > 1").orderBy("number", _JOIN_KEY).limit(_SHOWN_REPEATS).collect()
        )
    if repeats:
        table = sides[repeats[0][0]][0]
        shown = ", ".join(
            f"{value!r} ({count} times)"
            for number, value, count in repeats
            if number == repeats[0][0]
        )
        key = table.table_key or table.key
        raise InputError(
            f"side table {table.path}: {key} must be unique, but repeats: {shown}. Keep one record per id."
        )


def _canonical(frame: DataFrame, name: str) -> Column:
    return single_value(name, column_type(frame, name))


def column_type(frame: DataFrame, name: str) -> DataType:
    """Return the type of a column of a frame."""
    return frame.schema[name].dataType


def _closest(name: str, present: list[str]) -> str:
    close = difflib.get_close_matches(name, present, n=1, cutoff=0.5)
    return f", perhaps {close[0]!r}" if close else ""
