"""Reading a source: files to one DataFrame of the raw log, and side tables joined to it by id."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    DataType,
    MapType,
    StringType,
    StructField,
    StructType,
)

from features.canonical import NULL
from features.errors import InputError, NoDataError
from features.partition import Partition, kind_of
from spark_jobs.settings import Format, Partitioning, SideTable, Source, fill_pattern
from spark_jobs.values import quoted, single_value

CORRUPT = "__corrupt"
"""Text of a CSV line that does not fit the header, else null; always null for Parquet."""

DAMAGE = "__damage"
"""Reason (`encoding` or `cell_size`) of a record whose values cannot be used."""

FILE = "__file"
"""The file of a record, below the source's folder."""

ROW = "__row"
"""Number of a record in its Parquet file, from 0; always null for CSV, whose lines Spark does not
number."""

# Damaged files have no error condition in common: these occur in the messages of pyspark 4.3.
_READ_FAILURES = re.compile(
    r"FAILED_READ_FILE|CANNOT_READ_FILE_FOOTER|CANNOT_MERGE_SCHEMAS|CSV header|EOFException"
    r"|ZipException|not a gzip|invalid block"
)
_FILE = re.compile(r"(?:file:/+|[a-z0-9]+://)[^\s,;'\"]+?(?=[.,;:'\"]?(?:\s|$))")
_JOIN_KEY = "__join_key"
_SHOWN_COLUMNS = 40
_SHOWN_REPEATS = 5
_SHOWN_CHARACTERS = 200
_SHOWN_VALUES = 20
_LOST = "\ufffd"
"""What a decoder writes for a byte that is not in the encoding."""


def read_log(
    spark: SparkSession, source: Source, partition: Partition, needed: Iterable[str] = ()
) -> DataFrame:
    """Return the raw records of a source: the log's columns under their schema names.

    `CORRUPT`, `DAMAGE`, `FILE` and `ROW` are added. Values that are too long are cut.

    CSV columns are strings; Parquet columns keep their types. With `partition: path` only the files
    of the day (or of the hour, if hours have files) are read, else all that the pattern matches.

    Args:
        spark: the session.
        source: the location of the log and its format.
        partition: the day or hour.
        needed: columns, by their schema names, that no Parquet file may lack if another has them.

    Raises:
        NoDataError: `partition: path` and the day or hour has no file.
        InputError: the pattern matches nothing, a column is missing, or a file cannot be read, is
            empty or is a link that leads out of the source's folder.
    """
    # 1. The files.
    paths = [fill_pattern(pattern, partition) for pattern in source.patterns]
    matched = [path for path in paths if _matches(spark, path)]
    unmatched = [path for path in paths if path not in matched]
    if source.partition is Partitioning.PATH and not matched:
        cause = f"the {kind_of(partition)} has no data, or `source.path` is wrong"
        raise NoDataError(f"no file for {partition} at {', '.join(paths)}: {cause}")
    if source.partition is Partitioning.TIMESTAMP and unmatched:
        raise InputError(
            f"`source.path` matches no file: {', '.join(unmatched)}. Correct the pattern or"
            " the working folder."
        )
    _check_files(spark, source, partition, needed)
    with read_errors():
        frame = _read_table(spark, matched, source)
    # 2. The names.
    where = describe(source, partition)
    if any(_LOST in name for name in frame.columns):
        raise InputError(
            f"{where}: the header is not text in {source.encoding}: correct `source.encoding`"
        )
    require_columns(frame.columns, dict.fromkeys(source.rename, "`rename`"), where)
    names = [source.rename.get(name, name) for name in frame.columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"{where}: after `rename` two columns are called {twice}: choose other names"
        )
    renamed = (quoted(old).alias(new) for old, new in zip(frame.columns, names, strict=True))
    # 3. What cannot be used.
    return _with_damage(frame, source).select(*renamed, DAMAGE, FILE, ROW)


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
    # Names that begin with `__` are of this project, such as `CORRUPT`.
    present = [name for name in columns if not name.startswith("__")]
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


def describe(source: Source, partition: Partition) -> str:
    """Return a source's pattern(s), with the date filled in, for a message."""
    return ", ".join(fill_pattern(pattern, partition) for pattern in source.patterns)


def column_type(frame: DataFrame, name: str) -> DataType:
    """Return the type of a column of a frame."""
    return frame.schema[name].dataType


def canonical_column(frame: DataFrame, name: str) -> Column:
    """Return the canonical strings of a frame's column of single values."""
    return single_value(name, column_type(frame, name))


