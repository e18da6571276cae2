"""Edges of one day as counts: impressions and clicks in which two fields' values occur together.

Graphs of later days merge these counts, so that a day's impressions are read once. Nulls make no
edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from features.canonical import NULL
from features.errors import InputError
from features.schema import Relation, Schema
from spark_jobs.arrow_counts import edge_parts, is_countable
from spark_jobs.counting import SHOWN, counted, merged
from spark_jobs.files import are_small, fitted, write_grouped
from spark_jobs.graph_files import (
    EDGES,
    CountsManifest,
    RelationCounts,
    edge_totals,
    edges_folder,
    meaning,
    write_no_edges,
)

_ENDS, _SUMS = ("left", "right"), ("impressions", "clicks")
_COLUMNS = pa.schema({
    **dict.fromkeys(_ENDS, pa.string()), **dict.fromkeys(_SUMS, pa.int64()),
})  # fmt: skip


def cross_counts(
    spark: SparkSession, schema: Schema, partition: Path, relations: Sequence[Relation], out: Path
) -> dict[str, float]:
    """Write `edges/relation=<name>/part-*.parquet` and `counts.json` of a day into `out`.

    Args:
        partition: the day's committed `impressions` artifact.
        relations: pairs of id fields; multi-valued ones make an edge for every pair of values of a
            record.

    Returns:
        `impressions` and `clicks` of the day, `edges`, and `edges:<relation>` for each relation.

    Raises:
        InputError: a relation names a field that the schema does not have, or a dense one.
    """
    require_fields(schema, relations)
    source = partition / "impressions"
    label = pq.read_table(source, columns=["label"])["label"]
    impressions, clicks = len(label), pc.sum(label).as_py() or 0
    small = are_small([source])
    by_arrow = [
        each
        for each in relations
        if not small
        and all(is_countable(schema, schema.field(name)) for name in (each.left, each.right))
    ]
    with fitted(spark, small=small):
        # First those of Arrow: the folder of all relations is replaced.
        if by_arrow:
            edges = _edges_by_arrow(spark, schema, source, by_arrow)
            write_grouped(edges, out / EDGES, _ENDS, impressions, by="relation")
            for relation in by_arrow:
                write_no_edges(edges_folder(out, relation.name), _COLUMNS)
        records = spark.read.parquet(str(source))
        for relation in relations:
            if relation not in by_arrow:
                ends = {"left": schema.field(relation.left), "right": schema.field(relation.right)}
                # A value that every record has does not overload a reducer: the keys are pairs, and
                # each task sums what it has read before the shuffle.
                edges = counted(records, schema, ends, SHOWN)
                edges = edges.where((F.col("left") != NULL) & (F.col("right") != NULL))
                write_grouped(edges, edges_folder(out, relation.name), _ENDS, impressions)
    found = {
        each.name: RelationCounts(meaning(schema, each), *edge_totals(edges_folder(out, each.name)))
        for each in relations
    }
    CountsManifest(impressions, clicks, found).write(out)
    by_relation = {f"edges:{name}": float(counts.edges) for name, counts in found.items()}
    totals = {"impressions": float(impressions), "clicks": float(clicks)}
    return {**totals, "edges": sum(by_relation.values()), **by_relation}


def require_fields(schema: Schema, relations: Sequence[Relation]) -> None:
    """Check that the fields of relations have ids; raises InputError that names the others."""
    known = {field.name for field in schema.key_fields()}
    unknown = sorted({name for each in relations for name in (each.left, each.right)} - known)
    if unknown:
        raise InputError(
            f"the graph's relations name {unknown}, which are no id fields of the schema: choose"
            f" among {sorted(known)}"
        )


def _edges_by_arrow(
    spark: SparkSession, schema: Schema, source: Path, relations: Sequence[Relation]
) -> DataFrame:
    """Return the counted edges of all relations, as one query."""
    parts = edge_parts(spark, source, schema, relations)
    counts = parts.counts if parts.complete else merged(parts.counts, ("number", *_ENDS), SHOWN)
    names = F.array(*(F.lit(relation.name) for relation in relations))
    name = F.element_at(names, F.col("number") + 1).alias("relation")
    return counts.select(name, *_ENDS, *_SUMS)
