"""Edges of one relation as DataFrames: nodes of too many edges thinned out, tokens numbered, figures added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from features.schema import Relation
from spark_jobs.counting import SHOWN, merged
from spark_jobs.graph_files import edges_folder
from spark_jobs.settings import GraphSettings

_RATE_MARGIN = 1e-6
_SALTS = 16


def day_counts(spark: SparkSession, relation: Relation, days: Iterable[Path]) -> DataFrame:
    """Return the counted edges `left, right, impressions, clicks` of several days, each day's own."""
    return spark.read.parquet(*(str(edges_folder(path, relation.name)) for path in days))


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
    hubs = edges.groupBy(side).agg(F.count("*").alias("degree")).where(F.col("degree") > most).select(side)
    drawn = edges.join(F.broadcast(hubs), side, "left_semi").select(side, "chance")
    salt = F.pmod(F.col("chance"), F.lit(_SALTS)).alias("salt")
    part = Window.partitionBy(side, "salt").orderBy("chance")
    parts = drawn.select(side, "chance", salt).withColumn("place", F.row_number().over(part)).where(F.col("place") <= most)
    whole = Window.partitionBy(side).orderBy("chance")
    ranked = parts.withColumn("place", F.row_number().over(whole)).where(F.col("place") == most)
    return ranked.select(side, F.col("chance").alias("cut"))


def ends_of(counts: DataFrame, side: str) -> DataFrame:
    """Return `token, impressions, clicks` of one side: sums over all edges that a value has, rare ones too."""
    return merged(counts.withColumnRenamed(side, "token"), ("token",), SHOWN)


def numbered(edges: DataFrame, ends: Mapping[str, DataFrame], nodes: DataFrame, relation: Relation) -> DataFrame:
    """Return edges with `left` and `right` as node numbers, and `n_left`, `n_right`: impressions of all edges of the ends.

    Args:
        edges: `left, right, impressions, clicks` by token.
        ends: `ends_of` by side.
        nodes: `field, node, token`.
        relation: names the fields.
    """
    for side, field in (("left", relation.left), ("right", relation.right)):
        shown = ends[side].select("token", F.col("impressions").alias(f"n_{side}"))
        known = nodes.where(F.col("field") == field).select("token", "node").join(shown, "token")
        edges = edges.withColumnRenamed(side, "token").join(known, "token").drop("token").withColumnRenamed("node", side)
    return edges


def described(edges: DataFrame, settings: GraphSettings, prior: float, total: int) -> DataFrame:
    """Return edges in the columns of a graph.

    Args:
        edges: `numbered`.
        settings: the weight of the prior.
        prior: click rate of the window.
        total: impressions of all edges of the relation.
    """
    n, clicks = F.col("impressions"), F.col("clicks")
    ctr = (clicks + settings.smoothing * prior) / (n + settings.smoothing)
    figures = {
        "ctr": ctr,
        "logit": _logit(F.least(F.greatest(ctr, F.lit(_RATE_MARGIN)), F.lit(1 - _RATE_MARGIN))),
        "pmi": F.log(n.cast("double") * float(total) / F.col("n_left") / F.col("n_right")),
        "log_count": F.log1p(n),
    }
    return edges.select("left", "right", n, clicks, *(figure.alias(name) for name, figure in figures.items()))


def _logit(rate: Column) -> Column:
    return F.log(rate / (1 - rate))
