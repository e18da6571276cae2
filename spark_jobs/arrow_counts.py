"""Counts of large days, made by Arrow and NumPy in Spark's Python workers; Spark merges the parts.

A task reads whole row groups of the impressions with strings as dictionary codes, so that a count
is one pass over integers, and each distinct string is read once. Rows never pass through the JVM,
only counts do. Spark's own aggregation (`spark_jobs.counting`) hashes a string per row and field,
and needs about three times the CPU (1 M impressions, warm).

The functions that run in workers are pickled by reference: a worker imports this module. Workers of
a local session, and of the server of `elastic-ctr up`, run in the environment of the process that
started Spark. Any other server needs this package installed, and the folders under the same paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession

from features.canonical import NULL, SEPARATOR
from features.schema import (
    Cross,
    KeyField,
    MultiValued,
    Numeric,
    Relation,
    Schema,
    Time,
    TimePart,
    is_dense,
)
from features.timezones import utc_offsets
from spark_jobs.values import numbers_of

VALUES = "number int, value string, impressions long, clicks long, first_ms long, last_ms long"
EDGES = "number int, left string, right string, impressions long, clicks long"
ENDS = "relation string, side string, token string, impressions long, clicks long, degree long"

_SHOWN = ("impressions", "clicks")
_MERGES = {
    "impressions": "sum", "clicks": "sum", "degree": "sum", "first_ms": "min", "last_ms": "max",
}  # fmt: skip
_CHUNK_ROWS = 1_000_000
"""Rows that a task reads at once. More rows need more memory, fewer give more parts to merge."""
_MOST_HELD = 4_000_000
"""Counts that a task collects before it passes them on: about 400 MB."""
_BATCH = 2**16
_DENSE = 4
"""Pairs of codes are counted in an array of all pairs if it has at most this many cells per row."""

Integers = NDArray[np.int64]
Codes = NDArray[Any]
"""Dictionary codes [n] of any integer type."""
Chunk = tuple[tuple[str, int], ...]
"""Row groups that are read at once: path and number of each."""
Task = Callable[[], pa.Table]


@dataclass(frozen=True)
class PartialCounts:
    """Counts in parts; unless they are `complete`, a key may have several rows, which add up."""

    counts: DataFrame
    complete: bool


def is_countable(schema: Schema, field: KeyField) -> bool:
    """Return whether workers can make a field's tokens.

    They cannot parse times of other columns than the timestamp: that takes Spark
    (`spark_jobs.times`) or TensorFlow (`features.times`).
    """
    if isinstance(field, Cross):
        return all(is_countable(schema, schema.field(name)) for name in field.of)
    return not isinstance(field, Time) or schema.source_column(field) == schema.timestamp.column


def value_parts(
    spark: SparkSession, source: Path, schema: Schema, names: Sequence[str]
) -> PartialCounts:
    """Count `VALUES`: `number` is 0 for all impressions, else the position in `names` plus 1.

    Args:
        source: the folder of an `impressions` partition.
        names: countable fields.
    """
    count, chunks = partial(_values, schema, tuple(names)), _chunks(source)
    return _parts(spark, [partial(count, each, len(chunks) == 1) for each in chunks], VALUES)


def edge_parts(
    spark: SparkSession, source: Path, schema: Schema, relations: Sequence[Relation]
) -> PartialCounts:
    """Count `EDGES` between countable fields: `number` is the position in `relations`.

    The other arguments are those of `value_parts`. Nulls make no edge.
    """
    count, chunks = partial(_edges, schema, tuple(relations)), _chunks(source)
    return _parts(spark, [partial(count, each, len(chunks) == 1) for each in chunks], EDGES)


def end_parts(
    spark: SparkSession, counts: Mapping[str, Sequence[Path]], kept: Mapping[str, Path]
) -> PartialCounts:
    """Sum edges by `ENDS`, as `spark_jobs.cross_graph.ends_of` does.

    Args:
        counts: folders of all edges by relation, rare ones too; perhaps several of an edge.
        kept: the folder of the edges whose number is `degree`, by relation; it need not exist.
    """
    every = [(name, False, folder) for name, folders in counts.items() for folder in folders]
    folders = [*every, *((name, True, folder) for name, folder in kept.items())]
    tasks = [
        partial(_ends, name, is_kept, chunk)
        for name, is_kept, folder in folders
        for chunk in _chunks(folder)
    ]
    return _parts(spark, tasks, ENDS)


def _parts(spark: SparkSession, tasks: Sequence[Task], columns: str) -> PartialCounts:
    # `mapInArrow` over task numbers, and not over a DataFrame of the Parquet files: a row that
    # passed through the JVM would be decoded, copied to the worker and encoded again.
    # By default there are as many partitions as cores: the more tasks a worker runs one after
    # another, the fewer parts are left to merge.
    numbers = spark.range(0, len(tasks), numPartitions=None if len(tasks) > 1 else 1)
    return PartialCounts(numbers.mapInArrow(partial(_count, tasks), columns), len(tasks) <= 1)


def _chunks(source: Path) -> tuple[Chunk, ...]:
    """Group the row groups that have records, up to `_CHUNK_ROWS` each."""
    chunks: list[list[tuple[str, int]]] = []
    free = 0
    for path in sorted(source.glob("*.parquet")):
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            if not rows:
                continue
            if rows > free:
                chunks.append([])
                free = _CHUNK_ROWS
            chunks[-1].append((str(path), group))
            free -= rows
    return tuple(map(tuple, chunks))


def _count(tasks: Sequence[Task], numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Run the tasks of these numbers, in a worker, and merge their counts."""
    held: list[pa.Table] = []
    for number in (each for batch in numbers for each in batch["id"].to_pylist()):
        held.append(tasks[number]())
        if sum(map(len, held)) > _MOST_HELD:
            held = [_merged(held)]
            # There are nearly as many distinct values as rows. Spark's shuffle can spill them to
            # disk, this list cannot.
            if len(held[0]) > _MOST_HELD // 2:
                yield from held.pop().to_batches(max_chunksize=_BATCH)
            # Arrow's pool would otherwise keep the memory of the merged tables.
            pa.default_memory_pool().release_unused()
    if held:
        yield from _merged(held).to_batches(max_chunksize=_BATCH)


