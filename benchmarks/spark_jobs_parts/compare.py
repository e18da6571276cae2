"""Are two ways of computing the same equal? Counts exactly, floats to 1e-9."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.schema import Relation

_TOLERANCE = 1e-9


class Unequal(Exception):
    """Two results differ; the message says where first."""


def require_equal(statistics: Path, graph: Path, duck: Path, relations: Iterable[Relation]) -> int:
    """Compare every table that both made, in order, and return how many records were compared.

    Raises:
        Unequal: naming the table and the column.
    """
    rows = 0
    for name, ours, theirs in _tables(statistics, graph, duck, relations):
        if ours.num_rows != theirs.num_rows:
            raise Unequal(
                f"{name}: {ours.num_rows:,} records of ours, {theirs.num_rows:,} of DuckDB's"
            )
        for column in theirs.column_names:
            _require_equal(f"{name}.{column}", ours[column], theirs[column])
        rows += ours.num_rows
    return rows


def _tables(
    statistics: Path, graph: Path, duck: Path, relations: Iterable[Relation]
) -> Iterator[tuple[str, pa.Table, pa.Table]]:
    for name in ("values", "histogram", "fields"):
        theirs = pq.read_table(duck / f"{name}.parquet")
        ours = pq.read_table(statistics / f"{name}.parquet")
        yield (
            name,
            ours,
            theirs.drop_columns(["impressions_of_values"]) if name == "fields" else theirs,
        )
    yield "nodes", pq.read_table(graph / "nodes.parquet"), pq.read_table(duck / "nodes.parquet")
    for relation in relations:
        parts = sorted((graph / "edges" / f"relation={relation.name}").glob("part-*.parquet"))
        ours = pa.concat_tables([pq.ParquetFile(path).read() for path in parts])
        yield relation.name, ours, pq.read_table(duck / f"{relation.name}.parquet")


def _require_equal(name: str, ours: pa.ChunkedArray, theirs: pa.ChunkedArray) -> None:
    if not pa.types.is_floating(theirs.type):
        if not ours.combine_chunks().equals(theirs.cast(ours.type).combine_chunks()):
            raise Unequal(f"{name}: not equal")
        return
    left, right = (
        column.to_numpy(zero_copy_only=False).astype(np.float64) for column in (ours, theirs)
    )
    if not np.allclose(left, right, rtol=0, atol=_TOLERANCE, equal_nan=True):
        raise Unequal(f"{name}: differs by up to {np.nanmax(np.abs(left - right)):.3g}")
