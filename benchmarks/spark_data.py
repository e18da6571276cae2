# ruff: noqa: S608 (every name in the queries is written in this file)
"""Simulated impressions for `spark_jobs.py`, the same statistics and graph as DuckDB's SQL, and
their comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.schema import (
    Categorical,
    Cross,
    MultiValued,
    Numeric,
    Relation,
    Schema,
    Time,
    Timestamp,
)

SCHEMA = Schema(
    label="click",
    user="user_id",
    item="item_id",
    timestamp=Timestamp(column="timestamp_ms"),
    fields=(
        *(
            Categorical(name=name)
            for name in (
                "user_id",
                "item_id",
                "category_id",
                "advertiser_id",
                "country",
                "slot",
                "device",
            )
        ),
        MultiValued(name="user_tags"),
        Time(name="hour"),
        Numeric(name="price", transform="log"),
        Cross(name="slot_category", of=("slot", "category_id")),
    ),
)
RELATIONS = "item_id__country,user_tags__category_id,slot_category__advertiser_id"
"""What users declare: groups of users or places against items and their groups.
`user_id__category_id` is harder: nearly as many edges as impressions."""

HUB = "hub"
"""A value of `device` that every row of `hub_day` has."""

_VALUES = {
    "user_id": 2_000_000,
    "item_id": 100_000,
    "category_id": 60,
    "advertiser_id": 2_000,
    "country": 50,
    "slot": 6,
    "device": 5,
}
_TAGS, _MOST_TAGS, _PRICES = 200, 3, 900
_ROWS_PER_FILE = 1_000_000
_DAY_MS = 86_400_000
_SKEW = 2.5


def write_day(folder: Path, day: date, rows: int, *, hub: bool = False) -> Path:
    """Write `impressions/part-*.parquet` of `rows` simulated impressions into a new folder, and
    return the folder.

    A value's frequency falls with its rank to the power 1 / 2.5 - 1. With `hub` every row has the
    same `device`.
    """
    target = folder / "impressions"
    target.mkdir(parents=True)
    words = {
        name: pa.array([f"{name[0]}{i}" for i in range(size)]) for name, size in _VALUES.items()
    }
    for number, start in enumerate(range(0, rows, _ROWS_PER_FILE)):
        part = _Part(day, start, min(_ROWS_PER_FILE, rows - start), rows)
        columns = dict(part.columns(words))
        if hub:
            columns["device"] = pa.repeat(HUB, part.count).cast(pa.string())
        pq.write_table(pa.table(columns), target / f"part-{number:05d}.parquet")
    return folder


def relations(names: str) -> tuple[Relation, ...]:
    """Return the relations of comma-separated `left__right`."""
    return tuple(
        Relation(left=left, right=right)
        for left, right in (name.split("__") for name in names.split(","))
    )


class _Part:
    """One file: rows `start` to `start + count` of a day of `rows`."""

    def __init__(self, day: date, start: int, count: int, rows: int) -> None:
        self._dice = np.random.default_rng([day.toordinal(), start])
        midnight = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
        self._stamps = midnight + (np.arange(start, start + count) * (_DAY_MS / rows)).astype(
            np.int64
        )
        self.count = count

    def columns(self, words: dict[str, pa.Array]) -> Iterator[tuple[str, pa.Array]]:
        """Yield the columns of an `impressions` artifact by name."""
        codes = {name: self._skewed(size) for name, size in _VALUES.items()}
        codes["category_id"] = (codes["item_id"] * 7 % _VALUES["category_id"]).astype(np.int32)
        codes["advertiser_id"] = (codes["item_id"] * 13 % _VALUES["advertiser_id"]).astype(np.int32)
        ids = {
            name: pa.DictionaryArray.from_arrays(pa.array(codes[name]), words[name]).cast(
                pa.string()
            )
            for name in _VALUES
        }
        chance = (
            0.02
            + 0.1 * ((codes["user_id"] + codes["category_id"]) % 11 == 0)
            + 0.05 * (codes["item_id"] % 5 == 0)
        )
        yield "record_id", pa.array(self._dice.integers(-(2**63), 2**63 - 1, self.count))
        yield "label", pa.array((self._dice.random(self.count) < chance).astype(np.int8))
        yield "timestamp_ms", pa.array(self._stamps)
        yield "user", ids["user_id"]
        yield "item", ids["item_id"]
        yield from ids.items()
        yield "user_tags", self._tags(codes["user_id"])
        yield "hour", pa.array(self._stamps).cast(pa.string())
        yield "price", self._prices(codes["item_id"])

    def _skewed(self, size: int) -> NDArray[np.int32]:
        return (size * self._dice.random(self.count) ** _SKEW).astype(np.int32)

    def _tags(self, users: NDArray[np.int32]) -> pa.Array:
        """Up to three tags that a user always has; a fifth of the users have none."""
        sizes = np.where(users % 5 == 0, 0, 1 + users % _MOST_TAGS)
        ends = np.cumsum(sizes)
        within = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)
        tags = (np.repeat(users.astype(np.int64), sizes) * 31 + within * 17) % _TAGS
        words = pa.DictionaryArray.from_arrays(
            pa.array(tags.astype(np.int32)), pa.array([f"t{i}" for i in range(_TAGS)])
        )
        return pa.ListArray.from_arrays(
            pa.array(np.append(0, ends).astype(np.int32)), words.cast(pa.string())
        )

    def _prices(self, items: NDArray[np.int32]) -> pa.Array:
        """A price of the item's; one in thirty is null."""
        words = pa.array(["", *(f"{0.5 + i / 4:g}" for i in range(_PRICES))])
        codes = np.where(self._dice.random(self.count) < 1 / 30, 0, 1 + items % _PRICES).astype(
            np.int32
        )
        return pa.DictionaryArray.from_arrays(pa.array(codes), words).cast(pa.string())