def _merged(parts: Sequence[pa.Table]) -> pa.Table:
    if len(parts) == 1:
        return parts[0]
    table = pa.concat_tables(parts)
    names = table.column_names
    keys = [name for name in names if name not in _MERGES]
    figures = [(name, _MERGES[name]) for name in names if name in _MERGES]
    # One thread: each further one would hold a hash table, and together they need a quarter more
    # CPU.
    return table.group_by(keys, use_threads=False).aggregate(figures).rename_columns(names)


@dataclass(frozen=True)
class _Tokens:
    """A field's tokens: `words` [k] without repeats, and `codes` [n], which index them.

    `rows` is None if each record has one code, in order; else it is each code's record [n], in
    ascending order, and no record has a code twice.
    """

    words: pa.Array
    codes: Codes
    rows: Integers | None = None


class _Records:
    """Records of a chunk, in the order of time."""

    def __init__(self, chunk: Chunk, ordered: bool) -> None:
        self._ordered = ordered
        self._groups = _opened(chunk)
        self._known: dict[str, _Tokens] = {}
        stamps = _column(self._groups, "timestamp_ms").to_numpy()
        # Ingest sorts by time; other writers may not. In this order the first and the last moment
        # of a value need no comparison.
        self._order = None if np.all(stamps[1:] >= stamps[:-1]) else np.argsort(stamps)
        self.stamps: Integers = stamps if self._order is None else stamps[self._order]
        label = _column(self._groups, "label").to_numpy()
        self.clicked: NDArray[np.bool_] = (label if self._order is None else label[self._order]) > 0

    def tokens(self, schema: Schema, name: str) -> _Tokens:
        """Return a field's tokens, equal to those of `spark_jobs.counting`."""
        if name not in self._known:
            tokens = self._read(schema, schema.field(name))
            if self._ordered:
                # With ascending words the counts come out sorted, and Spark's sort needs one
                # comparison per row.
                order = pc.sort_indices(tokens.words)
                rank = np.empty(len(order), np.int32)
                rank[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
                tokens = _Tokens(tokens.words.take(order), rank[tokens.codes], tokens.rows)
            self._known[name] = tokens
        return self._known[name]

    def _read(self, schema: Schema, field: KeyField) -> _Tokens:
        if isinstance(field, Cross):
            first, *others = (self.tokens(schema, name) for name in field.of)
            for other in others:
                first = _crossed(first, other)
            return first
        if isinstance(field, Time):
            part, parts = _time_part(self.stamps, field.part, schema.timezone)
            return _Tokens(pa.array(map(str, range(parts))), part)
        column = _column(self._groups, field.name)
        if self._order is not None:
            column = column.take(pa.array(self._order))
        if isinstance(field, MultiValued):
            return _list_tokens(column)
        words, codes = column.dictionary, column.indices.to_numpy()
        if isinstance(field, Numeric) and not is_dense(field):
            x = numbers_of(words)
            bucket = pa.array(np.searchsorted(field.boundaries, x, side="right"))
            words = pc.if_else(pa.array(np.isnan(x)), NULL, pc.cast(bucket, pa.string()))
            return _Tokens(*_without_repeats(words, codes))
        return _Tokens(words, codes)


def _opened(chunk: Chunk) -> list[tuple[pq.ParquetFile, int]]:
    """Return the chunk's row groups with their files, which give strings as dictionary codes."""
    files = {}
    for path in dict(chunk):
        columns = pq.read_metadata(path).schema
        leaves = (columns.column(number) for number in range(len(columns)))
        strings = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        files[path] = pq.ParquetFile(path, read_dictionary=strings)
    return [(files[path], group) for path, group in chunk]


def _column(groups: Sequence[tuple[pq.ParquetFile, int]], name: str) -> pa.Array:
    # One by one: Arrow 25.0 cannot read dictionaries inside lists of several row groups at once.
    tables = [file.read_row_group(group, columns=[name]) for file, group in groups]
    column = pa.chunked_array([part for table in tables for part in table[name].chunks])
    return column.unify_dictionaries().combine_chunks()


def _list_tokens(column: pa.Array) -> _Tokens:
    """Return the distinct tokens of lists; for an empty list the token of null."""
    sizes = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    elements = column.flatten()
    # 1. A code per element, and for an empty list the code of null, which follows the others.
    rows = np.repeat(np.arange(len(sizes)), np.maximum(sizes, 1))
    codes = np.full(len(rows), len(elements.dictionary))
    codes[sizes[rows] > 0] = elements.indices.to_numpy()
    words = pa.concat_arrays([elements.dictionary, pa.array([NULL])])
    words, distinct = _without_repeats(words, codes)
    # 2. Distinct pairs of record and code, by sort and comparison: ten times as fast as `unique` of
    # NumPy 2.4, which hashes.
    pairs = np.sort(rows * len(words) + distinct)
    rows, codes = np.divmod(pairs[np.diff(pairs, prepend=-1) > 0], len(words))
    return _Tokens(words, codes, rows)


def _crossed(left: _Tokens, right: _Tokens) -> _Tokens:
    """Return the tokens of a cross of two fields that each have one token per record."""
    pairs: Codes = left.codes.astype(np.int64) * len(right.words) + right.codes
    cells = len(left.words) * len(right.words)
    if cells <= _DENSE * len(pairs):
        found = np.flatnonzero(np.bincount(pairs, minlength=cells))
        place = np.empty(cells, np.int32)
        place[found] = np.arange(len(found), dtype=np.int32)
        pairs = place[pairs]
    else:
        found, pairs = np.unique(pairs, return_inverse=True)
    words = pc.binary_join_element_wise(*_words(left, right, found), SEPARATOR)
    # A value may hold the separator, so that two pairs can be the same token.
    return _Tokens(*_without_repeats(words, pairs))


def _without_repeats(words: pa.Array, codes: Codes) -> tuple[pa.Array, NDArray[np.int32]]:
    distinct = words.dictionary_encode()
    return distinct.dictionary, distinct.indices.to_numpy()[codes]


def _words(left: _Tokens, right: _Tokens, pairs: Integers) -> tuple[pa.Array, pa.Array]:
    first, second = np.divmod(pairs, len(right.words))
    return left.words.take(pa.array(first)), right.words.take(pa.array(second))


def _time_part(ms: Integers, part: TimePart, timezone: str) -> tuple[Integers, int]:
    """Return a part of the local time, as `spark_jobs.times` does, and its number of values."""
    starts, offsets = utc_offsets(timezone)
    utc_s = ms // 1000
    seconds = utc_s + np.array(offsets)[np.searchsorted(np.array(starts), utc_s, side="right") - 1]
    # 1970-01-01 was a Thursday, which is weekday 3.
    hour, weekday = seconds // 3600 % 24, (seconds // 86_400 + 3) % 7
    if part is TimePart.HOUR_OF_DAY:
        return hour, 24
    return (weekday, 7) if part is TimePart.DAY_OF_WEEK else (weekday * 24 + hour, 168)


def _values(schema: Schema, names: Sequence[str], chunk: Chunk, ordered: bool) -> pa.Table:
    """Count the `VALUES` of a chunk."""
    records = _Records(chunk, ordered)
    whole = _Tokens(pa.array([NULL]), np.zeros(len(records.stamps), np.int64))
    fields = (whole, *(records.tokens(schema, name) for name in names))
    return pa.concat_tables(
        _field_values(number, tokens, records) for number, tokens in enumerate(fields)
    )


def _field_values(number: int, tokens: _Tokens, records: _Records) -> pa.Table:
    codes, size = tokens.codes, len(tokens.words)
    stamps = records.stamps if tokens.rows is None else records.stamps[tokens.rows]
    clicked = records.clicked if tokens.rows is None else records.clicked[tokens.rows]
    shown = np.bincount(codes, minlength=size)
    clicks = np.bincount(codes[clicked], minlength=size)
    # Records are in the order of time, and of several values assigned to one place NumPy keeps the
    # last one.
    first, last = np.empty(size, np.int64), np.empty(size, np.int64)
    first[codes[::-1]] = stamps[::-1]
    last[codes] = stamps
    found = np.flatnonzero(shown)
    return pa.table({
        "number": pa.repeat(pa.scalar(number, pa.int32()), len(found)),
        "value": tokens.words.take(pa.array(found)),
        "impressions": shown[found],
        "clicks": clicks[found],
        "first_ms": first[found],
        "last_ms": last[found],
    })  # fmt: skip


def _edges(schema: Schema, relations: Sequence[Relation], chunk: Chunk, ordered: bool) -> pa.Table:
    """Count the `EDGES` of a chunk."""
    records = _Records(chunk, ordered)
    return pa.concat_tables(
        _relation_edges(
            number, records.tokens(schema, each.left), records.tokens(schema, each.right), records
        )
        for number, each in enumerate(relations)
    )


def _relation_edges(number: int, left: _Tokens, right: _Tokens, records: _Records) -> pa.Table:
    first, second, rows = _joined(left, right, len(records.stamps))
    clicked = records.clicked if rows is None else records.clicked[rows]
    pairs = first.astype(np.int64) * len(right.words) + second
    cells = len(left.words) * len(right.words)
    if cells <= _DENSE * len(pairs):
        shown = np.bincount(pairs, minlength=cells)
        found = np.flatnonzero(shown)
        shown, clicks = shown[found], np.bincount(pairs[clicked], minlength=cells)[found]
    else:
        # One sort of pair and label together gives impressions and clicks.
        labelled = np.sort(pairs * 2 + clicked)
        pairs = labelled >> 1
        starts = np.flatnonzero(np.diff(pairs, prepend=-1))
        found, shown = pairs[starts], np.diff(starts, append=len(pairs))
        clicks = np.add.reduceat(labelled & 1, starts)
    words = _words(left, right, found)
    table = pa.table({
        "number": pa.repeat(pa.scalar(number, pa.int32()), len(found)),
        "left": words[0],
        "right": words[1],
        "impressions": shown,
        "clicks": clicks,
    })  # fmt: skip
    return table.filter((pc.field("left") != NULL) & (pc.field("right") != NULL))


def _joined(left: _Tokens, right: _Tokens, count: int) -> tuple[Codes, Codes, Integers | None]:
    """Return left codes, right codes and records of all pairs within one of `count` records."""
    if right.rows is None:
        codes = right.codes if left.rows is None else right.codes[left.rows]
        return left.codes, codes, left.rows
    if left.rows is None:
        return left.codes[right.rows], right.codes, right.rows
    # Both have several codes per record. Each left code is repeated for the right codes of its
    # record, which begin at the sum of the sizes of the records before it.
    sizes = np.bincount(right.rows, minlength=count)
    times = sizes[left.rows]
    place = np.repeat(np.arange(len(times)), times)
    within = np.arange(len(place)) - np.repeat(np.cumsum(times) - times, times)
    rows = left.rows[place]
    return left.codes[place], right.codes[(np.cumsum(sizes) - sizes)[rows] + within], rows


def _ends(relation: str, kept: bool, chunk: Chunk) -> pa.Table:
    """Count the `ENDS` of edges: their sums, or for kept edges their number."""
    groups = _opened(chunk)
    edges = sum(file.metadata.row_group(group).num_rows for file, group in groups)
    shown = [np.zeros(edges) if kept else _column(groups, name).to_numpy() for name in _SHOWN]
    weights = dict(zip(_SHOWN, shown, strict=True)) | {"degree": np.full(edges, float(kept))}
    sides = []
    for side in ("left", "right"):
        column = _column(groups, side)
        codes, size = column.indices.to_numpy(), len(column.dictionary)
        columns = {"relation": pa.repeat(relation, size), "side": pa.repeat(side, size)}
        columns["token"] = column.dictionary
        for name, weight in weights.items():
            # `bincount` sums in float64, which is exact: the sums stay below 2^53.
            sums = np.bincount(codes, weights=weight, minlength=size)
            columns[name] = pa.array(sums.astype(np.int64))
        sides.append(pa.table(columns))
    return pa.concat_tables(sides)
