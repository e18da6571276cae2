"""The co-occurrence graph: pairs of values that occur together, how often, and their click rate.

Per relation, with n the impressions of an edge, n(l) and n(r) the sums over the edges of its ends,
and M the sum over all edges:

* `pmi` = ln(n · M / (n(l) · n(r)));
* `ctr` = (clicks + smoothing · prior) / (n + smoothing), the prior being the click rate of all
  impressions;
* `logit` = ln(ctr / (1 - ctr)), with the rate clipped to [1e-6, 1 - 1e-6];
* `log_count` = ln(1 + n).

Nulls make no edge. The sums of PMI include rare edges and those that the cap of edges per node
removes, which are not in the result. Nodes are the values with an edge in any relation.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from features.errors import InputError
from features.partition import HOURS_PER_DAY, Partition, in_order, is_before, length_h, start_h
from features.schema import Relation, Schema
from spark_jobs.arrow_counts import end_parts
from spark_jobs.counting import SHOWN, merged
from spark_jobs.cross_counts import require_fields
from spark_jobs.files import are_small, files_for, fitted, write_placed
from spark_jobs.graph_files import (
    EDGE_COLUMNS,
    EDGES,
    NODE_COLUMNS,
    NODES,
    CountsManifest,
    GraphManifest,
    RelationGraph,
    edge_totals,
    edges_folder,
    read_counts,
    write_no_edges,
)
from spark_jobs.graph_report import write_reports
from spark_jobs.settings import GraphSettings
from spark_jobs.times import floor_div

_ENDS, _KEY = ("left", "right"), ("relation", "left", "right")
_SHOWN, _SUMS = ("impressions", "clicks"), ("impressions", "clicks", "degree")
_RATE_MARGIN = 1e-6
_SALTS = 16
# With declared columns Spark does not open a file to plan a query.
_COUNTED = "left string, right string, impressions long, clicks long"
_EDGES = f"{_COUNTED}, relation string"
_NUMBERS = "relation string, side string, token string, node int, shown long"
_EDGES_FACTOR = 0.25
"""Size of a small window relative to a small partition: sorted edges take 3 bytes each.