_FIELDS = {
    **{
        name: name
        for name in (
            "user_id",
            "item_id",
            "category_id",
            "advertiser_id",
            "country",
            "slot",
            "device",
            "price",
        )
    },
    "hour": "cast(timestamp_ms // 3600000 % 24 as varchar)",
    "slot_category": "slot || chr(31) || category_id",
    "user_tags": "unnest(case when len(user_tags) = 0 then [''] else list_distinct(user_tags) end)",
}
_DENSE = ("price",)
_COUNTS = "count(*) as impressions, sum(label)::bigint as clicks"


def statistics(impressions: Path, out: Path, smoothing: float) -> Iterator[str]:
    """Yield what makes `day`, `values`, `histogram` and `fields`, all `.parquet`, of a day's
    impressions.
    """
    yield f"create view records as select * from read_parquet('{impressions}/impressions/*.parquet')"
    yield f"create table counts as {' union all '.join(_count(name, tokens) for name, tokens in _FIELDS.items())}"
    yield f"copy (select * from counts order by field, value) to '{out}/day.parquet'"
    yield f"create table whole as select {_COUNTS} from records"
    prior = "(select clicks / impressions from whole)"
    ctr = f"(clicks + {smoothing} * {prior}) / (impressions + {smoothing}) as ctr"
    values = f"select field, value, impressions, clicks, {ctr}, first_ms, last_ms from counts order by field, value"
    yield f"copy ({values}) to '{out}/values.parquet'"
    bits = "select field, 1::bigint << floor(log2(impressions))::int as at_least, count(*) as values, sum(impressions)::bigint"
    yield f"copy ({bits} as impressions from counts where value <> '' group by all order by all) to '{out}/histogram.parquet'"
    yield f"copy ({_fields()}) to '{out}/fields.parquet'"


def _count(name: str, tokens: str) -> str:
    rows = f"select label, timestamp_ms, {tokens} as value from records"
    figures = f"{_COUNTS}, min(timestamp_ms) as first_ms, max(timestamp_ms) as last_ms"
    return f"select '{name}' as field, value, {figures} from ({rows}) group by value"


def _fields() -> str:
    """`price` is taken to its logarithm, as the profile has it; mean and deviation are weighted by
    impressions.
    """
    dense = ", ".join(f"'{name}'" for name in _DENSE)
    number = f"case when field in ({dense}) and value <> '' then sign(value::double) * ln(1 + abs(value::double)) end"
    n = "case when value <> '' then impressions end"
    return f"""
        with numbers as (select *, {number} as x, {n} as n from counts),
        means as (select field, sum(x * n) / sum(case when x is not null then n end) as mean from numbers group by field)
        select field, count(n) as cardinality, coalesce(sum(n), 0)::bigint as impressions_of_values,
          avg((n = 1)::int) as seen_once_share, sum(case when n < 10 then n else 0 end) / sum(n) as tail_share,
          ln(sum(n)) - sum(n * ln(n)) / sum(n) as entropy, any_value(mean) as mean,
          sqrt(sum(n * (x - mean) ** 2) / sum(case when x is not null then n end)) as std
        from numbers join means using (field) group by field order by field"""