def _read_table(spark: SparkSession, paths: list[str], table: Source | SideTable) -> DataFrame:
    """Return the records of files of one format, with the column `CORRUPT` last."""
    if table.format is Format.PARQUET:
        return spark.read.parquet(*paths).withColumn(CORRUPT, F.lit(None).cast("string"))
    options = {
        "header": True,
        "sep": table.separator,
        "encoding": table.encoding if isinstance(table, Source) else "utf-8",
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
    if not (isinstance(table, Source) and table.null_values):
        return frame
    values = (
        F.when(~quoted(name).isin(*table.null_values), quoted(name)).alias(name) for name in header
    )
    return frame.select(*values, CORRUPT)


def _with_damage(frame: DataFrame, source: Source) -> DataFrame:
    """Return the frame with `DAMAGE`, `FILE` and `ROW`; values that are too long are cut."""
    kinds = {field.name: field.dataType for field in frame.schema.fields}
    texts = [name for name, kind in kinds.items() if isinstance(kind, StringType | BinaryType)]
    measured = ((name, _bytes_of(name, kind)) for name, kind in kinds.items())
    sizes = {name: size for name, size in measured if size is not None}
    giant = F.array_max(F.array(F.lit(0), *sizes.values())) > source.max_cell_bytes
    joined = F.concat_ws("", *(quoted(name).cast("string") for name in texts))
    # Spark's CSV reader writes U+FFFD for what it cannot decode; Parquet's bytes are kept.
    lost = joined.contains(_LOST) if source.format is Format.CSV else ~F.is_valid_utf8(joined)
    damage = F.when(giant, "cell_size").when(lost, "encoding")

    def cut(name: str) -> Column:
        if name not in sizes:
            return quoted(name)
        value, kind = quoted(name), kinds[name]
        if isinstance(kind, ArrayType):
            short = F.slice(value, 1, _SHOWN_VALUES)
            if isinstance(kind.elementType, StringType | BinaryType):
                short = F.transform(short, lambda each: F.substring(each, 1, _SHOWN_CHARACTERS))
        elif isinstance(kind, MapType):
            short = F.lit(None)
        else:
            shown = F.substring(value, 1, _SHOWN_CHARACTERS).cast("string")
            short = F.concat(shown, F.format_string("… (%d bytes)", sizes[name])).cast(kind)
        return F.when(sizes[name] > source.max_cell_bytes, short).otherwise(value)

    parquet = source.format is Format.PARQUET
    row = F.col("_metadata.row_index") if parquet else F.lit(None).cast("long")
    columns = (cut(name).alias(name) for name in frame.columns)
    return frame.select(
        *columns, damage.alias(DAMAGE), _file_below(source).alias(FILE), row.alias(ROW)
    )


def _bytes_of(name: str, kind: DataType) -> Column | None:
    """Return the size of values; of a list or map a byte for each value and those of its texts."""
    value = quoted(name)
    if isinstance(kind, StringType | BinaryType):
        return F.octet_length(value)
    if isinstance(kind, ArrayType) and isinstance(kind.elementType, StringType | BinaryType):
        return F.aggregate(
            value,
            F.lit(0),
            lambda total, each: total + 1 + F.coalesce(F.octet_length(each), F.lit(0)),
        )
    return F.size(value) if isinstance(kind, ArrayType | MapType) else None


def _file_below(source: Source) -> Column:
    """Return the path of each record's file below the folder of the source.

    Names do not depend on where the folder lies, so that equal logs give equal quarantines.
    """
    depths = []
    for folder in map(_folder_of, source.patterns):
        # A URI begins with scheme, "" and host, which `Path` writes as `s3:/host`.
        is_uri = bool(folder.parts) and folder.parts[0].endswith(":")
        # Links are not resolved, as in Spark's paths.
        whole = folder if is_uri else Path(os.path.abspath(folder))  # noqa: PTH100
        depths.append(3 + len(whole.parts) - (2 if is_uri else 1))
    path = F.url_decode(F.replace(F.col("_metadata.file_path"), F.lit("+"), F.lit("%2B")))
    # Spark writes `file:/folder` or `file:///folder`.
    parts = F.split(F.regexp_replace(path, r"\Afile:/+", "file:///"), "/")
    return F.array_join(F.slice(parts, min(depths) + 1, F.size(parts)), "/")


def _check_files(
    spark: SparkSession, source: Source, partition: Partition, needed: Iterable[str]
) -> None:
    """Check what Spark does not say of the files on this machine; see `read_log`."""
    names = {new: old for old, new in source.rename.items()}
    columns: dict[Path, set[str]] = {}
    for pattern in source.patterns:
        root, filled = _folder_of(pattern), fill_pattern(pattern, partition)
        for path in _local_files(spark, filled) if _matches(spark, filled) else ():
            if not source.follow_links and not path.resolve().is_relative_to(root.resolve()):
                raise InputError(
                    f"{path} is a link to {path.resolve()}, outside of {root}: move the file there,"
                    " or set `source.follow_links: true`"
                )
            if path.stat().st_size == 0:
                raise InputError(f"file {path} is empty (0 bytes): replace or remove it")
            if source.format is Format.PARQUET:
                columns[path] = _parquet_columns(path)
    everywhere = set().union(*columns.values())
    for path, present in columns.items():
        if lacking := sorted({names.get(name, name) for name in needed} & everywhere - present):
            raise InputError(
                f"file {path} lacks the columns {lacking}, which other files of the source have:"
                " replace or remove it"
            )


def _folder_of(pattern: str) -> Path:
    """Return the folder that holds all files of a pattern: its part before the first wildcard."""
    plain = re.split(r"[*?\[{]", pattern.removeprefix("file:"), maxsplit=1)[0]
    path = Path(plain)
    whole = plain == pattern.removeprefix("file:")
    return path if plain.endswith("/") or (whole and path.is_dir()) else path.parent


def _local_files(spark: SparkSession, pattern: str) -> list[Path]:
    uris = spark.read.format("binaryFile").load(pattern).inputFiles()
    return [Path(unquote(urlsplit(uri).path)) for uri in uris if uri.startswith("file:")]


def _parquet_columns(path: Path) -> set[str]:
    """Return the columns of a Parquet file; none if it is damaged, which Spark will say."""
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowInvalid):
        return set()
    for field in schema:
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            raise InputError(
                f"file {path}: column {field.name!r} is {field.type}, which Spark cannot read:"
                " write it in microseconds (pyarrow: `coerce_timestamps='us'`) and set"
                " `timestamp.unit: iso` if it is the timestamp"
            )
    return set(schema.names)


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
        side = _read_table(spark, [path], table)
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
