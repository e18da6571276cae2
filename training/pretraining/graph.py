"""The cross graph as arrays: nodes, edges, neighbour lists, and samples of neighbours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
from training.pretraining import kernels

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]
EdgeMasks = Mapping[str, NDArray[np.bool_]]
"""By relation, a selection of its edges, bool [E]."""

STATISTICS = ("logit", "pmi", "log_count")
_EDGE_COLUMNS = ("left", "right", "impressions", *STATISTICS)


@dataclass(frozen=True)
class RelationEdges:
    """The edges of one relation, sorted by left node and then right node.

    Attributes:
        relation: its two fields.
        left: int32 [E], node numbers of the left field.
        right: int32 [E], of the right field.
        impressions: int64 [E].
        statistics: by name (`STATISTICS`), float64 [E].
    """

    relation: Relation
    left: Ints
    right: Ints
    impressions: NDArray[np.int64]
    statistics: Mapping[str, Floats]

    def __len__(self) -> int:
        return len(self.left)


@dataclass(frozen=True)
class CrossGraph:
    """A cross graph.

    Attributes:
        keys: by field, int64 [N], the key of each node: `features.fingerprint.keys` of the field's
            name and the node's token.
        edges: by relation name.
        first_day: first day or hour that the graph counts; None if it counts none.
        last_day: the last one.
        days: how many days or hours it counts.
        hours: their total length.
    """

    keys: Mapping[str, NDArray[np.int64]]
    edges: Mapping[str, RelationEdges]
    first_day: Partition | None
    last_day: Partition | None
    days: int
    hours: int

    def sides(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the keys of a relation's left and right nodes, int64 [N] and [M]."""
        relation = self.edges[name].relation
        return self.keys[relation.left], self.keys[relation.right]


@dataclass(frozen=True)
class NeighbourLists:
    """One side of a relation: the neighbours of each of its nodes.

    Attributes:
        relation: its name.
        field: of the nodes.
        other: the field of the neighbours.
        offsets: int64 [N + 1].
        ends: int32 [E], the neighbours of node n from offsets[n] to offsets[n + 1].
    """

    relation: str
    field: str
    other: str
    offsets: NDArray[np.int64]
    ends: Ints


@dataclass(frozen=True)
class Adjacency:
    """Neighbour lists of every field.

    Attributes:
        nodes: number of nodes by field.
        slots: by field, a slot for each relation side it is on, in the order of the relations'
            names; a relation's left side comes first.
    """

    nodes: Mapping[str, int]
    slots: Mapping[str, tuple[NeighbourLists, ...]]

    @classmethod
    def of(cls, graph: CrossGraph, chosen: EdgeMasks | None = None) -> Adjacency:
        """Build the lists of the chosen edges, by default of all."""
        slots: dict[str, list[NeighbourLists]] = {field: [] for field in graph.keys}
        for name, edges in graph.edges.items():
            kept = slice(None) if chosen is None else chosen[name]
            left, right, relation = edges.left[kept], edges.right[kept], edges.relation
            lefts, rights = map(len, graph.sides(name))
            # Edges are sorted by left node, so the left lists are ranges of the edges themselves.
            offsets = np.searchsorted(left, np.arange(lefts + 1)).astype(np.int64)
            slots[relation.left].append(
                NeighbourLists(name, relation.left, relation.right, offsets, right)
            )
            slots[relation.right].append(
                NeighbourLists(
                    name, relation.right, relation.left, *kernels.reverse(left, right, rights)
                )
            )
        nodes = {field: len(keys) for field, keys in graph.keys.items()}
        return cls(nodes, {field: tuple(lists) for field, lists in slots.items()})


@dataclass(frozen=True)
class SampledNeighbours:
    """Neighbours of a slot's targets: the first counts[t] of numbers[t] are in use.

    `numbers` int32 [T, fanout] point into the nodes of the layer below; `counts` are int32 [T].
    """

    numbers: Ints
    counts: Ints


