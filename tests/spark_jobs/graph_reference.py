"""The cross graph by a self-join of records' tokens in pandas: independent of Spark, and slow."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from features.schema import Relation
from spark_jobs.graph_files import read_graph
from spark_jobs.settings import GraphSettings

EDGE = ["relation", "left", "right"]
FLOATS = ["ctr", "logit", "pmi", "log_count"]


def reference(long: pd.DataFrame, settings: GraphSettings, prior: float) -> pd.DataFrame:
    """Edges by token, with all figures; `long` has `field, value, label, record` of all days."""
    parts = [_edges(long, relation, settings.smoothing, prior) for relation in settings.relations]
    edges = pd.concat(parts)
    return edges[edges.impressions >= settings.min_impressions].set_index(EDGE).sort_index()


def _edges(long: pd.DataFrame, relation: Relation, smoothing: float, prior: float) -> pd.DataFrame:
    left, right = (
        long[(long.field == name) & (long.value != "")] for name in (relation.left, relation.right)
    )
    pairs = left.merge(right, on="record", suffixes=("_l", "_r"))
    counts = (
        pairs.groupby(["value_l", "value_r"])
        .agg(impressions=("label_l", "size"), clicks=("label_l", "sum"))
        .reset_index()
    )
    ctr = (counts.clicks + smoothing * prior) / (counts.impressions + smoothing)
    rate = ctr.clip(1e-6, 1 - 1e-6)
    n_left, n_right = (
        counts.groupby(f"value_{side}").impressions.transform("sum") for side in "lr"
    )
    return counts.rename(columns={"value_l": "left", "value_r": "right"}).assign(
        relation=relation.name,
        ctr=ctr,
        logit=np.log(rate / (1 - rate)),
        pmi=np.log(counts.impressions * counts.impressions.sum() / (n_left * n_right)),
        log_count=np.log1p(counts.impressions),
    )


def read_edges(folder: Path) -> pd.DataFrame:
    """A graph's edges by token, as `reference` gives them. Checks the layout of the files."""
    graph = read_graph(folder)
    nodes = pd.read_parquet(folder / "nodes.parquet")
    _check_nodes(nodes)
    tokens = {field: part.token.to_numpy() for field, part in nodes.groupby("field")}
    parts, degree = [], pd.Series(0, index=nodes.set_index(["field", "token"]).index)
    for name, relation in graph.relations.items():
        edges = _numbered(folder, name)
        _check_order(edges, folder, name, relation)
        ends = {
            side: tokens.get(getattr(relation, side), np.array([], object))[edges[side]]
            for side in ("left", "right")
        }
        parts.append(edges.assign(relation=name, **ends))
        for side, field in (("left", relation.left), ("right", relation.right)):
            counted = parts[-1].groupby(side).size()
            counted.index = pd.MultiIndex.from_product(
                [[field], counted.index], names=["field", "token"]
            )
            degree = degree.add(counted, fill_value=0)
    assert (
        nodes.degree.tolist()
        == degree.reindex(nodes.set_index(["field", "token"]).index).astype(int).tolist()
    )
    return pd.concat(parts).set_index(EDGE).sort_index()


def _check_nodes(nodes: pd.DataFrame) -> None:
    assert list(nodes.columns) == ["field", "node", "token", "impressions", "clicks", "degree"]
    assert str(nodes.node.dtype) == "int32"
    assert nodes.field.is_monotonic_increasing
    for _, part in nodes.groupby("field"):
        assert part.node.tolist() == list(range(len(part)))
        in_bytes = [token.encode() for token in part.token]
        assert in_bytes == sorted(set(in_bytes))


def _numbered(folder: Path, name: str) -> pd.DataFrame:
    files = sorted((folder / "edges" / f"relation={name}").glob("part-*.parquet"))
    tables = [pq.read_table(path) for path in files]
    types = {field.name: str(field.type) for field in tables[0].schema}
    assert types == {
        **dict.fromkeys(("left", "right"), "int32"),
        **dict.fromkeys(("impressions", "clicks"), "int64"),
        **dict.fromkeys(FLOATS, "double"),
    }
    return pd.concat([table.to_pandas() for table in tables], ignore_index=True)


def _check_order(edges, folder, name, relation) -> None:
    keys = list(zip(edges.left, edges.right, strict=True))
    assert keys == sorted(set(keys))
    offsets = pq.read_table(folder / "offsets" / f"relation={name}.parquet")["offset"]
    assert (len(offsets), str(offsets.type)) == (relation.left_nodes + 1, "int64")
    expected = np.searchsorted(edges.left.to_numpy(), np.arange(relation.left_nodes + 1))
    assert offsets.to_numpy().tolist() == expected.tolist()
    assert relation.edges == len(edges)