Measured on a warm session: 40,000 edges cost the same by both plans, 800,000 half as much by the
plan for large windows.
"""


def cross_graph(
    spark: SparkSession,
    schema: Schema,
    counts: Mapping[Partition, Path],
    day: Partition,
    settings: GraphSettings,
    out: Path,
) -> dict[str, float]:
    """Write the graph of the days before a day into `out`.

    The files are `graph.json`, `nodes.parquet`, `edges/`, `offsets/` and the reports of
    `spark_jobs.graph_report`. Edges are in the order of their left node, so that with `offsets` a
    node's neighbours are one slice, and training needs no shuffle.

    Args:
        counts: committed `cross_counts` artifacts of days and hours before `day`; those outside the
            window are ignored.
        day: the day or hour whose model is trained on the graph; the window is the
            `settings.window_days` days before it.
        settings: relations, window, least support, prior weight, cap of edges and its seed.

    Returns:
        `days` (partitions) and `impressions` read, `edges` written, `edges_capped`, and
        `edges:<relation>` for each relation.

    Raises:
        InputError: counts are not of a day before, or lack a relation; or a relation names a field
            that the schema does not have, or a dense one.
    """
    require_fields(schema, settings.relations)
    if late := sorted(str(when) for when in counts if not is_before(when, day)):
        raise InputError(
            f"the cross graph of {day} may only be made of days before it, not of {late}: they"
            " contain its labels"
        )
    first_h = start_h(day) - settings.window_days * HOURS_PER_DAY
    window = {when: counts[when] for when in in_order(counts) if start_h(when) >= first_h}
    manifests = {when: read_counts(path) for when, path in window.items()}
    for when, manifest in manifests.items():
        if lacking := manifest.lacks(schema, settings.relations):
            raise InputError(
                f"the counts of {when} lack the relations {lacking}: run `elastic-ctr cross-counts"
                f" --date {when}`"
            )
    if not window or not settings.relations:
        return empty_graph(settings, out, manifests)
    small = are_small((path / EDGES for path in window.values()), _EDGES_FACTOR)
    build = _Build(spark, settings, tuple(window.values()), out, out / ".scratch", small)
    totals = {
        each.name: sum(counts.relations[each.name].impressions for counts in manifests.values())
        for each in settings.relations
    }
    with fitted(spark, small=small):
        edges = build.write_kept_edges()
        build.write_ends()
        nodes = build.number_nodes()
        relations = {}
        for each in settings.relations:
            kept, *removed = edges[each.name]
            sizes = (kept, nodes.get(each.left, 0), nodes.get(each.right, 0))
            relations[each.name] = RelationGraph(each.left, each.right, *sizes, *removed)
        graph = _manifest(manifests, relations)
        build.write_edges(graph, totals)
    shutil.rmtree(build.scratch)
    return _finish(graph, out)


def empty_graph(
    settings: GraphSettings, out: Path, manifests: Mapping[Partition, CountsManifest] | None = None
) -> dict[str, float]:
    """Write a graph without edges, which needs no Spark; returns what `cross_graph` does."""
    relations = {r.name: RelationGraph(r.left, r.right, 0, 0, 0, 0, 0) for r in settings.relations}
    pq.write_table(NODE_COLUMNS.empty_table(), out / NODES)
    for name in relations:
        write_no_edges(edges_folder(out, name), EDGE_COLUMNS)
    return _finish(_manifest(manifests or {}, relations), out)


def _manifest(
    manifests: Mapping[Partition, CountsManifest], relations: Mapping[str, RelationGraph]
) -> GraphManifest:
    impressions = sum(counts.impressions for counts in manifests.values())
    clicks = sum(counts.clicks for counts in manifests.values())
    prior = clicks / impressions if impressions else 0.0
    days: list[Partition | None] = [*in_order(manifests)] or [None]
    hours = sum(length_h(when) for when in manifests)
    count = len(manifests)
    return GraphManifest(days[0], days[-1], count, hours, impressions, clicks, prior, relations)


def _finish(graph: GraphManifest, out: Path) -> dict[str, float]:
    write_reports(out, graph)
    graph.write(out)
    return graph.summary()


@dataclass(frozen=True)
class _Build:
    """The steps of building a graph, each of which is one query for all relations."""

    spark: SparkSession
    settings: GraphSettings
    days: tuple[Path, ...]
    out: Path
    scratch: Path
    small: bool

    def write_kept_edges(self) -> dict[str, tuple[int, int, int]]:
        """Write the edges that the graph keeps: those with enough support, up to the cap.

        Returns:
            by relation: edges kept, edges that the cap removed, and the impressions of these.
        """
        counts = day_counts(self.spark, self.settings.relations, self.days)
        edges = merged(counts, _KEY, SHOWN) if len(self.days) > 1 else counts
        found = edges.where(F.col("impressions") >= self.settings.min_impressions)
        found.write.partitionBy("relation").parquet(str(self.scratch / "kept"))
        sizes = {}
        for relation in self.settings.relations:
            folder, below = self._kept(relation), self.scratch / "capped"
            edges_found, shown = edge_totals(folder)
            # No node has more edges than its relation: most relations need no query for the cap.
            if edges_found > self.settings.max_degree:
                every = self.spark.read.schema(_COUNTED).parquet(str(folder))
                capped(every, relation, self.settings).write.parquet(str(below))
                shutil.rmtree(folder)
                below.rename(folder)
            kept, kept_shown = edge_totals(folder)
            sizes[relation.name] = (kept, edges_found - kept, shown - kept_shown)
        return sizes

    def write_ends(self) -> None:
        """Write the ends of edges with sums over all edges, rare ones too, and their kept edges."""
        if self.small:
            counts = day_counts(self.spark, self.settings.relations, self.days)
            ends = ends_of(counts, self._kept_edges())
        else:
            every = {
                each.name: [edges_folder(day, each.name) for day in self.days]
                for each in self.settings.relations
            }
            kept = {each.name: self._kept(each) for each in self.settings.relations}
            parts = end_parts(self.spark, every, kept).counts
            sums = (F.sum(name).alias(name) for name in _SUMS)
            ends = parts.groupBy("relation", "side", "token").agg(*sums)
        ends.write.parquet(str(self.scratch / "ends"))

    def number_nodes(self) -> dict[str, int]:
        """Write `nodes.parquet` and the node numbers of ends; return the nodes of each field.

        Nodes are numbered within their field in the order of their bytes.
        """
        # 1. The field of each end: the one that its relation has on this side.
        ends = pq.read_table(self.scratch / "ends")
        fields = {
            f"{each.name}/{side}": getattr(each, side)
            for each in self.settings.relations
            for side in _ENDS
        }
        key = pc.binary_join_element_wise(ends["relation"], ends["side"], "/")
        place = pc.index_in(key, pa.array(list(fields), pa.string())).combine_chunks()
        ends = ends.append_column("field", pa.array(fields.values(), pa.string()).take(place))
        # 2. Nodes: values with a kept edge in any relation.
        sums = ends.group_by(["field", "token"]).aggregate([(name, "sum") for name in _SUMS])
        sums = sums.rename_columns(["field", "token", *_SUMS]).filter(pc.field("degree") > 0)
        sums = sums.sort_by([("field", "ascending"), ("token", "ascending")])
        runs = sums["field"].value_counts().to_pylist()
        sizes = {each["values"]: each["counts"] for each in runs}
        node = np.concatenate([np.arange(size, dtype=np.int32) for size in (0, *sizes.values())])
        nodes = sums.append_column("node", pa.array(node))
        pq.write_table(nodes.select(NODE_COLUMNS.names).cast(NODE_COLUMNS), self.out / NODES)
        # 3. Node numbers of ends.
        numbers = nodes.select(["field", "token", "node"])
        known = ends.join(numbers, ["field", "token"], join_type="inner")
        known = known.rename_columns({"impressions": "shown"})
        columns = ["relation", "side", "token", "node", "shown"]
        pq.write_table(known.select(columns), self.scratch / "numbers.parquet")
        return sizes

    def write_edges(self, graph: GraphManifest, totals: Mapping[str, int]) -> None:
        """Write the edges by node number, files and records in the order of the left node.

        Args:
            graph: relations' sizes and the prior.
            totals: impressions of all edges of each relation.
        """
        ends = self.spark.read.schema(_NUMBERS).parquet(str(self.scratch / "numbers.parquet"))
        edges = with_node_numbers(self._kept_edges(), ends)
        edges = with_figures(edges, self.settings, graph.prior, totals)
        # A file per about a million edges: the left node decides which one.
        first, place = 0, F.lit(None)
        for name, sizes in graph.relations.items():
            files = files_for(sizes.edges)
            within = floor_div(F.col("left").cast("long") * files, max(sizes.left_nodes, 1))
            place = F.when(F.col("relation") == name, within + first).otherwise(place)
            first += files
        write_placed(edges, self.out / EDGES, "relation", _ENDS, place, first)
        for relation in self.settings.relations:
            write_no_edges(edges_folder(self.out, relation.name), EDGE_COLUMNS)

    def _kept_edges(self) -> DataFrame:
        return self.spark.read.schema(_EDGES).parquet(str(self.scratch / "kept"))

    def _kept(self, relation: Relation) -> Path:
        return self.scratch / "kept" / f"relation={relation.name}"


def day_counts(
    spark: SparkSession, relations: Iterable[Relation], days: Iterable[Path]
) -> DataFrame:
    """Return `relation, left, right, impressions, clicks`, a row per day and edge."""
    roots = tuple(days)
    parts = []
    for relation in relations:
        folders = (str(edges_folder(root, relation.name)) for root in roots)
        counts = spark.read.schema(_COUNTED).parquet(*folders)
        parts.append(counts.withColumn("relation", F.lit(relation.name)))
    return reduce(DataFrame.unionByName, parts)


def capped(edges: DataFrame, relation: Relation, settings: GraphSettings) -> DataFrame:
    """Return the edges that are among the `max_degree` of both their ends.

    A node keeps the edges with the smallest hash of relation, ends and seed: a uniform sample,
    which does not depend on order or partitioning.
    """
    chance = F.xxhash64(F.lit(relation.name), "left", "right", F.lit(settings.seed))
    drawn = edges.withColumn("chance", chance)
    kept = drawn
    for side in _ENDS:
        with_cut = kept.join(F.broadcast(_cuts(drawn, side, settings.max_degree)), side, "left")
        kept = with_cut.where(F.col("cut").isNull() | (F.col("chance") <= F.col("cut"))).drop("cut")
    return kept.select(*_ENDS, *_SHOWN)


def _cuts(edges: DataFrame, side: str, most: int) -> DataFrame:
    """Return `side, cut`: the `most`-th smallest chance of each node that has more edges."""
    # 1. Only nodes above the cap are sorted.
    degrees = edges.groupBy(side).agg(F.count("*").alias("degree"))
    hubs = degrees.where(F.col("degree") > most).select(side)
    drawn = edges.join(F.broadcast(hubs), side, "left_semi").select(side, "chance")
    # 2. A window over a node puts all edges of a hub into one task. So each of `_SALTS` parts of a
    # node first drops the edges that cannot be among the smallest.
    salt = F.pmod(F.col("chance"), F.lit(_SALTS)).alias("salt")
    part = Window.partitionBy(side, "salt").orderBy("chance")
    parts = drawn.select(side, "chance", salt).withColumn("place", F.row_number().over(part))
    # 3. The cut is the last chance that the node keeps of its parts together.
    whole = Window.partitionBy(side).orderBy("chance")
    ranked = parts.where(F.col("place") <= most).withColumn("place", F.row_number().over(whole))
    return ranked.where(F.col("place") == most).select(side, F.col("chance").alias("cut"))


def ends_of(counts: DataFrame, kept: DataFrame) -> DataFrame:
    """Return the ends of edges: `relation, side, token, impressions, clicks, degree`.

    Args:
        counts: `relation, left, right, impressions, clicks` of all edges, rare ones too; perhaps
            several of an edge.
        kept: the edges that the graph keeps, whose number is `degree`.
    """
    zero, one = F.lit(0).cast("long"), F.lit(1).cast("long")
    shown = counts.select("relation", *_ENDS, *_SHOWN, zero.alias("degree"))
    nothing = (zero.alias(name) for name in _SHOWN)
    edges = kept.select("relation", *_ENDS, *nothing, one.alias("degree"))
    sides = F.array(
        *(F.struct(F.lit(side).alias("side"), F.col(side).alias("token")) for side in _ENDS)
    )
    # Both in one aggregation: one shuffle in place of two and a join.
    rows = shown.unionByName(edges).select("relation", F.explode(sides).alias("end"), *_SUMS)
    grouped = rows.select("relation", "end.*", *_SUMS).groupBy("relation", "side", "token")
    return grouped.agg(*(F.sum(name).alias(name) for name in _SUMS))


def with_node_numbers(edges: DataFrame, ends: DataFrame) -> DataFrame:
    """Return edges with node numbers as `left` and `right`, and `n_left`, `n_right`.

    `n_left` and `n_right` are the impressions of all edges of an edge's ends.

    Args:
        edges: `relation, left, right, impressions, clicks` by token.
        ends: `relation, side, token, node, shown`.
    """
    for side in _ENDS:
        token, shown = F.col("token").alias(side), F.col("shown").alias(f"n_{side}")
        known = ends.where(F.col("side") == side).select("relation", token, "node", shown)
        edges = edges.join(known, ["relation", side]).drop(side).withColumnRenamed("node", side)
    return edges


def with_figures(
    edges: DataFrame, settings: GraphSettings, prior: float, totals: Mapping[str, int]
) -> DataFrame:
    """Return edges in the columns of a graph, after `relation`.

    Args:
        edges: a result of `with_node_numbers`.
        settings: the weight of the prior.
        prior: click rate of the window.
        totals: impressions of all edges of each relation.
    """
    total = F.coalesce(
        *(F.when(F.col("relation") == name, F.lit(float(sum_))) for name, sum_ in totals.items())
    )
    n, clicks = F.col("impressions"), F.col("clicks")
    ctr = (clicks + settings.smoothing * prior) / (n + settings.smoothing)
    rate = F.least(F.greatest(ctr, F.lit(_RATE_MARGIN)), F.lit(1 - _RATE_MARGIN))
    return edges.select(
        "relation",
        *_ENDS,
        n,
        clicks,
        ctr.alias("ctr"),
        F.log(rate / (1 - rate)).alias("logit"),
        F.log(n.cast("double") * total / F.col("n_left") / F.col("n_right")).alias("pmi"),
        F.log1p(n).alias("log_count"),
    )