@dataclass(frozen=True)
class SampledBlock:
    """What one batch of edges of one relation reads.

    Attributes:
        left: int32 [b], for each edge the number of its left node among the targets of its field.
        right: int32 [b], the same for its right node.
        nodes: for each layer, from the output down to the vectors, the nodes int32 [n] by field.
            The nodes of a layer are the first ones of the layer below.
        drawn: for each layer, from the output down, what each slot of a field drew.
    """

    left: Ints
    right: Ints
    nodes: Sequence[Mapping[str, Ints]]
    drawn: Sequence[Mapping[str, tuple[SampledNeighbours, ...]]]


class Sampler:
    """Draws blocks of sampled neighbours. Only one thread may use it at a time.

    Args:
        adjacency: whose edges are drawn.
        fanouts: most neighbours of a node in each layer, the layer next to the output first.
    """

    def __init__(self, adjacency: Adjacency, fanouts: Sequence[int]) -> None:
        self._adjacency, self._fanouts = adjacency, fanouts
        # One entry per node, kept from block to block: allocating them takes longer than a block.
        self._places = {f: np.zeros(count, np.int32) for f, count in adjacency.nodes.items()}

    def block(self, fields: tuple[str, str], left: Ints, right: Ints, seed: int) -> SampledBlock:
        """Return the block of edges between nodes int32 [b] of a left and a right field.

        The same seed draws the same neighbours.
        """
        state = np.array([seed], np.uint64)
        # Fields are visited in the order in which they are found: it decides what is drawn.
        found: dict[str, _FoundNodes] = {}

        def nodes_of(field: str) -> _FoundNodes:
            return found.setdefault(field, _FoundNodes(self._places[field]))

        # 1. Number the ends of the edges: the targets of the highest layer.
        left_numbers = nodes_of(fields[0]).number(left)
        right_numbers = nodes_of(fields[1]).number(right)
        layers = [{field: each.nodes() for field, each in found.items()}]

        # 2. Draw the neighbours of each layer's nodes. Together they are the layer below.
        drawn = []
        for fanout in self._fanouts:
            level = {}
            for field, nodes in layers[-1].items():
                slots = self._adjacency.slots[field]
                each_slot = (nodes_of(s.other).draw(s, nodes, fanout, state) for s in slots)
                level[field] = tuple(each_slot)
            drawn.append(level)
            layers.append({field: each.nodes() for field, each in found.items()})
        for each in found.values():  # the arrays of places serve the next block
            each.clear()
        return SampledBlock(left_numbers, right_numbers, layers, drawn)


class _FoundNodes:
    """The nodes of one field in a block, numbered in the order in which they are found."""

    def __init__(self, places: Ints) -> None:
        self._places, self._found, self._count = places, np.empty(0, np.int32), 0

    def nodes(self) -> Ints:
        return self._found[: self._count].copy()

    def number(self, nodes: Ints) -> Ints:
        self._reserve(len(nodes))
        numbers, self._count = kernels.number_nodes(nodes, self._places, self._found, self._count)
        return numbers

    def draw(
        self, slot: NeighbourLists, targets: Ints, fanout: int, state: NDArray[np.uint64]
    ) -> SampledNeighbours:
        self._reserve(len(targets) * fanout)
        known = (self._places, self._found, self._count)
        numbers, counts, self._count = kernels.sample_neighbours(
            slot.offsets, slot.ends, targets, fanout, state, *known
        )
        return SampledNeighbours(numbers, counts)

    def clear(self) -> None:
        kernels.clear_numbers(self._places, self._found, self._count)

    def _reserve(self, more: int) -> None:
        """Make room for more nodes; there are never more than the field has."""
        wanted = min(self._count + more, len(self._places))
        if wanted > len(self._found):
            grown = np.empty(wanted, np.int32)
            grown[: self._count] = self._found[: self._count]
            self._found = grown


