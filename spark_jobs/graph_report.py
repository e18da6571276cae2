"""Reports of a graph's written edges: each node's slice of the edges, degrees, weights and hubs.

Nodes are numbers by then, so that one pass over the files and NumPy's `bincount` give all reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.plotting import COLOURS, figure_file, plain_axes
from spark_jobs.files import table_of
from spark_jobs.graph_files import NODES, GraphManifest, RelationGraph, edges_folder

Integers = NDArray[np.int64]
DegreeRow = tuple[str, str, int, int, int, int]

HUBS = 20
"""Nodes with the most edges that `hubs.parquet` lists, for each relation and side."""

_DEGREES = pa.schema({
    "relation": pa.string(), "side": pa.string(), "at_least": pa.int64(), "nodes": pa.int64(),
    "edges": pa.int64(), "impressions": pa.int64(),
})  # fmt: skip
_WEIGHTS = pa.schema({
    "relation": pa.string(), "at_least": pa.int64(), "edges": pa.int64(), "impressions": pa.int64(),
})  # fmt: skip
_HUBS = pa.schema({
    "relation": pa.string(), "side": pa.string(), "field": pa.string(), "token": pa.string(),
    "degree": pa.int64(), "impressions": pa.int64(),
})  # fmt: skip
_POWERS = 64
_STYLES = {"left": "-", "right": "--"}


@dataclass(frozen=True)
class _RelationSums:
    """Edges and impressions of a relation.

    By side and node, and by the power of two of an edge's impressions.
    """

    degrees: Mapping[str, Integers]
    weights: Mapping[str, Integers]
    edges_by_power: Integers
    impressions_by_power: Integers


def write_reports(out: Path, graph: GraphManifest) -> None:
    """Write `offsets/`, `degrees`, `weights` and `hubs.parquet`, and `plots/degrees.png`."""
    (out / "offsets").mkdir()
    degrees: list[DegreeRow] = []
    weights: list[tuple[str, int, int, int]] = []
    hubs: list[tuple[str, str, str, str, int, int]] = []
    for name, relation in graph.relations.items():
        sums = _sums(edges_folder(out, name), relation)
        offsets = pa.array(np.append(0, np.cumsum(sums.degrees["left"])), pa.int64())
        path = out / "offsets" / f"relation={name}.parquet"
        pq.write_table(pa.table({"offset": offsets}), path)
        degrees.extend(_degree_rows(name, sums))
        by_power = zip(
            sums.edges_by_power.tolist(), sums.impressions_by_power.tolist(), strict=True
        )
        weights.extend(
            (name, 1 << k, edges, shown) for k, (edges, shown) in enumerate(by_power) if edges
        )
        hubs.extend(_hub_rows(name, relation, sums, out / NODES))
    pq.write_table(table_of(degrees, _DEGREES), out / "degrees.parquet")
    pq.write_table(table_of(weights, _WEIGHTS), out / "weights.parquet")
    pq.write_table(table_of(hubs, _HUBS), out / "hubs.parquet")
    _plot_degrees(degrees, out / "plots" / "degrees.png")


def _sums(folder: Path, relation: RelationGraph) -> _RelationSums:
    sizes = {"left": relation.left_nodes, "right": relation.right_nodes}
    degrees = {side: np.zeros(size, np.int64) for side, size in sizes.items()}
    weights = {side: np.zeros(size, np.int64) for side, size in sizes.items()}
    edges, impressions = np.zeros(_POWERS, np.int64), np.zeros(_POWERS, np.int64)
    for path in sorted(folder.glob("part-*.parquet")):
        table = pq.read_table(path, columns=["left", "right", "impressions"])
        shown = table["impressions"].to_numpy()
        for side, size in sizes.items():
            node = table[side].to_numpy()
            degrees[side] += np.bincount(node, minlength=size)
            weights[side] += _summed(node, shown, size)
        edges += np.bincount(_power(shown), minlength=_POWERS)
        impressions += _summed(_power(shown), shown, _POWERS)
    return _RelationSums(degrees, weights, edges, impressions)


def _power(counts: Integers) -> Integers:
    """Return the k of each count with 2^k <= count < 2^(k+1)."""
    return np.frexp(counts.astype(np.float64))[1].astype(np.int64) - 1


def _summed(group: NDArray[np.integer], value: Integers, size: int) -> Integers:
    # `bincount` sums in float64, which is exact: the sums stay below 2^53.
    return np.bincount(group, weights=value, minlength=size).astype(np.int64)


def _degree_rows(name: str, sums: _RelationSums) -> Iterator[DegreeRow]:
    for side, degree in sums.degrees.items():
        present = degree > 0
        power, weight = _power(degree[present]), sums.weights[side][present]
        nodes, edges = np.bincount(power), _summed(power, degree[present], 0)
        impressions = _summed(power, weight, 0)
        for k in np.flatnonzero(nodes).tolist():
            yield name, side, 1 << k, int(nodes[k]), int(edges[k]), int(impressions[k])


def _hub_rows(
    name: str, relation: RelationGraph, sums: _RelationSums, nodes: Path
) -> Iterator[tuple[str, str, str, str, int, int]]:
    for side, field in (("left", relation.left), ("right", relation.right)):
        degree, weight = sums.degrees[side], sums.weights[side]
        # By descending degree; of equal degrees the smaller number first.
        largest = np.lexsort((np.arange(len(degree)), -degree))[:HUBS].tolist()
        wanted = (pc.field("field") == field) & pc.field("node").isin(largest)
        table = pq.read_table(nodes, columns=["node", "token"], filters=wanted)
        tokens = dict(zip(table["node"].to_pylist(), table["token"].to_pylist(), strict=True))
        for node in largest:
            if degree[node] > 0:
                yield name, side, field, tokens[node], int(degree[node]), int(weight[node])


def _plot_degrees(rows: list[DegreeRow], path: Path) -> None:
    """Plot nodes by the power of two of their degree, a line per relation and side."""
    lines: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for relation, side, at_least, nodes, _, _ in rows:
        lines.setdefault((relation, side), []).append((at_least, nodes))
    names = list(dict.fromkeys(name for name, _ in lines))
    with figure_file(path, (7, 4.5)) as figure:
        axes = plain_axes(figure)
        for (name, side), points in lines.items():
            colour, label = COLOURS[names.index(name) % len(COLOURS)], f"{name}, {side}"
            x, y = zip(*points, strict=True)
            axes.plot(x, y, _STYLES[side], marker="o", ms=3, color=colour, label=label)
        axes.set(xscale="log", yscale="log", xlabel="edges of a node, at least", ylabel="nodes")
        axes.set_title("How many edges a node has" if lines else "No edges", loc="left")
        if lines:
            axes.legend(frameon=False, fontsize=8)
