"""What a field costs: measured complexity, its score in the penalty, and the size of any set of fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from compression.settings import SelectionSettings
from features.schema import Cross, Schema, vocabulary_of
from training.data.arrays import Arrays
from training.data.field_groups import DEFAULT, own_slab
from training.data.inputs import Inputs
from training.data.layout import Layout
from training.fit.learner import Learner
from training.models.blocks import Blocks
from training.models.cross_input import Encodings
from training.models.gates import uses
from training.models.parts.part import DEEP, role_of


@dataclass(frozen=True)
class Complexity:
    """The cost of one use of a field.

    Attributes:
        online: values handled per impression: 1 for an id or a number, the mean length of a list, 1 and its parts for a cross,
            2 (nodes) for a relation.
        width: values given to the model: the widths of its vectors in every slab, 2 for a number, 1 for a relation.
        rows: that answering needs: of its vocabulary, admitted and not zero, or nodes of a relation.
    """

    online: float
    width: int
    rows: int


def score(complexity: Complexity, settings: SelectionSettings) -> float:
    """Return `G(c) = γ₁·o + γ₂·e + γ₃·n`, which is the penalty weight α itself (see `prior_keep`)."""
    return (
        settings.online * complexity.online
        + settings.width * complexity.width
        + settings.rows * complexity.rows
    )


def prior_keep(score: float) -> float:
    """Return FSCD's prior `θ = 1 - σ(G)`: the dearer a field, the less likely it is kept.

    FSCD's weight is `α = log(1 - θ) - log θ = logit(σ(G)) = G`: it is the score.
    """
    return float(1 / (1 + np.exp(score)))


@dataclass(frozen=True)
class Size:
    """What a set of uses takes: how many they are, bytes of a model that answers, values handled per impression."""

    count: int
    bytes: int
    cost: float


@dataclass(frozen=True)
class Footprint:
    """Sizes of sets of uses of one model.

    Attributes:
        complexities: by use.
        vocabularies: id field → the vocabulary whose rows it reads, `group/vocabulary` in a group's table; the fields of one
            share them.
        row_bytes: of a row: key and vectors.
        group_row_bytes: by vocabulary, of rows that lie in a group's own table.
        pooled: by block, the fields whose vectors a pooled group makes one vector of; it goes with the last of them.
        node_bytes: of a relation's encodings.
        dense: dense weights by name.
        blocks: which of their rows belong to which use.
    """

    complexities: Mapping[str, Complexity]
    vocabularies: Mapping[str, str]
    row_bytes: int
    node_bytes: Mapping[str, int]
    dense: Arrays
    blocks: Mapping[str, Blocks]
    group_row_bytes: Mapping[str, int] = field(default_factory=dict)
    pooled: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def of(self, kept: frozenset[str]) -> Size:
        """Return the size of the model with these uses alone."""
        return Size(
            len(kept),
            self._rows(kept) + self._nodes(kept) + self._weights(kept),
            self._online(kept),
        )

    def _rows(self, kept: frozenset[str]) -> int:
        rows = {
            vocabulary: self.complexities[name].rows
            for name, vocabulary in self.vocabularies.items()
            if name in kept
        }
        return sum(
            count * self.group_row_bytes.get(vocabulary, self.row_bytes)
            for vocabulary, count in rows.items()
        )

    def _nodes(self, kept: frozenset[str]) -> int:
        return sum(size for name, size in self.node_bytes.items() if name in kept)

    def _weights(self, kept: frozenset[str]) -> int:
        return sum(
            round(w.nbytes * self._share(self.blocks.get(name), kept))
            for name, w in self.dense.items()
        )

    def _share(self, blocks: Blocks | None, kept: frozenset[str]) -> float:
        """The share of a weight that stays when only the blocks of `kept` do."""
        if blocks is None or not blocks.size:
            return 1.0
        gone = sum(rows for name, _, rows in blocks.ranges if self._is_gone(name, kept))
        return float((1 - gone / blocks.size) ** blocks.axes)

    def _is_gone(self, block: str, kept: frozenset[str]) -> bool:
        readers = self.pooled.get(block, frozenset({_use(block)})) & self.complexities.keys()
        return bool(readers) and not readers & kept

    def _online(self, kept: frozenset[str]) -> float:
        return sum(self.complexities[name].online for name in kept)


def measure(schema: Schema, learner: Learner, inputs: Inputs, encodings: Encodings) -> Footprint:
    """Measure the uses of a model's fields: rows as they are in its table, lengths of lists as they are in `inputs`."""
    layout = learner.model.layout
    groups, widths, given = learner.model.groups, _widths(learner), _given(learner)
    group_of = {name: group for group in groups for name in group.layout.keyed}
    vocabularies = {
        name: group_of[name].slab(vocabulary_of(schema.field(name))) for name in layout.keyed
    }
    rows, nodes = (
        _rows_by_vocabulary(learner, vocabularies),
        {name: encodings[name] for name in layout.relations if name in encodings},
    )
    keyed = {
        name: Complexity(online, given[group_of[name].name], rows[vocabularies[name]])
        for name, online in zip(layout.keyed, _lookups(schema, layout, inputs), strict=True)
    }
    others = {name: Complexity(1.0, 2, 0) for name in layout.dense}
    others |= {
        name: Complexity(2.0, 1, nodes[name].rows if name in nodes else 0)
        for name in layout.relations
    }
    return Footprint(
        complexities={name: (keyed | others)[name] for name in uses(layout)},
        vocabularies=vocabularies,
        row_bytes=_row_bytes(widths.get(DEFAULT, 0)),
        node_bytes={name: encoding.nbytes for name, encoding in nodes.items()},
        dense=learner.model.weights(),
        blocks=learner.model.blocks(),
        group_row_bytes={
            vocabularies[n]: _row_bytes(widths[g.name]) for n, g in group_of.items() if g.name
        },
        pooled={
            f"group:{group.name}": frozenset(group.layout.keyed)
            for group in groups
            if group.pooling != "concat"
        },
    )


