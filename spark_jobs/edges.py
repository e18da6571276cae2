"""Edges as DataFrames: counted, nodes of too many edges thinned out, ends numbered, figures added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from features.schema import Relation
from spark_jobs.graph_files import edges_folder
from spark_jobs.settings import GraphSettings

_ENDS = ("left", "right")
_RATE_MARGIN = 1e-6
COUNTED = "left string, right string, impressions long, clicks long"
"""Columns of counted edges. A reader that is told them need not look into a file first."""

_SALTS = 16


def day_counts(
    spark: SparkSession, relations: Iterable[Relation], days: Iterable[Path]
) -> DataFrame:
    """Return the counted edges `relation, left, right, impressions, clicks` of several days, each day's own."""
    roots = tuple(days)
    parts = []
    for relation in relations:
        counts = spark.read.schema(COUNTED).parquet(
            *(str(edges_folder(root, relation.name)) for root in roots)
        )
        parts.append(counts.withColumn("relation", F.lit(relation.name)))
    return reduce(DataFrame.unionByName, parts)


def capped(edges: DataFrame, relation: Relation, settings: GraphSettings) -> DataFrame:
    """Return the edges that are among the `max_degree` of both their ends.

    A node keeps the edges of smallest hash of relation, ends and seed: a sample without regard to weight, the same whatever
    the order and partitioning. Only nodes that have more edges are sorted at all.
    """
    chance = F.xxhash64(F.lit(relation.name), "left", "right", F.lit(settings.seed))
    drawn = edges.withColumn("chance", chance)
    kept = drawn
    for side in ("left", "right"):
        with_cut = kept.join(F.broadcast(_cuts(drawn, side, settings.max_degree)), side, "left")
        kept = with_cut.where(F.col("cut").isNull() | (F.col("chance") <= F.col("cut"))).drop("cut")
    return kept.select("left", "right", "impressions", "clicks")


def _cuts(edges: DataFrame, side: str, most: int) -> DataFrame:
    """The `most`-th smallest chance of each node that has more edges, as `side, cut`.

    Here a hub's edges do meet in one place, so they come in two steps: each of `_SALTS` parts gives up what cannot be among
    the smallest before the parts are put together.
    """
    hubs = (
        edges.groupBy(side)
        .agg(F.count("*").alias("degree"))
        .where(F.col("degree") > most)
        .select(side)
    )
    drawn = edges.join(F.broadcast(hubs), side, "left_semi").select(side, "chance")
    salt = F.pmod(F.col("chance"), F.lit(_SALTS)).alias("salt")
    part = Window.partitionBy(side, "salt").orderBy("chance")
    parts = (
        drawn.select(side, "chance", salt)
        .withColumn("place", F.row_number().over(part))
        .where(F.col("place") <= most)
    )
    whole = Window.partitionBy(side).orderBy("chance")
    ranked = parts.withColumn("place", F.row_number().over(whole)).where(F.col("place") == most)
    return ranked.select(side, F.col("chance").alias("cut"))


def ends_of(counts: DataFrame, kept: DataFrame) -> DataFrame:
    """Return the ends of edges: `relation, side, token, impressions, clicks, degree`, in one aggregation.

    Args:
        counts: `relation, left, right, impressions, clicks`, of all edges, rare ones too; perhaps several of an edge.
        kept: the edges that the graph keeps: what `degree` counts.
    """
    none = F.lit(0).cast("long")
    shown = counts.select("relation", *_ENDS, "impressions", "clicks", none.alias("degree"))
    numbers = ("impressions", "clicks")
    edges = kept.select(
        "relation",
        *_ENDS,
        *(none.alias(name) for name in numbers),
        F.lit(1).cast("long").alias("degree"),
    )
    sides = F.explode(
        F.array(
            *(F.struct(F.lit(side).alias("side"), F.col(side).alias("token")) for side in _ENDS)
        )
    )
    figures = (*numbers, "degree")
    rows = shown.unionByName(edges).select("relation", sides.alias("end"), *figures)
    grouped = rows.select("relation", "end.*", *figures).groupBy("relation", "side", "token")
    return grouped.agg(*(F.sum(name).alias(name) for name in figures))


def numbered(edges: DataFrame, ends: DataFrame) -> DataFrame:
    """Return edges with `left` and `right` as node numbers, and `n_left`, `n_right`: impressions of all edges of the ends.

    Args:
        edges: `relation, left, right, impressions, clicks` by token.
        ends: `relation, side, token, node, shown`.
    """
    for side in _ENDS:
        known = ends.where(F.col("side") == side)
        known = known.select(
            "relation", F.col("token").alias(side), "node", F.col("shown").alias(f"n_{side}")
        )
        edges = edges.join(known, ["relation", side]).drop(side).withColumnRenamed("node", side)
    return edges


def described(
    edges: DataFrame, settings: GraphSettings, prior: float, totals: Mapping[str, int]
) -> DataFrame:
    """Return edges in the columns of a graph, after `relation`.

    Args:
        edges: `numbered`.
        settings: the weight of the prior.
        prior: click rate of the window.
        totals: impressions of all edges of each relation.
    """
    total = F.coalesce(
        *(F.when(F.col("relation") == name, F.lit(float(sum_))) for name, sum_ in totals.items())
    )
    n, clicks = F.col("impressions"), F.col("clicks")
    ctr = (clicks + settings.smoothing * prior) / (n + settings.smoothing)
    figures = {
        "ctr": ctr,
        "logit": _logit(F.least(F.greatest(ctr, F.lit(_RATE_MARGIN)), F.lit(1 - _RATE_MARGIN))),
        "pmi": F.log(n.cast("double") * total / F.col("n_left") / F.col("n_right")),
        "log_count": F.log1p(n),
    }
    return edges.select(
        "relation", *_ENDS, n, clicks, *(figure.alias(name) for name, figure in figures.items())
    )


def _logit(rate: Column) -> Column:
    return F.log(rate / (1 - rate))
