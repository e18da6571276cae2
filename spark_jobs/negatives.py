"""Impressions without a click for logs that hold clicks only, drawn by a stated and seeded rule.

The window of a click is made of the twelve slots before the click's own slot, a slot being a twelfth of
`window_minutes`: nothing at or after the click is looked at. The distinct items clicked by anyone in these slots form
a circle, in the order of a hash of (seed, slot, item). A hash of (seed, click) says where on the circle to start;
the first `per_click` items from there that are not of the click's own session are the negatives. The same log and
seed give the same draws in any order of work. Where the window holds fewer items, fewer are drawn.
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
    log: DataFrame, moment: Column, negatives: Negatives, schema: Schema, partition: Partition
) -> DataFrame:
    """Return the clicks that draws depend on, and undated ones, with their moment as `MOMENT` (long, null if unknown).

    An hour's draws depend on those of its whole day, as a day's do: a session's own items are those of the day.
    """
    bounds = bounds_ms(day_of(partition), schema.timezone)
    stamped = log.withColumn(MOMENT, moment)
    ms = F.col(MOMENT)
    return stamped.where(
        ms.isNull()
        | ((ms >= bounds[0][0] - (SLOTS + 1) * _slot_ms(negatives)) & (ms < bounds[-1][1]))
    )


def with_negatives(
    clicks: DataFrame,
    history: DataFrame,
    negatives: Negatives,
    schema: Schema,
    partition: Partition,
) -> DataFrame:
    """Return the clicks with label 1 and, after each sound one of the day or hour, its negatives with label 0.

    A negative takes all columns of its click but the item.

    Args:
        clicks: raw records with `MOMENT`, as `recent` gives them.
        history: the records that items are drawn from, with `MOMENT`: those of the whole day and of the window before it.
        negatives: how many are drawn, from what window, with which seed.
        schema: names the item column and the label column, which must not exist yet.
        partition: only clicks of this day or hour get negatives.

    Returns:
        the columns of `clicks` without `MOMENT`, then the label as `"1"` or `"0"`.

    Raises:
        InputError: there is no session or item column, or a label column exists.
    """
    columns = [name for name in clicks.columns if name != MOMENT]
    require_columns(
        columns, {negatives.session: "`negatives.session`", schema.item: "the item"}, "the log"
    )
    if schema.label in columns:
        raise InputError(
            f"the log has a column {schema.label!r}: `negatives` are for logs of clicks only; remove them or rename the label"
        )
    slotted = clicks.withColumn(_SLOT, floor_div(F.col(MOMENT), _slot_ms(negatives))).withColumn(
        _SESSION, quoted(negatives.session)
    )
    joined = slotted.join(_pools(history, negatives, schema), _SLOT, "left").join(
        _own(history, negatives, schema), _SESSION, "left"
    )
    sound = F.col(CORRUPT).isNull() & in_partition(F.col(MOMENT), partition, schema.timezone)
    drawn = F.when(sound, _drawn(clicks, negatives, schema)).otherwise(F.array())
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


def _slot_ms(negatives: Negatives) -> int:
    return negatives.window_minutes * 60_000 // SLOTS


def _pools(history: DataFrame, negatives: Negatives, schema: Schema) -> DataFrame:
    """Per slot the distinct items of the slots before it, in the order of their hash."""
    slot, item = F.col(_SLOT), F.col(_ITEM)
    clicked = history.where(
        quoted(schema.item).isNotNull() & F.col(MOMENT).isNotNull() & F.col(CORRUPT).isNull()
    )
    seen = clicked.select(
        floor_div(F.col(MOMENT), _slot_ms(negatives)).alias("s"), quoted(schema.item).alias(_ITEM)
    ).distinct()
    spread = seen.select(
        F.explode(F.sequence(F.col("s") + 1, F.col("s") + SLOTS)).alias(_SLOT), _ITEM
    ).distinct()
    ranked = F.struct(F.xxhash64(F.lit(negatives.seed), slot, item).alias("h"), item.alias("i"))
    return spread.groupBy(_SLOT).agg(
        F.transform(F.array_sort(F.collect_list(ranked)), lambda r: r["i"]).alias(_POOL)
    )


def _own(history: DataFrame, negatives: Negatives, schema: Schema) -> DataFrame:
    """Per session the items it clicked."""
    return history.groupBy(quoted(negatives.session).alias(_SESSION)).agg(
        F.collect_set(quoted(schema.item)).alias(_OWN)
    )


def _drawn(clicks: DataFrame, negatives: Negatives, schema: Schema) -> Column:
    """The items drawn for a click: from its start on the circle as many as could be needed, its own left out."""
    pool, items = F.col(_POOL), F.size(_POOL)
    own = F.coalesce(
        F.array_union(F.col(_OWN), F.array(quoted(schema.item))), F.array(quoted(schema.item))
    )
    start = F.pmod(F.xxhash64(F.lit(negatives.seed), digest(clicks.drop(MOMENT))), items)
    needed = F.least(items, F.size(own) + negatives.per_click)
    circle = F.transform(
        F.sequence(F.lit(0), needed - 1),
        lambda i: F.element_at(pool, (F.pmod(start + i, items) + 1).cast("int")),
    )
    allowed = F.filter(circle, lambda item: ~F.coalesce(F.array_contains(own, item), F.lit(False)))
    return F.when(
        F.coalesce(items, F.lit(0)) > 0, F.slice(allowed, 1, negatives.per_click)
    ).otherwise(F.array())
