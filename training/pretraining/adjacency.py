"""Neighbour lists of both sides of every relation, and the blocks of sampled neighbours that a batch of edges needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.pretraining import kernels
from training.pretraining.graph import Graph

Ints = NDArray[np.int32]
Chosen = Mapping[str, NDArray[np.bool_]]
"""By relation, which of its edges are meant, bool [E]."""


@dataclass(frozen=True)
class Slot:
    """One side of a relation, as its nodes see it: who their neighbours are.

    Attributes:
        relation: its name.
        field: of the nodes.
        other: the field of their neighbours.
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
    """The slots of each field in the order of the relations' names, a relation's left side first."""

    nodes: Mapping[str, int]
    slots: Mapping[str, tuple[Slot, ...]]

    @classmethod
    def of(cls, graph: Graph, chosen: Chosen | None = None) -> Adjacency:
        """Return the lists of the chosen edges; of all of them by default."""
        slots: dict[str, list[Slot]] = {field: [] for field in graph.keys}
        for name, edges in graph.edges.items():
            kept = slice(None) if chosen is None else chosen[name]
            left, right, relation = edges.left[kept], edges.right[kept], edges.relation
            lefts, rights = len(graph.keys[relation.left]), len(graph.keys[relation.right])
            offsets = np.searchsorted(left, np.arange(lefts + 1)).astype(np.int64)
            slots[relation.left].append(Slot(name, relation.left, relation.right, offsets, right))
            slots[relation.right].append(
                Slot(name, relation.right, relation.left, *kernels.reverse(left, right, rights))
            )
        return cls(
            {f: len(keys) for f, keys in graph.keys.items()},
            {f: tuple(found) for f, found in slots.items()},
        )


@dataclass(frozen=True)
class Drawn:
    """Sampled neighbours of a slot's targets: numbers int32 [T, fanout] into the layer below, counts int32 [T]."""

    numbers: Ints
    counts: Ints


@dataclass(frozen=True)
class Block:
    """What one batch of edges of one relation reads.

    Attributes:
        left: int32 [b], for each edge the number of its left node among the targets of the left field.
        right: int32 [b], the same on the right.
        nodes: from the output down to the vectors, by field the nodes int32 [n] of a layer; a layer's own are the first of
            those of the layer below.
        drawn: from the output down, by field what each of its slots drew.
    """

    left: Ints
    right: Ints
    nodes: Sequence[Mapping[str, Ints]]
    drawn: Sequence[Mapping[str, tuple[Drawn, ...]]]


class Sampler:
    """Draws blocks. It keeps a number for each node, so one thread may use it at a time."""

    def __init__(self, adjacency: Adjacency, fanouts: Sequence[int]) -> None:
        self._adjacency, self._fanouts = adjacency, fanouts
        self._places = {
            field: np.zeros(count, np.int32) for field, count in adjacency.nodes.items()
        }

    def block(self, fields: tuple[str, str], left: Ints, right: Ints, seed: int) -> Block:
        """Return the block of edges between nodes `left` and `right`, int32 [b], of two fields; a seed draws the same."""
        state = np.array([seed], np.uint64)
        found: dict[str, tuple[Ints, int]] = {}
        numbers = [
            self._number(field, nodes, found)
            for field, nodes in zip(fields, (left, right), strict=True)
        ]
        layers, drawn = [_cut(found)], []
        for fanout in self._fanouts:
            drawn.append(self._layer(layers[-1], fanout, state, found))
            layers.append(_cut(found))
        for field, (nodes, count) in found.items():
            kernels.forget(self._places[field], nodes, count)
        return Block(numbers[0], numbers[1], layers, drawn)

    def _number(self, field: str, nodes: Ints, found: dict[str, tuple[Ints, int]]) -> Ints:
        known, count = _room(found, field, len(nodes), self._adjacency.nodes[field])
        numbers, count = kernels.distinct(nodes, self._places[field], known, count)
        found[field] = known, count
        return numbers

    def _layer(
        self,
        targets: Mapping[str, Ints],
        fanout: int,
        state: NDArray[np.uint64],
        found: dict[str, tuple[Ints, int]],
    ) -> dict[str, tuple[Drawn, ...]]:
        drawn: dict[str, tuple[Drawn, ...]] = {}
        for field, nodes in targets.items():
            drawn[field] = tuple(
                self._draw(slot, nodes, fanout, state, found)
                for slot in self._adjacency.slots[field]
            )
        return drawn

    def _draw(
        self,
        slot: Slot,
        nodes: Ints,
        fanout: int,
        state: NDArray[np.uint64],
        found: dict[str, tuple[Ints, int]],
    ) -> Drawn:
        known, count = _room(
            found, slot.other, len(nodes) * fanout, self._adjacency.nodes[slot.other]
        )
        numbers, counts, count = kernels.sample(
            slot.offsets, slot.ends, nodes, fanout, state, self._places[slot.other], known, count
        )
        found[slot.other] = known, count
        return Drawn(numbers, counts)


def _room(
    found: Mapping[str, tuple[Ints, int]], field: str, more: int, all_nodes: int
) -> tuple[Ints, int]:
    """The nodes found so far in an array with room for more."""
    known, count = found.get(field, (np.empty(0, np.int32), 0))
    wanted = min(count + more, all_nodes)
    if wanted <= len(known):
        return known, count
    grown = np.empty(wanted, np.int32)
    grown[:count] = known[:count]
    return grown, count


def _cut(found: Mapping[str, tuple[Ints, int]]) -> dict[str, Ints]:
    return {field: nodes[:count].copy() for field, (nodes, count) in found.items()}
