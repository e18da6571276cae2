"""The co-occurrence graph: which values of two fields were shown together, how often, and with what click rate.

Per relation, with n the impressions of an edge, n(l) and n(r) the sums over the edges of its ends and M over all:
`pmi` = ln(n · M / (n(l) · n(r))); `ctr` = (clicks + smoothing · prior) / (n + smoothing), the prior being the click
rate of all impressions; `logit` = ln(ctr / (1 - ctr)), the rate kept within [1e-6, 1 - 1e-6]; `log_count` = ln(1 + n).
Nulls make no edge. PMI counts rare edges, and those that a cap leaves out, which then are not in the result.

The days' counts are merged, one relation at a time, and what has support is put aside as Parquet; only that meets the nodes'
numbers. Nodes are the values with an edge in any relation. Edges come out in the order of their left node, so that with
`offsets` a node's neighbours are one slice and training needs no shuffle.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from features.errors import InputError
from features.partition import HOURS_PER_DAY, Partition, in_order, is_before, length_h, start_h
from features.schema import Relation, Schema
from spark_jobs.counting import SHOWN, Figure, merged
from spark_jobs.cross_counts import require_fields
from spark_jobs.edges import capped, day_counts, described, ends_of, numbered
from spark_jobs.files import files_for, write_file, write_placed
from spark_jobs.graph_files import NODES, Counts, Graph, RelationGraph, edges_folder, figures, read_counts
from spark_jobs.graph_report import empty_edges, report
from spark_jobs.settings import GraphSettings
from spark_jobs.times import floor_div

_ENDS, _TOKEN = ("left", "right"), ("field", "token")
_DEGREE = Figure("degree", lambda: F.count("*"), F.sum)


def cross_graph(
    spark: SparkSession, schema: Schema, counts: Mapping[Partition, Path], day: Partition, settings: GraphSettings, out: Path
) -> dict[str, float]:
    """Write the graph of a day's past into `out`: `graph.json`, `nodes.parquet`, `edges/`, `offsets/` and reports.

    Args:
        spark: the session.
        schema: names the fields.
        counts: committed `cross_counts` artifacts of days and hours before `day`; those outside the window are ignored.
        day: the day or hour that will learn from the graph; the window is the `settings.window_days` days before it.
        settings: relations, window, least support, prior weight, cap of edges and its seed.
        out: an existing folder.

    Returns:
        `days` (partitions) and `impressions` read, `edges` written, `edges_capped`, and `edges:<relation>` for each relation.

    Raises:
        InputError: counts are not of a day before, or lack a relation; or a relation names a field that the schema does not
            have, or a dense one.
    """
    require_fields(schema, settings.relations)
    _require_past(counts, day)
    first_h = start_h(day) - settings.window_days * HOURS_PER_DAY
    window = {when: counts[when] for when in in_order(counts) if start_h(when) >= first_h}
    told = {when: read_counts(path) for when, path in window.items()}
    _require_relations(told, schema, settings)
    if not window or not settings.relations:
        return empty_graph(settings, out, told)
    build = _Build(spark, settings, tuple(window.values()), told, out)
    build.put_aside()
    write_file(build.nodes(), out / NODES, ("field", "node"))
    graph = _of_days(told, build.relations())
    for relation in settings.relations:
        build.write_edges(relation, graph)
    shutil.rmtree(build.scratch)
    return _finished(graph, out)


def empty_graph(settings: GraphSettings, out: Path, told: Mapping[Partition, Counts] | None = None) -> dict[str, float]:
    """Write a graph without an edge, for which nobody needs to wait for Spark; returns what `cross_graph` does."""
    relations = {r.name: RelationGraph(r.left, r.right, 0, 0, 0, 0, 0) for r in settings.relations}
    graph = _of_days(told or {}, relations)
    empty_edges(out, graph)
    return _finished(graph, out)


def _finished(graph: Graph, out: Path) -> dict[str, float]:
    report(out, graph)
    graph.write(out)
    return figures(graph)


def _require_past(counts: Mapping[Partition, Path], day: Partition) -> None:
    late = sorted(str(when) for when in counts if not is_before(when, day))
    if late:
        raise InputError(f"the cross graph of {day} may only be made of days before it, not of {late}: they hold its labels")


def _require_relations(told: Mapping[Partition, Counts], schema: Schema, settings: GraphSettings) -> None:
    for when, counts in told.items():
        if lacking := counts.lacks(schema, settings.relations):
            raise InputError(f"the counts of {when} lack the relations {lacking}: run `elastic-ctr cross-counts --date {when}`")


def _of_days(told: Mapping[Partition, Counts], relations: Mapping[str, RelationGraph]) -> Graph:
    impressions, clicks = (sum(getattr(counts, name) for counts in told.values()) for name in ("impressions", "clicks"))
    prior = clicks / impressions if impressions else 0.0
    ordered: list[Partition | None] = [*in_order(told)] or [None]
    hours = sum(length_h(when) for when in told)
    return Graph(ordered[0], ordered[-1], len(told), hours, impressions, clicks, prior, relations)


@dataclass(frozen=True)
class _Build:
    """One graph in the making: the committed counts of its window, and the folder that is being filled."""

    spark: SparkSession
    settings: GraphSettings
    days: tuple[Path, ...]
    told: Mapping[Partition, Counts]
    out: Path

    @property
    def scratch(self) -> Path:
        """Where edges by token are put aside."""
        return self.out / ".scratch"

    def put_aside(self) -> None:
        """Write each relation's edges of enough support, those that the cap leaves where it has to, and the sums of its ends."""
        for relation in self.settings.relations:
            counts = day_counts(self.spark, relation, self.days)
            edges = merged(counts, _ENDS, SHOWN) if len(self.days) > 1 else counts
            found = edges.where(F.col("impressions") >= self.settings.min_impressions)
            found.write.parquet(str(self._aside("found", relation)))
            if _extent(self._aside("found", relation))[0] > self.settings.max_degree:
                kept = capped(self._read("found", relation), relation, self.settings)
                kept.write.parquet(str(self._aside("thinned", relation)))
            for side in _ENDS:
                ends_of(counts, side).write.parquet(str(self._aside(side, relation)))

    def nodes(self) -> DataFrame:
        """Values with an edge, numbered within their field in the order of their bytes, with the sums over all their edges."""
        sides = [(relation, side) for relation in self.settings.relations for side in _ENDS]
        degrees = reduce(DataFrame.unionByName, (self._degrees(relation, side) for relation, side in sides))
        shown = (self._read(side, relation).withColumn("field", F.lit(getattr(relation, side))) for relation, side in sides)
        sums = merged(reduce(DataFrame.unionByName, shown), _TOKEN, SHOWN)
        found = merged(degrees, _TOKEN, (_DEGREE,)).join(sums, [*_TOKEN])
        node = (F.row_number().over(Window.partitionBy("field").orderBy("token")) - 1).alias("node")
        return found.select("field", node, "token", "impressions", "clicks", "degree")

    def relations(self) -> dict[str, RelationGraph]:
        """The relations' sizes, once nodes are written."""
        fields = pq.read_table(self.out / NODES, columns=["field"])["field"].value_counts().to_pylist()
        sizes = {each["values"]: each["counts"] for each in fields}
        return {relation.name: self._sizes(relation, sizes) for relation in self.settings.relations}

    def write_edges(self, relation: Relation, graph: Graph) -> None:
        """Write the relation's edges by number, files and records in the order of the left node."""
        nodes = self.spark.read.parquet(str(self.out / NODES))
        ends = {side: self._read(side, relation) for side in _ENDS}
        edges = numbered(self._read(self._kept(relation), relation), ends, nodes, relation)
        total = sum(counts.relations[relation.name].impressions for counts in self.told.values())
        sizes = graph.relations[relation.name]
        files = files_for(sizes.edges)
        place = floor_div(F.col("left").cast("long") * files, max(sizes.left_nodes, 1))
        described_edges = described(edges, self.settings, graph.prior, total)
        write_placed(described_edges, edges_folder(self.out, relation.name), _ENDS, place, files)

    def _sizes(self, relation: Relation, sizes: Mapping[str, int]) -> RelationGraph:
        (found, shown), (kept, still_shown) = (_extent(self._aside(what, relation)) for what in ("found", self._kept(relation)))
        left_nodes, right_nodes = (sizes.get(field, 0) for field in (relation.left, relation.right))
        capped_away = (found - kept, shown - still_shown)
        return RelationGraph(relation.left, relation.right, kept, left_nodes, right_nodes, *capped_away)

    def _degrees(self, relation: Relation, side: str) -> DataFrame:
        edges = self._read(self._kept(relation), relation).withColumnRenamed(side, "token")
        degrees = edges.groupBy("token").agg(_DEGREE.count().alias(_DEGREE.name))
        return degrees.withColumn("field", F.lit(getattr(relation, side)))

    def _kept(self, relation: Relation) -> str:
        return "thinned" if self._aside("thinned", relation).exists() else "found"

    def _read(self, what: str, relation: Relation) -> DataFrame:
        return self.spark.read.parquet(str(self._aside(what, relation)))

    def _aside(self, what: str, relation: Relation) -> Path:
        return self.scratch / what / relation.name


def _extent(folder: Path) -> tuple[int, int]:
    """Edges below a folder, and the sum of their impressions."""
    tables = [pq.read_table(path, columns=["impressions"]) for path in sorted(folder.glob("part-*.parquet"))]
    return sum(table.num_rows for table in tables), sum(int(table["impressions"].to_numpy().sum()) for table in tables)
