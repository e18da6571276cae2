"""The co-occurrence graph: which values of two fields were shown together, how often, and with what click rate.

Per relation, with n the impressions of an edge, n(l) and n(r) the sums over the edges of its ends and M over all:
`pmi` = ln(n · M / (n(l) · n(r))); `ctr` = (clicks + smoothing · prior) / (n + smoothing), the prior being the click
rate of all impressions; `logit` = ln(ctr / (1 - ctr)), the rate kept within [1e-6, 1 - 1e-6]; `log_count` = ln(1 + n).
Nulls make no edge. PMI counts rare edges too, which are then left out of the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from features.canonical import NULL
from features.errors import InputError
from features.partition import HOURS_PER_DAY, Partition, end_h, in_order, start_h
from features.schema import Schema
from spark_jobs.files import write_file
from spark_jobs.settings import GraphSettings, Relation
from spark_jobs.tokens import field_tokens

_ORDER = ("relation", "left", "right")
_EDGES = (
    "relation string, left string, right string, impressions long, clicks long, "
    "ctr double, logit double, pmi double, log_count double"
)
_RATE_MARGIN = 1e-6


def cross_graph(
    spark: SparkSession, schema: Schema, partitions: Mapping[Partition, Path], settings: GraphSettings, out: Path
) -> dict[str, float]:
    """Write `edges.parquet` into `out`; with no partition or no relation it has no record.

    Args:
        spark: the session.
        schema: names the fields.
        partitions: committed `impressions` artifacts of days or hours strictly before the one that will use the graph. Those
            are read that begin in the `settings.window_days` that end with the last of them.
        settings: relations, window, least support, prior weight.
        out: an existing folder.

    Returns:
        `days` (partitions) and `impressions` read, `edges` written, and `edges:<relation>` for each relation.

    Raises:
        InputError: a relation names a field that the schema does not have, or a dense one.
    """
    _require_fields(schema, settings.relations)
    days = _window(partitions, settings.window_days)
    names = [relation.name for relation in settings.relations]
    if not days or not names:
        write_file(spark.createDataFrame([], _EDGES), out / "edges.parquet", _ORDER)
        return _figures(0.0, 0.0, dict.fromkeys(names, 0.0))
    records = spark.read.parquet(*(str(partitions[day] / "impressions") for day in days))
    total = records.agg(F.count("*").alias("impressions"), F.avg("label").alias("ctr")).first()
    edges = _edges(records, schema, settings.relations)
    write_file(_described(edges, settings, total["ctr"] or 0.0), out / "edges.parquet", _ORDER)
    written = spark.read.schema(_EDGES).parquet(str(out / "edges.parquet")).groupBy("relation").count().collect()
    sizes = dict.fromkeys(names, 0.0) | {row["relation"]: float(row["count"]) for row in written}
    return _figures(float(len(days)), float(total["impressions"]), sizes)


def _window(partitions: Mapping[Partition, Path], days: int) -> list[Partition]:
    ordered = in_order(partitions)
    return [when for when in ordered if start_h(when) >= end_h(ordered[-1]) - days * HOURS_PER_DAY]


def _figures(days: float, impressions: float, sizes: Mapping[str, float]) -> dict[str, float]:
    by_relation = {f"edges:{name}": size for name, size in sizes.items()}
    return {"days": days, "impressions": impressions, "edges": sum(sizes.values()), **by_relation}


def _require_fields(schema: Schema, relations: tuple[Relation, ...]) -> None:
    known = {field.name for field in schema.key_fields()}
    unknown = sorted({name for relation in relations for name in (relation.left, relation.right)} - known)
    if unknown:
        choice = f"choose among {sorted(known)}"
        raise InputError(f"the graph's relations name {unknown}, which are no id fields of the schema: {choice}")


def _edges(records: DataFrame, schema: Schema, relations: tuple[Relation, ...]) -> DataFrame:
    """Impressions and clicks by relation, left and right token."""
    pairs = F.concat(*(_pairs(schema, relation) for relation in relations))
    long = records.select("label", F.explode(pairs).alias("pair")).select("label", "pair.*")
    present = long.where((F.col("left") != NULL) & (F.col("right") != NULL))
    clicks = F.sum(F.col("label").cast("long"))
    return present.groupBy(*_ORDER).agg(F.count("*").alias("impressions"), clicks.alias("clicks"))


def _pairs(schema: Schema, relation: Relation) -> Column:
    left, right = (field_tokens(schema, schema.field(name)) for name in (relation.left, relation.right))
    name = F.lit(relation.name).alias("relation")
    product = F.transform(left, lambda a: F.transform(right, lambda b: F.struct(name, a.alias("left"), b.alias("right"))))
    return F.flatten(product)


def _described(edges: DataFrame, settings: GraphSettings, prior: float) -> DataFrame:
    n, clicks = F.col("impressions"), F.col("clicks")
    of_left, of_right, of_all = (_sum_over(*names) for names in (("relation", "left"), ("relation", "right"), ("relation",)))
    ctr = (clicks + settings.smoothing * prior) / (n + settings.smoothing)
    rate = F.least(F.greatest(ctr, F.lit(_RATE_MARGIN)), F.lit(1 - _RATE_MARGIN))
    figures = (
        ctr.alias("ctr"),
        F.log(rate / (1 - rate)).alias("logit"),
        F.log(n.cast("double") * of_all / of_left / of_right).alias("pmi"),
        F.log1p(n).alias("log_count"),
    )
    return edges.select(*_ORDER, n, clicks, *figures).where(n >= settings.min_impressions)


def _sum_over(*names: str) -> Column:
    return F.sum("impressions").over(Window.partitionBy(*names))