def graph(
    relations: tuple[Relation, ...], out: Path, smoothing: float, least: int
) -> Iterator[str]:
    """Yield what makes `nodes.parquet`, and of each relation the day's counts and the edges by node
    number, in order.
    """
    for relation in relations:
        left, right = (_FIELDS[name] for name in (relation.left, relation.right))
        rows = f"select label, {left} as l, {right} as r from records"
        yield f"create table all_{relation.name} as select l, r, {_COUNTS} from ({rows}) where l <> '' and r <> '' group by l, r"
        yield f"copy (select * from all_{relation.name} order by l, r) to '{out}/counts_{relation.name}.parquet'"
    yield f"create table nodes as {_nodes(relations, least)}"
    yield f"copy (select * from nodes order by field, node) to '{out}/nodes.parquet'"
    for relation in relations:
        yield f"copy ({_edges(relation, smoothing, least)}) to '{out}/{relation.name}.parquet'"


def _nodes(relations: tuple[Relation, ...], least: int) -> str:
    ends = [
        (relation, side, field)
        for relation in relations
        for side, field in (("l", relation.left), ("r", relation.right))
    ]
    edges = " union all ".join(
        f"select '{field}' as field, {side} as token from all_{relation.name} where impressions >= {least}"
        for relation, side, field in ends
    )
    shown = " union all ".join(
        f"select '{field}' as field, {side} as token, impressions as n, clicks as c from all_{relation.name}"
        for relation, side, field in ends
    )
    sums = f"select field, token, sum(n)::bigint as impressions, sum(c)::bigint as clicks from ({shown}) group by field, token"
    number = "(row_number() over (partition by field order by token) - 1)::int as node"
    degrees = f"select field, token, count(*) as degree from ({edges}) group by field, token"
    return f"select field, {number}, token, impressions, clicks, degree from ({degrees}) join ({sums}) using (field, token)"


def _edges(relation: Relation, smoothing: float, least: int) -> str:
    table = f"all_{relation.name}"
    ctr = f"(e.clicks + {smoothing} * (select clicks / impressions from whole)) / (e.impressions + {smoothing})"
    return f"""
        with ls as (select l, sum(impressions) as n_l from {table} group by l),
        rs as (select r, sum(impressions) as n_r from {table} group by r),
        named as (
          select a.node as "left", b.node as "right", e.impressions, e.clicks, n_l, n_r, {ctr} as ctr
          from {table} e join ls using (l) join rs using (r)
          join nodes a on a.field = '{relation.left}' and a.token = l
          join nodes b on b.field = '{relation.right}' and b.token = r where e.impressions >= {least})
        select "left", "right", impressions, clicks, ctr, ln(ctr / (1 - ctr)) as logit,
          ln(impressions * (select sum(impressions) from {table}) / (n_l * n_r)) as pmi, ln(1 + impressions) as log_count
        from named order by "left", "right\""""


_TOLERANCE = 1e-9


class Unequal(Exception):
    """Two results differ; the message says where first."""


def require_equal(statistics: Path, graph: Path, duck: Path, relations: Iterable[Relation]) -> int:
    """Compare every table that both made, in order, and return how many records were compared.

    Raises:
        Unequal: naming the table and the column.
    """
    rows = 0
    for name, ours, theirs in _tables(statistics, graph, duck, relations):
        if ours.num_rows != theirs.num_rows:
            raise Unequal(
                f"{name}: {ours.num_rows:,} records of ours, {theirs.num_rows:,} of DuckDB's"
            )
        for column in theirs.column_names:
            _require_equal(f"{name}.{column}", ours[column], theirs[column])
        rows += ours.num_rows
    return rows


def _tables(
    statistics: Path, graph: Path, duck: Path, relations: Iterable[Relation]
) -> Iterator[tuple[str, pa.Table, pa.Table]]:
    for name in ("values", "histogram", "fields"):
        theirs = pq.read_table(duck / f"{name}.parquet")
        ours = pq.read_table(statistics / f"{name}.parquet")
        yield (
            name,
            ours,
            theirs.drop_columns(["impressions_of_values"]) if name == "fields" else theirs,
        )
    yield "nodes", pq.read_table(graph / "nodes.parquet"), pq.read_table(duck / "nodes.parquet")
    for relation in relations:
        parts = sorted((graph / "edges" / f"relation={relation.name}").glob("part-*.parquet"))
        ours = pa.concat_tables([pq.ParquetFile(path).read() for path in parts])
        yield relation.name, ours, pq.read_table(duck / f"{relation.name}.parquet")


def _require_equal(name: str, ours: pa.ChunkedArray, theirs: pa.ChunkedArray) -> None:
    if not pa.types.is_floating(theirs.type):
        if not ours.combine_chunks().equals(theirs.cast(ours.type).combine_chunks()):
            raise Unequal(f"{name}: not equal")
        return
    left, right = (
        column.to_numpy(zero_copy_only=False).astype(np.float64) for column in (ours, theirs)
    )
    if not np.allclose(left, right, rtol=0, atol=_TOLERANCE, equal_nan=True):
        raise Unequal(f"{name}: differs by up to {np.nanmax(np.abs(left - right)):.3g}")
