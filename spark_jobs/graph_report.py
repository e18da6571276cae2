"""What follows from a graph's written edges: where each node's edges lie, and how degrees and weights are distributed.

Nodes are numbers by then, so one pass over the files and NumPy's `bincount` tell all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spark_jobs.graph_files import (
    EDGE_COLUMNS,
    NODE_COLUMNS,
    NODES,
    Graph,
    RelationGraph,
    edges_folder,
)
from spark_jobs.graph_plot import plot_degrees

Counts = NDArray[np.int64]

HUBS = 20
"""Nodes of most edges that `hubs.parquet` names, for each relation and side."""

_DEGREES = pa.schema(
    [("relation", pa.string()), ("side", pa.string())]
    + [(name, pa.int64()) for name in ("at_least", "nodes", "edges", "impressions")]
)
_WEIGHTS = pa.schema(
    [("relation", pa.string())]
    + [(name, pa.int64()) for name in ("at_least", "edges", "impressions")]
)
_HUBS = pa.schema(
    [(name, pa.string()) for name in ("relation", "side", "field", "token")]
    + [(name, pa.int64()) for name in ("degree", "impressions")]
)


@dataclass(frozen=True)
class _Tally:
    """One relation: edges and impressions by left and by right node, and by the power of two of an edge's impressions."""

    degrees: Mapping[str, Counts]
    weights: Mapping[str, Counts]
    edges_by_power: Counts
    impressions_by_power: Counts


def empty_edges(out: Path, graph: Graph) -> None:
    """Write the nodes and edges of a graph that has none."""
    pq.write_table(NODE_COLUMNS.empty_table(), out / NODES)
    for name in graph.relations:
        empty_relation(out, name)


def empty_relation(out: Path, name: str) -> None:
    """Write the edges of a relation that has none."""
    folder = edges_folder(out, name)
    folder.mkdir(parents=True)
    pq.write_table(EDGE_COLUMNS.empty_table(), folder / "part-00000.parquet")


def report(out: Path, graph: Graph) -> None:
    """Write `offsets/`, `degrees.parquet`, `weights.parquet`, `hubs.parquet` and `plots/degrees.png` beside written edges."""
    tallies = {
        name: _tally(edges_folder(out, name), relation)
        for name, relation in graph.relations.items()
    }
    (out / "offsets").mkdir()
    for name, tally in tallies.items():
        offsets = np.append(0, np.cumsum(tally.degrees["left"]))
        pq.write_table(
            pa.table({"offset": pa.array(offsets, pa.int64())}),
            out / "offsets" / f"relation={name}.parquet",
        )
    degrees = [row for name, tally in tallies.items() for row in _degree_rows(name, tally)]
    _write(out / "degrees.parquet", _DEGREES, degrees)
    _write(
        out / "weights.parquet",
        _WEIGHTS,
        [row for name, tally in tallies.items() for row in _weight_rows(name, tally)],
    )
    hubs = [
        row
        for name, tally in tallies.items()
        for row in _hub_rows(name, graph.relations[name], tally, out / NODES)
    ]
    _write(out / "hubs.parquet", _HUBS, hubs)
    plot_degrees(degrees, out / "plots" / "degrees.png")


def _tally(folder: Path, relation: RelationGraph) -> _Tally:
    sizes = {"left": relation.left_nodes, "right": relation.right_nodes}
    degrees, weights = (
        {side: np.zeros(size, np.int64) for side, size in sizes.items()} for _ in range(2)
    )
    edges, impressions = np.zeros(64, np.int64), np.zeros(64, np.int64)
    for path in sorted(folder.glob("part-*.parquet")):
        table = pq.read_table(path, columns=["left", "right", "impressions"])
        shown = table["impressions"].to_numpy()
        for side, size in sizes.items():
            node = table[side].to_numpy()
            degrees[side] += np.bincount(node, minlength=size)
            weights[side] += _summed(node, shown, size)
        edges += np.bincount(_power(shown), minlength=64)
        impressions += _summed(_power(shown), shown, 64)
    return _Tally(degrees, weights, edges, impressions)


def _power(counts: Counts) -> Counts:
    """The k of each count, 2^k being the largest power of two that is not above it."""
    return np.frexp(counts.astype(np.float64))[1].astype(np.int64) - 1


def _summed(group: NDArray[np.integer], value: Counts, size: int) -> Counts:
    """Sums by group; exact, as sums stay below 2^53."""
    return np.bincount(group, weights=value, minlength=size).astype(np.int64)


def _degree_rows(name: str, tally: _Tally) -> Iterator[tuple[str, str, int, int, int, int]]:
    for side, degree in tally.degrees.items():
        present = degree > 0
        power, weight = _power(degree[present]), tally.weights[side][present]
        nodes, edges, impressions = (
            np.bincount(power),
            _summed(power, degree[present], 0),
            _summed(power, weight, 0),
        )
        for k in np.flatnonzero(nodes):
            yield name, side, 1 << int(k), int(nodes[k]), int(edges[k]), int(impressions[k])


def _weight_rows(name: str, tally: _Tally) -> Iterator[tuple[str, int, int, int]]:
    for k in np.flatnonzero(tally.edges_by_power):
        yield name, 1 << int(k), int(tally.edges_by_power[k]), int(tally.impressions_by_power[k])


def _hub_rows(
    name: str, relation: RelationGraph, tally: _Tally, nodes: Path
) -> Iterator[tuple[str, str, str, str, int, int]]:
    for side, field in (("left", relation.left), ("right", relation.right)):
        degree = tally.degrees[side]
        largest = np.lexsort((np.arange(len(degree)), -degree))[:HUBS]
        tokens = _tokens(nodes, field, largest)
        for node in largest[degree[largest] > 0].tolist():
            yield name, side, field, tokens[node], int(degree[node]), int(tally.weights[side][node])


def _tokens(nodes: Path, field: str, chosen: NDArray[np.integer]) -> dict[int, str]:
    wanted = (pc.field("field") == field) & pc.field("node").isin(chosen.tolist())
    table = pq.read_table(nodes, columns=["node", "token"], filters=wanted)
    return dict(zip(table["node"].to_pylist(), table["token"].to_pylist(), strict=True))


def _write(path: Path, schema: pa.Schema, rows: Sequence[tuple[str | int, ...]]) -> None:
    columns = zip(*rows, strict=True) if rows else [[] for _ in schema]
    pq.write_table(
        pa.table(
            [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema
        ),
        path,
    )
