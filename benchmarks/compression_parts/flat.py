"""Partitions whose id fields are plain categorical ones, so that ids can be sent to few rows before anything is learned.

A declared cross becomes a column of its own, its token spelled out. Hashing rewrites the values themselves: the ordinary elastic
table then has as many rows as there are buckets, and a server needs no key for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.schema import Categorical, Cross, Schema

_OWN = ("record_id", "label", "timestamp_ms", "user", "item")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)

Column = NDArray[np.object_]
Rewrite = Callable[[str, Column], Mapping[str, Column]]
"""From a field's name and values to the columns that take its place."""


def flat_schema(schema: Schema) -> Schema:
    """Return the schema with crosses as categorical fields."""
    fields = tuple(Categorical(name=f.name) if isinstance(f, Cross) else f for f in schema.fields)
    return schema.model_copy(update={"fields": fields})


def flatten(
    partitions: Sequence[Path],
    schema: Schema,
    out: Path,
    share: Callable[[pa.Table], NDArray[np.bool_]] | None,
) -> Path:
    """Write several `impressions` artifacts as one, crosses spelled out; `share` tells which rows are kept. Done once."""
    target = out / "impressions"
    if not target.is_dir():
        tables = [
            _spelled(pq.read_table(partition / "impressions"), schema) for partition in partitions
        ]
        whole = pa.concat_tables([table.select(tables[0].column_names) for table in tables])
        _write(whole if share is None else whole.filter(pa.array(share(whole))), target)
    return out


def rewritten(partition: Path, names: Sequence[str], rewrite: Rewrite, out: Path) -> Path:
    """Write a partition with some fields' columns replaced. Done once."""
    target = out / "impressions"
    if not target.is_dir():
        table = pq.read_table(partition / "impressions")
        for name in names:
            columns = rewrite(name, table[name].to_numpy(zero_copy_only=False))
            table = table.drop_columns(name)
            for column, values in columns.items():
                table = table.append_column(column, pa.array(values, pa.string()))
        _write(table, target)
    return out


def distinct(partitions: Sequence[Path], names: Sequence[str]) -> dict[str, int]:
    """Return how many values each field has in all partitions together."""
    tables = pa.concat_tables(
        [pq.read_table(partition / "impressions", columns=list(names)) for partition in partitions]
    )
    return {name: pc.count_distinct(tables[name]).as_py() for name in names}


def codes(values: Column) -> NDArray[np.uint64]:
    """Return a hash of each value, uint64 [n], the same in every process."""
    import pandas as pd

    return pd.util.hash_array(values, categorize=True).astype(np.uint64)


def bucketed(values: Column, buckets: int) -> Column:
    """Return the bucket of each value, as text: the hashing trick."""
    return (codes(values) % np.uint64(buckets)).astype(str).astype(object)


def parts(values: Column, buckets: int) -> tuple[Column, Column]:
    """Return two hashes of each value, `buckets` each, that together tell most values apart: quotient and remainder of one hash.

    Shi et al. (KDD 2020) divide a dense index; ids of a stream have none, so a hash below buckets² is divided.
    """
    code = (codes(values) * _FACTOR) % np.uint64(buckets * buckets)
    remainder, quotient = code % np.uint64(buckets), code // np.uint64(buckets)
    return quotient.astype(str).astype(object), remainder.astype(str).astype(object)


def _spelled(table: pa.Table, schema: Schema) -> pa.Table:
    names = [*_OWN, *(field.name for field in schema.column_fields())]
    flat = table.select([name for name in names if name in table.column_names])
    for cross in (f for f in schema.fields if isinstance(f, Cross)):
        flat = flat.append_column(
            cross.name, pc.binary_join_element_wise(*(table[part] for part in cross.of), "|")
        )
    return flat


def _write(table: pa.Table, target: Path) -> None:
    unfinished = target.with_name("impressions.part")
    unfinished.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, unfinished / "part-00000.parquet")
    unfinished.rename(target)
