"""The co-occurrence graph: which values of two fields were shown together, how often, and with what click rate.

Per relation, with n the impressions of an edge, n(l) and n(r) the sums over the edges of its ends and M over all:
`pmi` = ln(n · M / (n(l) · n(r))); `ctr` = (clicks + smoothing · prior) / (n + smoothing), the prior being the click
rate of all impressions; `logit` = ln(ctr / (1 - ctr)), the rate kept within [1e-6, 1 - 1e-6]; `log_count` = ln(1 + n).
Nulls make no edge. PMI counts rare edges, and those that a cap leaves out, which then are not in the result.

Three queries do all relations: the days' counts are merged, and what has support is put aside as Parquet; the ends
of edges are summed; and the edges meet their ends' numbers. Nodes are the values with an edge in any relation: Arrow
numbers them. Edges come out in the order of their left node, so that with `offsets` a node's neighbours are one slice
and training needs no shuffle.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from features.errors import InputError
from features.partition import HOURS_PER_DAY, Partition, in_order, is_before, length_h, start_h
from features.schema import Relation, Schema
from spark_jobs.arrow_counts import end_parts
from spark_jobs.counting import SHOWN, merged
from spark_jobs.cross_counts import require_fields
from spark_jobs.edges import COUNTED, capped, day_counts, described, ends_of, numbered
from spark_jobs.files import are_small, files_for, fitted, write_placed
from spark_jobs.graph_files import (
    EDGES,
    NODE_COLUMNS,
    NODES,
    Counts,
    Graph,
    RelationGraph,
    edges_folder,
    figures,
    read_counts,
)
from spark_jobs.graph_report import empty_edges, empty_relation, report
from spark_jobs.settings import GraphSettings
from spark_jobs.times import floor_div

_ENDS, _KEY = ("left", "right"), ("relation", "left", "right")
_SUMS = ("impressions", "clicks", "degree")
_EDGES_FACTOR = 0.25
"""How much smaller a small window is than a small partition: sorted edges take 3 bytes each. Measured
on a warm session: 40,000 edges cost the same by both plans, 800,000 half as much by the large one."""
_EDGES = f"{COUNTED}, relation string"
_NUMBERS = "relation string, side string, token string, node int, shown long"


def cross_graph(
    spark: SparkSession,
    schema: Schema,
    counts: Mapping[Partition, Path],
    day: Partition,
    settings: GraphSettings,
    out: Path,
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
    small = are_small((path / EDGES for path in window.values()), _EDGES_FACTOR)
    build = _Build(spark, settings, tuple(window.values()), told, out, small)
    with fitted(spark, small=small):
        build.put_aside()
        build.sum_ends()
        graph = _of_days(told, build.number_nodes())
        build.write_edges(graph)
    shutil.rmtree(build.scratch)
    return _finished(graph, out)


def empty_graph(
    settings: GraphSettings, out: Path, told: Mapping[Partition, Counts] | None = None
) -> dict[str, float]:
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
        raise InputError(
            f"the cross graph of {day} may only be made of days before it, not of {late}: they hold its labels"
        )


def _require_relations(
    told: Mapping[Partition, Counts], schema: Schema, settings: GraphSettings
) -> None:
    for when, counts in told.items():
        if lacking := counts.lacks(schema, settings.relations):
            raise InputError(
                f"the counts of {when} lack the relations {lacking}: run `elastic-ctr cross-counts --date {when}`"
            )


def _of_days(told: Mapping[Partition, Counts], relations: Mapping[str, RelationGraph]) -> Graph:
    impressions, clicks = (
        sum(getattr(counts, name) for counts in told.values()) for name in ("impressions", "clicks")
    )
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
    small: bool

    @property
    def scratch(self) -> Path:
        """Where edges by token and their ends are put aside."""
        return self.out / ".scratch"

    def put_aside(self) -> None:
        """Write the edges of enough support, of each relation those that the cap leaves."""
        counts = self._counts()
        edges = merged(counts, _KEY, SHOWN) if len(self.days) > 1 else counts
        found = edges.where(F.col("impressions") >= self.settings.min_impressions)
        found.write.partitionBy("relation").parquet(str(self.scratch / "found"))
        for relation in self.settings.relations:
            folder = self._found(relation)
            if _extent(folder)[0] > self.settings.max_degree:
                kept = capped(
                    self.spark.read.schema(COUNTED).parquet(str(folder)), relation, self.settings
                )
                kept.write.parquet(str(self._thinned(relation)))

    def sum_ends(self) -> None:
        """Write the ends of edges with their sums over all edges, rare ones too, and how many are kept."""
        if self.small:
            ends = ends_of(self._counts(), self._kept())
        else:
            counts = {
                each.name: [edges_folder(day, each.name) for day in self.days]
                for each in self.settings.relations
            }
            kept = {each.name: self._kept_folder(each) for each in self.settings.relations}
            parts = end_parts(self.spark, counts, kept).counts
            ends = parts.groupBy("relation", "side", "token").agg(
                *(F.sum(name).alias(name) for name in _SUMS)
            )
        ends.write.parquet(str(self.scratch / "ends"))

    def number_nodes(self) -> dict[str, RelationGraph]:
        """Write `nodes.parquet` and, for the edges, the numbers of their ends; return the relations' sizes.

        Nodes are numbered within their field in the order of their bytes.
        """
        ends = pq.read_table(self.scratch / "ends")
        ends = ends.append_column("field", self._fields_of(ends))
        sums = ends.group_by(["field", "token"]).aggregate([(name, "sum") for name in _SUMS])
        sums = sums.rename_columns(["field", "token", *_SUMS]).filter(pc.field("degree") > 0)
        sums = sums.sort_by([("field", "ascending"), ("token", "ascending")])
        fields = sums["field"].value_counts().to_pylist()
        sizes = {each["values"]: each["counts"] for each in fields}
        node = np.concatenate([np.arange(size, dtype=np.int32) for size in (0, *sizes.values())])
        nodes = sums.append_column("node", pa.array(node))
        pq.write_table(nodes.select(NODE_COLUMNS.names).cast(NODE_COLUMNS), self.out / NODES)
        known = ends.join(
            nodes.select(["field", "token", "node"]), ["field", "token"], join_type="inner"
        )
        columns = ["relation", "side", "token", "node", "impressions"]
        names = [*columns[:-1], "shown"]
        pq.write_table(
            known.select(columns).rename_columns(names), self.scratch / "numbers.parquet"
        )
        return {relation.name: self._sizes(relation, sizes) for relation in self.settings.relations}

    def write_edges(self, graph: Graph) -> None:
        """Write the edges by number, files and records in the order of the left node."""
        totals = {
            relation.name: sum(
                counts.relations[relation.name].impressions for counts in self.told.values()
            )
            for relation in self.settings.relations
        }
        edges = numbered(
            self._kept(),
            self.spark.read.schema(_NUMBERS).parquet(str(self.scratch / "numbers.parquet")),
        )
        first, place = 0, F.lit(None)
        for name, sizes in graph.relations.items():
            files = files_for(sizes.edges)
            within = floor_div(F.col("left").cast("long") * files, max(sizes.left_nodes, 1))
            place = F.when(F.col("relation") == name, within + first).otherwise(place)
            first += files
        write_placed(
            described(edges, self.settings, graph.prior, totals),
            self.out / EDGES,
            "relation",
            _ENDS,
            place,
            first,
        )
        for relation in self.settings.relations:
            if not edges_folder(self.out, relation.name).is_dir():
                empty_relation(self.out, relation.name)

    def _fields_of(self, ends: pa.Table) -> pa.Array:
        """The field of each end: what its relation has on its side."""
        fields = {
            (r.name, side): getattr(r, side) for r in self.settings.relations for side in _ENDS
        }
        key = pc.binary_join_element_wise(ends["relation"], ends["side"], "/")
        field = pa.array(fields.values(), pa.string())
        return field.take(
            pc.index_in(key, pa.array("/".join(pair) for pair in fields)).combine_chunks()
        )

    def _sizes(self, relation: Relation, sizes: Mapping[str, int]) -> RelationGraph:
        found = _extent(self._found(relation))
        kept = _extent(self._kept_folder(relation))
        left_nodes, right_nodes = (sizes.get(field, 0) for field in (relation.left, relation.right))
        capped_away = (found[0] - kept[0], found[1] - kept[1])
        return RelationGraph(
            relation.left, relation.right, kept[0], left_nodes, right_nodes, *capped_away
        )

    def _counts(self) -> DataFrame:
        return day_counts(self.spark, self.settings.relations, self.days)

    def _kept(self) -> DataFrame:
        """The edges that the graph keeps: those found, or of them those that the cap leaves."""
        found = self.spark.read.schema(_EDGES).parquet(str(self.scratch / "found"))
        thinned = [
            relation.name
            for relation in self.settings.relations
            if self._thinned(relation).exists()
        ]
        if not thinned:
            return found
        left = self.spark.read.schema(_EDGES).parquet(str(self.scratch / "thinned"))
        return found.where(~F.col("relation").isin(*thinned)).unionByName(left)

    def _kept_folder(self, relation: Relation) -> Path:
        thinned = self._thinned(relation)
        return thinned if thinned.exists() else self._found(relation)

    def _found(self, relation: Relation) -> Path:
        return self.scratch / "found" / f"relation={relation.name}"

    def _thinned(self, relation: Relation) -> Path:
        return self.scratch / "thinned" / f"relation={relation.name}"


def _extent(folder: Path) -> tuple[int, int]:
    """Edges below a folder, and the sum of their impressions."""
    tables = [
        pq.read_table(path, columns=["impressions"])
        for path in sorted(folder.glob("part-*.parquet"))
    ]
    return sum(table.num_rows for table in tables), sum(
        int(table["impressions"].to_numpy().sum()) for table in tables
    )
