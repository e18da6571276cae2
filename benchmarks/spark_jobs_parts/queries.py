# ruff: noqa: S608 (every name in these queries is written below or in `impressions.py`)
"""The same statistics and the same graph as DuckDB's SQL. Nothing here is shared with what it is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from features.schema import Relation

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
    """Yield what makes `day`, `values`, `histogram` and `fields`, all `.parquet`, of a day's impressions."""
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
    """`price` is taken to its logarithm, as the profile has it; mean and deviation are weighted by impressions."""
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
    """Yield what makes `nodes.parquet`, and of each relation the day's counts and the edges by node number, in order."""
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