def read_graph(folder: Path) -> CrossGraph:
    """Read a `cross_graph` artifact.

    Raises:
        InputError: a file or a column is missing, a file is damaged, an edge names a node that does
            not exist, or a statistic is not finite. The message names the file.
    """
    manifest = _read_manifest(folder / "graph.json")
    # Sorted, because the slots of a field are in the order of the relations' names.
    relations = dict(sorted(manifest["relations"].items()))
    fields = sorted({field for each in relations.values() for field in (each.left, each.right)})
    # A field without nodes has no row in the file, but needs an entry.
    keys = dict.fromkeys(fields, np.empty(0, np.int64)) | _read_keys(folder / "nodes.parquet")
    edges = {name: _read_edges(folder, name, each, keys) for name, each in relations.items()}
    times = (manifest[name] for name in ("first_day", "last_day", "days", "hours"))
    return CrossGraph(keys, edges, *times)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for name in ("first_day", "last_day"):
            manifest[name] = parse_partition(manifest[name]) if manifest[name] else None
        for name in ("days", "hours"):
            manifest[name] = int(manifest[name])
        manifest["relations"] = {
            name: Relation(left=sides["left"], right=sides["right"])
            for name, sides in manifest["relations"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError) as error:
        raise _unreadable(path, error) from error
    return manifest


def _unreadable(path: Path, error: object) -> InputError:
    return InputError(
        f"{path}: cannot read the graph ({error}); run `elastic-ctr cross-graph` again"
    )


def _read_keys(path: Path) -> dict[str, NDArray[np.int64]]:
    table = _read_parquet([path], ("field", "node", "token"))
    fields, nodes = table["field"].to_numpy(zero_copy_only=False), table["node"].to_numpy()
    tokens = table["token"].combine_chunks()
    starts = np.flatnonzero(fields[1:] != fields[:-1]) + 1
    bounds = [0, *starts, len(fields)] if len(fields) else []
    keys: dict[str, NDArray[np.int64]] = {}
    for first, stop in pairwise(bounds):
        field = str(fields[first])
        if field in keys or not np.array_equal(nodes[first:stop], np.arange(stop - first)):
            raise _unreadable(path, f"the nodes of {field} are not in order, numbered from 0")
        keys[field] = fingerprint.keys(field, tokens.slice(first, stop - first))
    return keys


def _read_edges(
    folder: Path, name: str, relation: Relation, keys: Mapping[str, NDArray[np.int64]]
) -> RelationEdges:
    path = folder / "edges" / f"relation={name}"
    files = sorted(path.glob("part-*.parquet"))
    empty = pa.table({column: np.empty(0) for column in _EDGE_COLUMNS})
    table = _read_parquet(files, _EDGE_COLUMNS) if files else empty
    left, right = (table[side].to_numpy().astype(np.int32) for side in ("left", "right"))
    for side, field, nodes in (("left", relation.left, left), ("right", relation.right, right)):
        count = len(keys[field])
        if len(nodes) and not 0 <= nodes.min() <= nodes.max() < count:
            raise _unreadable(path, f"a {side} node is not among the {count} nodes of {field}")
    # `Adjacency.of` finds each left node's edges by a binary search.
    if np.any(np.diff(left) < 0):
        raise _unreadable(path, "the edges are not sorted by their left node")
    statistics = {column: table[column].to_numpy().astype(np.float64) for column in STATISTICS}
    if wrong := [column for column, values in statistics.items() if not np.isfinite(values).all()]:
        raise _unreadable(path, f"{', '.join(wrong)} holds values that are not finite")
    impressions = table["impressions"].to_numpy().astype(np.int64)
    return RelationEdges(relation, left, right, impressions, statistics)


def _read_parquet(files: list[Path], columns: tuple[str, ...]) -> pa.Table:
    tables = []
    for file in files:
        try:
            # `read` ignores a missing column; `select` raises KeyError, and sets the order.
            tables.append(pq.ParquetFile(file).read(columns=list(columns)).select(list(columns)))
        except (OSError, KeyError, pa.ArrowInvalid) as error:
            raise _unreadable(file, error) from error
    try:
        return pa.concat_tables(tables).combine_chunks()
    except pa.ArrowInvalid as error:
        raise _unreadable(files[0].parent, error) from error
