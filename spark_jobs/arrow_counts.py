"""Counts of large days, made by Arrow and NumPy in Spark's Python workers; Spark merges the parts.

A task reads whole row groups of the impressions, with strings as dictionary codes, so that a
count is one pass over integers and strings are touched once per distinct value. Rows never pass
through the JVM: only the counts do. Spark's own aggregation (`spark_jobs.counting`) hashes a
string per row and field, and takes about three times the CPU (1 M impressions, warm).

The functions that run in workers are pickled by reference: a worker imports this module. It runs
in the environment of the process that started Spark, which for a local session is the job's own
and for the server of `elastic-ctr up` the one that `elastic-ctr` is installed in. A foreign
server needs this package, the same as it needs the folders that the paths point to.
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
from spark_jobs.moments import numbers_of

VALUES = "number int, value string, impressions long, clicks long, first_ms long, last_ms long"
EDGES = "number int, left string, right string, impressions long, clicks long"

ENDS = "relation string, side string, token string, impressions long, clicks long, degree long"

_SHOWN = ("impressions", "clicks")
_MERGES = {
    "impressions": "sum",
    "clicks": "sum",
    "first_ms": "min",
    "last_ms": "max",
    "degree": "sum",
}
_CHUNK_ROWS = 1_000_000
"""Rows that a task reads at once. More of them need more memory, fewer give more parts to merge."""
_MOST_HELD = 4_000_000
"""Counts that a task merges before it hands them on: about 400 MB of them."""
_BATCH = 2**16
_DENSE = 4
"""Pairs of codes are counted in an array of all pairs where it has at most so many cells a row."""

Integers = NDArray[np.int64]
Chunk = tuple[tuple[str, int], ...]
"""Row groups that are read at once: path and number of each."""
Task = Callable[[], pa.Table]


@dataclass(frozen=True)
class Parts:
    """Counts, and whether they are complete: else a key may have several rows, which add up."""

    counts: DataFrame
    complete: bool


def is_countable(schema: Schema, field: KeyField) -> bool:
    """Return whether workers can make a field's tokens: all but times of columns of their own.

    Only Spark and TensorFlow can read those (`spark_jobs.times`, `features.times`).
    """
    if isinstance(field, Cross):
        return all(is_countable(schema, schema.field(name)) for name in field.of)
    return not isinstance(field, Time) or schema.source_column(field) == schema.timestamp.column


def value_parts(spark: SparkSession, source: Path, schema: Schema, names: Sequence[str]) -> Parts:
    """Count `VALUES` of fields, `number` being the place in `names` plus 1, and of the whole as 0.

    Args:
        spark: the session.
        source: the folder of an `impressions` partition.
        schema: names the fields.
        names: countable fields.
    """
    chunks = _chunks(source)
    return _parts(
        spark,
        [partial(_values, schema, tuple(names), each, len(chunks) == 1) for each in chunks],
        VALUES,
    )


def edge_parts(
    spark: SparkSession, source: Path, schema: Schema, relations: Sequence[Relation]
) -> Parts:
    """Count `EDGES` of relations between countable fields, `number` being the place in `relations`.

    The other arguments are those of `value_parts`. Nulls make no edge.
    """
    chunks = _chunks(source)
    return _parts(
        spark,
        [partial(_edges, schema, tuple(relations), each, len(chunks) == 1) for each in chunks],
        EDGES,
    )


def end_parts(
    spark: SparkSession, counts: Mapping[str, Sequence[Path]], kept: Mapping[str, Path]
) -> Parts:
    """Sum the edges of `ENDS`, as `spark_jobs.edges.ends_of` does.

    Args:
        spark: the session.
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


def _parts(spark: SparkSession, tasks: Sequence[Task], columns: str) -> Parts:
    # By default there are as many partitions as cores: the longer the run of tasks that a worker
    # does, the fewer parts are left to merge.
    numbers = spark.range(0, len(tasks), numPartitions=None if len(tasks) > 1 else 1)
    return Parts(numbers.mapInArrow(partial(_count, tasks), columns), len(tasks) <= 1)


