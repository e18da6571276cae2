"""Impressions without a click, drawn by a seeded rule for logs that hold clicks only.

The window of a click is made of the twelve slots before the click's own slot, a slot being a
twelfth of `window_minutes`: nothing at or after the click is used. The distinct items clicked by
anyone in these slots form a circle, in the order of a hash of (seed, slot, item). A hash of (seed,
click) is the start on the circle; the first `per_click` items from there that are not of the
click's own session are the negatives. Equal logs and seeds give equal draws, whatever the
partitioning. If the window has fewer items, fewer are drawn.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from features.errors import InputError
from features.partition import Partition, day_of
from features.schema import Schema
from spark_jobs.records import digest
from spark_jobs.settings import Negatives
from spark_jobs.sources import CORRUPT, require_columns
from spark_jobs.times import bounds_ms, floor_div, in_partition
from spark_jobs.values import quoted

SLOTS = 12
"""Slots in a window."""

MOMENT = "__ms"
"""When a click happened: milliseconds UTC, null if unknown."""

_SLOT, _POOL, _OWN, _SESSION, _ITEM = "__slot", "__pool", "__own", "__session", "__item"


def recent(
    log: DataFrame, moment: Column, rule: Negatives, schema: Schema, partition: Partition
) -> DataFrame:
    """Return the clicks that draws depend on, and undated ones, with their moment as `MOMENT`.

    An hour's draws depend on the clicks of its whole day, as a day's do: a session's own items are
    those of the day.
    """
    bounds = bounds_ms(day_of(partition), schema.timezone)
    ms = F.col(MOMENT)
    # One slot more than a window: the click's own slot may begin before the day.
    first_ms = bounds[0][0] - (SLOTS + 1) * _slot_ms(rule)
    dated = (ms >= first_ms) & (ms < bounds[-1][1])
    return log.withColumn(MOMENT, moment).where(ms.isNull() | dated)


def with_negatives(
    clicks: DataFrame, history: DataFrame, rule: Negatives, schema: Schema, partition: Partition
) -> DataFrame:
    """Return the clicks with label 1 and, after each valid one, its negatives with label 0.

    A negative has all columns of its click but the item.

    Args:
        clicks: raw records with `MOMENT`, as `recent` returns them.
        history: the records that items are drawn from, with `MOMENT`: those of the whole day and of
            the window before it.
        rule: how many are drawn, from what window, with which seed.
        schema: names the item column and the label column, which must not exist yet.
        partition: only clicks of this day or hour get negatives.

    Returns:
        the columns of `clicks` without `MOMENT`, then the label as `"1"` or `"0"`.

    Raises:
        InputError: there is no session or item column, or a label column exists.
    """
    columns = [name for name in clicks.columns if name != MOMENT]
    needed = {rule.session: "`negatives.session`", schema.item: "the item"}
    require_columns(columns, needed, "the log")
    if schema.label in columns:
        raise InputError(
            f"the log has a column {schema.label!r}: `negatives` are for logs of clicks only;"
            " remove them or rename the label"
        )
    # 1. Each click with its window's circle of items and its session's own items.
    slot = floor_div(F.col(MOMENT), _slot_ms(rule))
    joined = clicks.withColumn(_SLOT, slot).withColumn(_SESSION, quoted(rule.session))
    joined = joined.join(_pools(history, rule, schema), _SLOT, "left")
    own = F.collect_set(quoted(schema.item)).alias(_OWN)
    sessions = history.groupBy(quoted(rule.session).alias(_SESSION)).agg(own)
    joined = joined.join(sessions, _SESSION, "left")
    # 2. The drawn items, only for valid clicks of the partition.
    valid = F.col(CORRUPT).isNull() & in_partition(F.col(MOMENT), partition, schema.timezone)
    drawn = F.when(valid, _drawn(clicks, rule, schema)).otherwise(F.array())
    # 3. A row for the click and one for each drawn item.
    click = F.struct(quoted(schema.item).alias("item"), F.lit("1").alias("label"))
    others = F.transform(
        drawn, lambda item: F.struct(item.alias("item"), F.lit("0").alias("label"))
    )
    exploded = joined.withColumn(_ITEM, F.explode(F.concat(F.array(click), others)))
    kept = (
        F.col(f"{_ITEM}.item").alias(name) if name == schema.item else quoted(name)
        for name in columns
    )
    return exploded.select(*kept, F.col(f"{_ITEM}.label").alias(schema.label))


def _slot_ms(rule: Negatives) -> int:
    return rule.window_minutes * 60_000 // SLOTS


def _pools(history: DataFrame, rule: Negatives, schema: Schema) -> DataFrame:
    """Return per slot the distinct items of the slots before it, in the order of their hash."""
    name, slot, item = quoted(schema.item), F.col(_SLOT), F.col(_ITEM)
    clicked = history.where(name.isNotNull() & F.col(MOMENT).isNotNull() & F.col(CORRUPT).isNull())
    own_slot = floor_div(F.col(MOMENT), _slot_ms(rule)).alias("s")
    # Distinct before the rows are multiplied by the slots, and again afterwards.
    seen = clicked.select(own_slot, name.alias(_ITEM)).distinct()
    later = F.explode(F.sequence(F.col("s") + 1, F.col("s") + SLOTS)).alias(_SLOT)
    spread = seen.select(later, _ITEM).distinct()
    ranked = F.struct(F.xxhash64(F.lit(rule.seed), slot, item).alias("h"), item.alias("i"))
    circle = F.transform(F.array_sort(F.collect_list(ranked)), lambda each: each["i"])
    return spread.groupBy(_SLOT).agg(circle.alias(_POOL))


def _drawn(clicks: DataFrame, rule: Negatives, schema: Schema) -> Column:
    """Return the items drawn for a click."""
    pool, items = F.col(_POOL), F.size(_POOL)
    item = F.array(quoted(schema.item))
    own = F.coalesce(F.array_union(F.col(_OWN), item), item)
    start = F.pmod(F.xxhash64(F.lit(rule.seed), digest(clicks.drop(MOMENT))), items)
    # The session's own items are skipped: this many items from the start are enough.
    needed = F.least(items, F.size(own) + rule.per_click)
    circle = F.transform(
        F.sequence(F.lit(0), needed - 1),
        lambda i: F.element_at(pool, (F.pmod(start + i, items) + 1).cast("int")),
    )
    allowed = F.filter(circle, lambda each: ~F.coalesce(F.array_contains(own, each), F.lit(False)))
    chosen = F.slice(allowed, 1, rule.per_click)
    return F.when(F.coalesce(items, F.lit(0)) > 0, chosen).otherwise(F.array())
