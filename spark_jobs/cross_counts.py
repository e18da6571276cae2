"""A day's edges as counts: how often, and how often clicked, were two fields' values shown together on that day alone.

Graphs of later days merge these partials, so that no day's impressions are read twice. Nulls make no edge.

A value that every row has does not break the shuffle: the keys are pairs, and each task sums what it has read before
anything leaves it, so the value's rows arrive spread over the reducers, once for each task and partner at most.
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
from spark_jobs.graph_files import EDGES, Counts, RelationCounts, edges_folder, meaning

_ENDS, _SUMS = ("left", "right"), ("impressions", "clicks")
_NO_EDGES = pa.schema(
    [(name, pa.string()) for name in _ENDS] + [(name, pa.int64()) for name in _SUMS]
).empty_table()


def cross_counts(
    spark: SparkSession, schema: Schema, partition: Path, relations: Sequence[Relation], out: Path
) -> dict[str, float]:
    """Write `edges/relation=<name>/part-*.parquet` and `counts.json` of a day into `out`.

    Args:
        spark: the session.
        schema: names the fields.
        partition: the day's committed `impressions` artifact.
        relations: pairs of id fields; multi-valued ones make an edge for every pair of values of a record.
        out: an existing folder.

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
    with fitted(spark, small=small):
        records = spark.read.parquet(str(source))
        together = [] if small else [each for each in relations if _is_countable(schema, each)]
        if together:
            _write_together(spark, schema, source, together, impressions, out)
        for relation in relations:
            if relation not in together:
                edges = _edges(records, schema, relation)
                write_grouped(edges, edges_folder(out, relation.name), _ENDS, impressions)
    told = {relation.name: _told(out, schema, relation) for relation in relations}
    Counts(impressions, clicks, told).write(out)
    by_relation = {f"edges:{name}": float(counts.edges) for name, counts in told.items()}
    return {
        "impressions": float(impressions),
        "clicks": float(clicks),
        "edges": sum(by_relation.values()),
        **by_relation,
    }


def require_fields(schema: Schema, relations: Sequence[Relation]) -> None:
    """Refuse relations of fields that have no ids; raises InputError naming them and what there is."""
    known = {field.name for field in schema.key_fields()}
    unknown = sorted(
        {name for relation in relations for name in (relation.left, relation.right)} - known
    )
    if unknown:
        choice = f"choose among {sorted(known)}"
        raise InputError(
            f"the graph's relations name {unknown}, which are no id fields of the schema: {choice}"
        )


def _edges(records: DataFrame, schema: Schema, relation: Relation) -> DataFrame:
    ends = {"left": schema.field(relation.left), "right": schema.field(relation.right)}
    return counted(records, schema, ends, SHOWN).where(
        (F.col("left") != NULL) & (F.col("right") != NULL)
    )


def _is_countable(schema: Schema, relation: Relation) -> bool:
    return all(is_countable(schema, schema.field(name)) for name in (relation.left, relation.right))


def _write_together(
    spark: SparkSession,
    schema: Schema,
    source: Path,
    relations: Sequence[Relation],
    impressions: int,
    out: Path,
) -> None:
    """Write the edges of relations by one query, counted by Arrow; the folder of all relations is replaced."""
    parts = edge_parts(spark, source, schema, relations)
    counts = parts.counts if parts.complete else merged(parts.counts, ("number", *_ENDS), SHOWN)
    name = F.element_at(
        F.array(*(F.lit(relation.name) for relation in relations)), F.col("number") + 1
    )
    write_grouped(
        counts.select(name.alias("relation"), *_ENDS, *_SUMS),
        out / EDGES,
        _ENDS,
        impressions,
        by="relation",
    )
    for relation in relations:
        folder = edges_folder(out, relation.name)
        if not folder.exists():
            folder.mkdir()
            pq.write_table(_NO_EDGES, folder / "part-00000.parquet")


def _told(out: Path, schema: Schema, relation: Relation) -> RelationCounts:
    files = sorted(edges_folder(out, relation.name).glob("part-*.parquet"))
    shown = (
        pc.sum(pq.read_table(path, columns=["impressions"])["impressions"]).as_py() or 0
        for path in files
    )
    return RelationCounts(
        meaning(schema, relation),
        sum(pq.read_metadata(path).num_rows for path in files),
        sum(shown),
    )