def _chunks(source: Path) -> tuple[Chunk, ...]:
    """Row groups with a record, put together up to `_CHUNK_ROWS`."""
    chunks: list[list[tuple[str, int]]] = []
    room = 0
    for path in sorted(source.glob("*.parquet")):
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            if not rows:
                continue
            if rows > room:
                chunks.append([])
                room = _CHUNK_ROWS
            chunks[-1].append((str(path), group))
            room -= rows
    return tuple(map(tuple, chunks))


def _count(tasks: Sequence[Task], numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Do the tasks of these numbers, in a worker, and merge what they count."""
    held: list[pa.Table] = []
    for number in (each for batch in numbers for each in batch["id"].to_pylist()):
        held.append(tasks[number]())
        if sum(map(len, held)) > _MOST_HELD:
            held = [_merged(held)]
            # Nearly as many distinct values as rows: Spark's shuffle can spill, this cannot.
            if len(held[0]) > _MOST_HELD // 2:
                yield from held.pop().to_batches(max_chunksize=_BATCH)
            pa.default_memory_pool().release_unused()
    if held:
        yield from _merged(held).to_batches(max_chunksize=_BATCH)


def _merged(parts: Sequence[pa.Table]) -> pa.Table:
    if len(parts) == 1:
        return parts[0]
    table = pa.concat_tables(parts)
    keys = [name for name in table.column_names if name not in _MERGES]
    figures = [(name, _MERGES[name]) for name in table.column_names if name in _MERGES]
    # The worker's own thread alone: more of them hold a hash table each, and take a quarter more CPU.
    return (
        table.group_by(keys, use_threads=False)
        .aggregate(figures)
        .rename_columns(table.column_names)
    )


@dataclass(frozen=True)
class _Tokens:
    """A field's tokens: `words` [k] without repeats, and `codes`, which index them.

    `rows` is None where each record has one code, in order; else it names each code's record, in
    ascending order, and no record has a code twice.
    """

    words: pa.Array
    codes: NDArray[Any]
    rows: Integers | None = None


class _Records:
    """Some impressions, in the order of time."""

    def __init__(self, chunk: Chunk, ordered: bool) -> None:
        self._ordered = ordered
        self._groups = _opened(chunk)
        self._known: dict[str, _Tokens] = {}
        stamps = _column(self._groups, "timestamp_ms").to_numpy()
        # Ingest sorts by time. With that the first and the last moment of a value need no comparison.
        self._order = None if np.all(stamps[1:] >= stamps[:-1]) else np.argsort(stamps)
        self.stamps: Integers = stamps if self._order is None else stamps[self._order]
        label = _column(self._groups, "label").to_numpy()
        self.clicked: NDArray[np.bool_] = (label if self._order is None else label[self._order]) > 0

    def tokens(self, schema: Schema, name: str) -> _Tokens:
        """Return a field's tokens, equal to those of `spark_jobs.tokens`."""
        if name not in self._known:
            made = self._made(schema, schema.field(name))
            self._known[name] = _sorted(made) if self._ordered else made
        return self._known[name]

    def _made(self, schema: Schema, field: KeyField) -> _Tokens:
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
            return _of_lists(column)
        words, codes = column.dictionary, column.indices.to_numpy()
        if isinstance(field, Numeric) and not is_dense(field):
            return _Tokens(*_without_repeats(_buckets(field, words), codes))
        return _Tokens(words, codes)


def _sorted(tokens: _Tokens) -> _Tokens:
    """The same with ascending words.

    What is counted by them comes out sorted, and Spark's sort has one comparison a row left.
    """
    order = pc.sort_indices(tokens.words)
    rank = np.empty(len(order), np.int32)
    rank[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    return _Tokens(tokens.words.take(order), rank[tokens.codes], tokens.rows)


def _opened(chunk: Chunk) -> list[tuple[pq.ParquetFile, int]]:
    """The chunk's row groups with their files, which give strings as dictionary codes."""
    files = {}
    for path in dict(chunk):
        columns = pq.read_metadata(path).schema
        leaves = (columns.column(number) for number in range(len(columns)))
        strings = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        files[path] = pq.ParquetFile(path, read_dictionary=strings)
    return [(files[path], group) for path, group in chunk]


def _column(groups: Sequence[tuple[pq.ParquetFile, int]], name: str) -> pa.Array:
    # One by one: Arrow (25.0) cannot read dictionaries inside lists of several row groups at once.
    tables = [file.read_row_group(group, columns=[name]) for file, group in groups]
    column = pa.chunked_array([part for table in tables for part in table[name].chunks])
    return column.unify_dictionaries().combine_chunks()


def _of_lists(column: pa.Array) -> _Tokens:
    """The distinct tokens of lists; of an empty one the token of null."""
    sizes = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    elements = column.flatten()
    rows = np.repeat(np.arange(len(sizes)), np.maximum(sizes, 1))
    codes = np.full(len(rows), len(elements.dictionary))
    codes[sizes[rows] > 0] = elements.indices.to_numpy()
    words, codes = _without_repeats(
        pa.concat_arrays([elements.dictionary, pa.array([NULL])]), codes
    )
    # Sorted and compared, which is ten times as fast as NumPy's `unique`: that hashes (2.4).
    pairs = np.sort(rows * len(words) + codes)
    rows, codes = np.divmod(pairs[np.diff(pairs, prepend=-1) > 0], len(words))
    return _Tokens(words, codes, rows)


def _buckets(field: Numeric, words: pa.Array) -> pa.Array:
    x = numbers_of(words)
    bucket = pc.cast(pa.array(np.searchsorted(field.boundaries, x, side="right")), pa.string())
    return pc.if_else(pa.array(np.isnan(x)), NULL, bucket)


def _crossed(left: _Tokens, right: _Tokens) -> _Tokens:
    pairs = left.codes.astype(np.int64) * len(right.words) + right.codes
    cells = len(left.words) * len(right.words)
    if cells <= _DENSE * len(pairs):
        found = np.flatnonzero(np.bincount(pairs, minlength=cells))
        place = np.empty(cells, np.int32)
        place[found] = np.arange(len(found), dtype=np.int32)
        pairs = place[pairs]
    else:
        found, pairs = np.unique(pairs, return_inverse=True)
    # A value may hold the separator, so that two pairs are one token.
    return _Tokens(
        *_without_repeats(
            pc.binary_join_element_wise(*_words(left, right, found), SEPARATOR), pairs
        )
    )


def _without_repeats(words: pa.Array, codes: NDArray[Any]) -> tuple[pa.Array, NDArray[np.int32]]:
    distinct = words.dictionary_encode()
    return distinct.dictionary, distinct.indices.to_numpy()[codes]


def _words(left: _Tokens, right: _Tokens, pairs: Integers) -> tuple[pa.Array, pa.Array]:
    first, second = np.divmod(pairs, len(right.words))
    return left.words.take(pa.array(first)), right.words.take(pa.array(second))


def _time_part(ms: Integers, part: TimePart, timezone: str) -> tuple[Integers, int]:
    """A part of the local time, as `spark_jobs.times.time_part`, and how many there are."""
    starts, offsets = utc_offsets(timezone)
    utc_s = ms // 1000
    seconds = utc_s + np.array(offsets)[np.searchsorted(np.array(starts), utc_s, side="right") - 1]
    hour, weekday = seconds // 3600 % 24, (seconds // 86_400 + 3) % 7
    if part is TimePart.HOUR_OF_DAY:
        return hour, 24
    return (weekday, 7) if part is TimePart.DAY_OF_WEEK else (weekday * 24 + hour, 168)


def _values(schema: Schema, names: Sequence[str], chunk: Chunk, ordered: bool) -> pa.Table:
    """`VALUES` of some records."""
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
    # Of several values for one place NumPy keeps the last one.
    first, last = np.empty(size, np.int64), np.empty(size, np.int64)
    first[codes[::-1]] = stamps[::-1]
    last[codes] = stamps
    found = np.flatnonzero(shown)
    figures = (pa.array(figure[found]) for figure in (shown, clicks, first, last))
    columns = [
        pa.repeat(pa.scalar(number, pa.int32()), len(found)),
        tokens.words.take(pa.array(found)),
        *figures,
    ]
    return pa.table(columns, ["number", "value", *_SHOWN, "first_ms", "last_ms"])


def _edges(schema: Schema, relations: Sequence[Relation], chunk: Chunk, ordered: bool) -> pa.Table:
    """`EDGES` of some records."""
    records = _Records(chunk, ordered)
    return pa.concat_tables(
        _relation_edges(
            number, records.tokens(schema, each.left), records.tokens(schema, each.right), records
        )
        for number, each in enumerate(relations)
    )


def _relation_edges(number: int, left: _Tokens, right: _Tokens, records: _Records) -> pa.Table:
    first, second, rows = _met(left, right, len(records.stamps))
    clicked = records.clicked if rows is None else records.clicked[rows]
    pairs = first.astype(np.int64) * len(right.words) + second
    cells = len(left.words) * len(right.words)
    if cells <= _DENSE * len(pairs):
        shown = np.bincount(pairs, minlength=cells)
        found = np.flatnonzero(shown)
        shown, clicks = shown[found], np.bincount(pairs[clicked], minlength=cells)[found]
    else:
        # One sort of pair and label together gives both figures.
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
        "impressions": pa.array(shown),
        "clicks": pa.array(clicks),
    })  # fmt: skip
    return table.filter((pc.field("left") != NULL) & (pc.field("right") != NULL))


