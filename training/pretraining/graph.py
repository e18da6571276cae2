"""The cross graph as arrays: nodes by field, edges by relation, as the `cross_graph` artifact holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features import fingerprint
from features.errors import InputError
from features.partition import Partition, parse_partition
from features.schema import Relation

Nodes = NDArray[np.int32]
Floats = NDArray[np.float64]

STATISTICS = ("logit", "pmi", "log_count")
_EDGE_COLUMNS = ("left", "right", "impressions", *STATISTICS)


@dataclass(frozen=True)
class Edges:
    """The edges of one relation, by left node and then right node.

    Attributes:
        relation: its two fields.
        left: int32 [E], numbers of nodes of the left field.
        right: int32 [E], of the right field.
        impressions: int64 [E].
        statistics: by name (`STATISTICS`), float64 [E].
    """

    relation: Relation
    left: Nodes
    right: Nodes
    impressions: NDArray[np.int64]
    statistics: Mapping[str, Floats]

    def __len__(self) -> int:
        return len(self.left)


@dataclass(frozen=True)
class Graph:
    """A cross graph.

    Attributes:
        keys: by field, int64 [N], the key of each node (`features.fingerprint.keys` of the field's name and the node's token).
        edges: by relation's name.
        first_day: of the impressions that it counts; None: of none.
        last_day: of them.
        days: how many days or hours it counts.
        hours: how long they are together.
    """

    keys: Mapping[str, NDArray[np.int64]]
    edges: Mapping[str, Edges]
    first_day: Partition | None
    last_day: Partition | None
    days: int
    hours: int

    def sides(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the keys of a relation's left and right nodes, int64 [N] and [M]."""
        relation = self.edges[name].relation
        return self.keys[relation.left], self.keys[relation.right]


def read_graph(folder: Path) -> Graph:
    """Read a `cross_graph` artifact.

    Raises:
        InputError: a file is missing or damaged, a column is missing, an edge names a node that is not there, or a statistic
            is not a finite number; the message names the file.
    """
    told = _told(folder / "graph.json")
    fields = sorted(
        {
            field
            for relation in told["relations"].values()
            for field in (relation.left, relation.right)
        }
    )
    keys = dict.fromkeys(fields, np.empty(0, np.int64)) | _keys(folder / "nodes.parquet")
    edges = {
        name: _edges(folder, name, relation, keys)
        for name, relation in sorted(told["relations"].items())
    }
    return Graph(keys, edges, told["first_day"], told["last_day"], told["days"], told["hours"])


def _told(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        days = {
            name: parse_partition(told[name]) if told[name] else None
            for name in ("first_day", "last_day")
        }
        relations = {
            name: Relation(left=about["left"], right=about["right"])
            for name, about in told["relations"].items()
        }
        return {
            **days,
            **{name: int(told[name]) for name in ("days", "hours")},
            "relations": relations,
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: object) -> InputError:
    return InputError(
        f"{path}: cannot read the graph ({error}); run `elastic-ctr cross-graph` again"
    )


def _keys(path: Path) -> dict[str, NDArray[np.int64]]:
    table = _read([path], ("field", "node", "token"))
    fields, nodes = table["field"].to_numpy(zero_copy_only=False), table["node"].to_numpy()
    tokens = table["token"].combine_chunks()
    bounds = (
        [0, *(np.flatnonzero(fields[1:] != fields[:-1]) + 1), len(fields)] if len(fields) else []
    )
    found: dict[str, NDArray[np.int64]] = {}
    for first, stop in pairwise(bounds):
        field = str(fields[first])
        if field in found or not np.array_equal(nodes[first:stop], np.arange(stop - first)):
            raise _unreadable(path, f"the nodes of {field} are not in order, numbered from 0")
        found[field] = fingerprint.keys(field, tokens.slice(first, stop - first))
    return found


def _edges(
    folder: Path, name: str, relation: Relation, keys: Mapping[str, NDArray[np.int64]]
) -> Edges:
    path = folder / "edges" / f"relation={name}"
    files = sorted(path.glob("part-*.parquet"))
    table = (
        _read(files, _EDGE_COLUMNS)
        if files
        else pa.table({column: np.empty(0) for column in _EDGE_COLUMNS})
    )
    left, right = (table[side].to_numpy().astype(np.int32) for side in ("left", "right"))
    for side, field, nodes in (("left", relation.left, left), ("right", relation.right, right)):
        if len(nodes) and not 0 <= nodes.min() <= nodes.max() < len(keys[field]):
            raise _unreadable(
                path, f"a {side} node is not among the {len(keys[field])} nodes of {field}"
            )
    if np.any(np.diff(left) < 0):
        raise _unreadable(path, "the edges are not sorted by their left node")
    statistics = {column: table[column].to_numpy().astype(np.float64) for column in STATISTICS}
    if odd := [column for column, values in statistics.items() if not np.isfinite(values).all()]:
        raise _unreadable(path, f"{', '.join(odd)} holds values that are not finite")
    return Edges(
        relation, left, right, table["impressions"].to_numpy().astype(np.int64), statistics
    )


def _read(files: list[Path], columns: tuple[str, ...]) -> pa.Table:
    tables = []
    for file in files:
        try:
            tables.append(pq.ParquetFile(file).read(columns=list(columns)).select(list(columns)))
        except (OSError, KeyError, pa.ArrowInvalid) as error:
            raise _unreadable(file, error) from error
    try:
        return pa.concat_tables(tables).combine_chunks()
    except pa.ArrowInvalid as error:
        raise _unreadable(files[0].parent, error) from error