_KEY_BYTES = 8
_VALUE_BYTES = 4


def _row_bytes(width: int) -> int:
    return _KEY_BYTES + _VALUE_BYTES * width


def _widths(learner: Learner) -> dict[str, int]:
    """By group, values of a row: the widths of its slabs."""
    widths = {group.name: 0 for group in learner.model.groups}
    for slab, width in learner.model.slabs.items():
        widths[own_slab(slab)[0]] += width
    return widths


def _given(learner: Learner) -> dict[str, int]:
    """By group, values of a field's vectors: those of a row, or of the rows that a deep vector is laid together from."""
    more = {group.name: group.dim - group.row_dim for group in learner.model.groups}
    given = _widths(learner)
    for group, own in map(own_slab, learner.model.slabs):
        given[group] += more[group] if role_of(own) == DEEP else 0
    return given


def _use(block: str) -> str:
    """The use that a block's name (`field:ad`, `cross:ad__user`) speaks of."""
    return block.partition(":")[2]


def _lookups(schema: Schema, layout: Layout, inputs: Inputs) -> list[float]:
    fields = [schema.field(name) for name in layout.singles]
    singles = [1.0 + len(f.of) if isinstance(f, Cross) else 1.0 for f in fields]
    return singles + [len(values.values) / max(1, len(inputs)) for values in inputs.lists]


def _rows_by_vocabulary(learner: Learner, vocabularies: Mapping[str, str]) -> dict[str, int]:
    """A key counts for the field that met it first, so the fields of a vocabulary are added up."""
    rows = dict.fromkeys(vocabularies.values(), 0)
    for name, figures in learner.table.statistics().fields.items():
        if name in vocabularies:
            rows[vocabularies[name]] += figures.rows - figures.zero_rows
    return rows