def _met(
    left: _Tokens, right: _Tokens, count: int
) -> tuple[NDArray[Any], NDArray[Any], Integers | None]:
    """Every pair of a left and a right code of one of `count` records: both codes, and the record."""
    if right.rows is None:
        codes = right.codes if left.rows is None else right.codes[left.rows]
        return left.codes, codes, left.rows
    if left.rows is None:
        return left.codes[right.rows], right.codes, right.rows
    sizes = np.bincount(right.rows, minlength=count)
    times = sizes[left.rows]
    place = np.repeat(np.arange(len(times)), times)
    within = np.arange(len(place)) - np.repeat(np.cumsum(times) - times, times)
    rows = left.rows[place]
    return left.codes[place], right.codes[(np.cumsum(sizes) - sizes)[rows] + within], rows


def _ends(relation: str, kept: bool, chunk: Chunk) -> pa.Table:
    """`ENDS` of some edges: their sums, or of those that are kept their number."""
    groups = _opened(chunk)
    edges = sum(file.metadata.row_group(group).num_rows for file, group in groups)
    shown = [np.zeros(edges) if kept else _column(groups, name).to_numpy() for name in _SHOWN]
    weights = (*shown, np.full(edges, float(kept)))
    sides = []
    for side in ("left", "right"):
        column = _column(groups, side)
        codes, size = column.indices.to_numpy(), len(column.dictionary)
        # Exact: the sums stay below 2^53.
        sums = (
            pa.array(np.bincount(codes, weights=each, minlength=size).astype(np.int64))
            for each in weights
        )
        names = (pa.repeat(text, size) for text in (relation, side))
        sides.append(
            pa.table(
                [*names, column.dictionary, *sums], ["relation", "side", "token", *_SHOWN, "degree"]
            )
        )
    return pa.concat_tables(sides)
