"""The cost of a field, the size of any set of fields, and the set that fits a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from compression.settings import SelectionSettings
from features.errors import InputError
from features.schema import Cross, Relation, Schema, vocabulary_of
from training.data.arrays import Arrays
from training.data.inputs import Inputs
from training.data.layout import DEFAULT_GROUP, split_slab
from training.fit.learner import Learner
from training.models.encoding_inputs import Encodings
from training.models.gates import uses
from training.models.parts.part import DEEP, role_of
from training.models.weight_transfer import Blocks
from training.settings import GroupSettings

_KEY_BYTES = 8
_VALUE_BYTES = 4


@dataclass(frozen=True)
class Complexity:
    """The cost of one use of a field.

    Attributes:
        online: values handled per impression: 1 for an id or a number, the mean length of a list, 1
            and its parts for a cross, 2 (nodes) for a relation.
        width: values given to the model: the widths of its vectors in every slab, 2 for a number, 1
            for a relation.
        rows: needed for serving: admitted rows of its vocabulary that are not zero, or nodes of a
            relation.
    """

    online: float
    width: int
    rows: int

    def score(self, settings: SelectionSettings) -> float:
        """Return `G(c) = γ₁·o + γ₂·e + γ₃·n`, the weight of the field in FSCD's penalty.

        The weight is `α = log(1 - θ) - log θ = logit(σ(G)) = G`: it equals the score.
        """
        cost = settings.online * self.online + settings.width * self.width
        return cost + settings.rows * self.rows


def prior_keep(score: float) -> float:
    """Return FSCD's prior `θ = 1 - σ(G)`: the more a field costs, the less probable it is kept."""
    return float(1 / (1 + np.exp(score)))


@dataclass(frozen=True)
class ModelSize:
    """The size of a model with a set of uses.

    Attributes:
        count: uses.
        bytes: of a model that serves.
        cost: values handled per impression.
    """

    count: int
    bytes: int
    cost: float


@dataclass(frozen=True)
class Footprint:
    """The sizes of sets of uses of one model.

    Attributes:
        complexities: by use.
        vocabularies: id field → the vocabulary whose rows it reads, in a group's table
            `group/vocabulary`; the fields of a vocabulary share them.
        row_bytes: of a row: key and vectors.
        node_bytes: of a relation's encodings.
        dense: dense weights by name.
        blocks: which rows of the dense weights belong to which use.
        group_row_bytes: by vocabulary, of rows in a group's own table.
        pooled: by block, the fields whose vectors a pooled group makes one vector of; the block is
            removed with the last of them.
    """

    complexities: Mapping[str, Complexity]
    vocabularies: Mapping[str, str]
    row_bytes: int
    node_bytes: Mapping[str, int]
    dense: Arrays
    blocks: Mapping[str, Blocks]
    group_row_bytes: Mapping[str, int] = field(default_factory=dict)
    pooled: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def of(self, kept: frozenset[str]) -> ModelSize:
        """Return the size of the model with these uses alone."""
        # 1. Rows: fields of one vocabulary share them, so they are counted once.
        read = {v: self.complexities[n].rows for n, v in self.vocabularies.items() if n in kept}
        rows = sum(n * self.group_row_bytes.get(v, self.row_bytes) for v, n in read.items())

        # 2. Encodings of relations, and dense weights by the inputs that are left.
        nodes = sum(size for name, size in self.node_bytes.items() if name in kept)
        weights = 0
        for name, weight in self.dense.items():
            weights += round(weight.nbytes * self._kept_share(self.blocks.get(name), kept))
        online = sum(self.complexities[name].online for name in kept)
        return ModelSize(len(kept), rows + nodes + weights, online)

    def _kept_share(self, blocks: Blocks | None, kept: frozenset[str]) -> float:
        """The share of a weight that is left when only the blocks of `kept` are."""
        if blocks is None or not blocks.size:
            return 1.0
        removed = 0
        for block, _, rows in blocks.ranges:
            # Without a pooled group, a block (`field:ad`, `cross:ad__user`) has one use.
            readers = self.pooled.get(block, frozenset({block.partition(":")[2]}))
            # A block that is not of a use stays.
            readers = readers & self.complexities.keys()
            if readers and not readers & kept:
                removed += rows
        # A weight with blocks on two axes, a cross network's kernel, loses rows and columns.
        return float((1 - removed / blocks.size) ** blocks.axes)


def measure(schema: Schema, learner: Learner, inputs: Inputs, encodings: Encodings) -> Footprint:
    """Measure the uses of a model's fields: rows in its table, lengths of the lists in `inputs`."""
    layout, groups = learner.model.layout, learner.model.groups
    group_of = {name: group for group in groups for name in group.layout.keyed}
    vocabularies = {
        name: group_of[name].slab(vocabulary_of(schema.field(name))) for name in layout.keyed
    }

    # 1. Values per row, and per field: a deep vector may be concatenated from several rows.
    row_width = {group.name: 0 for group in groups}
    field_width = dict(row_width)
    more = {group.name: group.dim - group.row_dim for group in groups}
    for slab, width in learner.model.slabs.items():
        group, own_name = split_slab(slab)
        row_width[group] += width
        field_width[group] += width + (more[group] if role_of(own_name) == DEEP else 0)
    row_bytes = {name: _KEY_BYTES + _VALUE_BYTES * width for name, width in row_width.items()}

    # 2. Rows by vocabulary. A key is counted for the field that saw it first, so the fields of a
    #    vocabulary are added up.
    rows = dict.fromkeys(vocabularies.values(), 0)
    for name, figures in learner.table.statistics().fields.items():
        if name in vocabularies:
            rows[vocabularies[name]] += figures.rows - figures.zero_rows

    # 3. Complexities.
    online = {}
    for name in layout.singles:
        single = schema.field(name)
        online[name] = 1.0 + len(single.of) if isinstance(single, Cross) else 1.0
    for name, values in zip(layout.lists, inputs.lists, strict=True):
        online[name] = len(values.values) / max(1, len(inputs))
    complexities = {
        name: Complexity(online[name], field_width[group_of[name].name], rows[vocabularies[name]])
        for name in layout.keyed
    }
    # A number has a value and a flag that it is present, a relation two nodes and one value.
    complexities |= {name: Complexity(1.0, 2, 0) for name in layout.dense}
    for name in layout.relations:
        nodes = encodings[name].rows if name in encodings else 0
        complexities[name] = Complexity(2.0, 1, nodes)

    return Footprint(
        complexities={name: complexities[name] for name in uses(layout)},
        vocabularies=vocabularies,
        row_bytes=row_bytes.get(DEFAULT_GROUP, _KEY_BYTES),
        node_bytes={n: encodings[n].nbytes for n in layout.relations if n in encodings},
        dense=learner.model.weights(),
        blocks=learner.model.blocks(),
        group_row_bytes={
            vocabularies[name]: row_bytes[group.name]
            for name, group in group_of.items()
            if group.name
        },
        pooled={
            f"group:{group.name}": frozenset(group.layout.keyed)
            for group in groups
            if group.pooling != "concat"
        },
    )


@dataclass(frozen=True)
class Budget:
    """Limits of a set of uses; None: no limit.

    Attributes:
        keep: uses of fields.
        bytes: of a model that serves (`Footprint`).
        cost: values handled per impression.
    """

    keep: int | None = None
    bytes: int | None = None
    cost: float | None = None

    def allows(self, size: ModelSize) -> bool:
        """Return whether a set of this size is within every limit."""
        limits = ((self.keep, size.count), (self.bytes, size.bytes), (self.cost, size.cost))
        return all(limit is None or value <= limit for limit, value in limits)


def needs(
    schema: Schema, relations: Sequence[Relation], groups: Sequence[GroupSettings] = ()
) -> dict[str, frozenset[str]]:
    """Return by use the fields that it cannot be without.

    They are the parts of a cross, both sides of a relation, the other fields of a group, and what
    these need.
    """
    # 1. What each use needs directly.
    parts = {f.name: frozenset(f.of) for f in schema.fields if isinstance(f, Cross)}
    parts |= {r.name: frozenset((r.left, r.right)) for r in relations}
    for group in groups:
        for name in group.fields:
            parts[name] = parts.get(name, frozenset()) | (set(group.fields) - {name})

    # 2. And what these need: a relation of a cross needs the parts of the cross.
    closed = {}
    for name in parts:
        found, waiting = {name}, [name]
        while waiting:
            more = parts.get(waiting.pop(), frozenset()) - found
            found |= more
            waiting += more
        closed[name] = frozenset(found - {name})
    return closed


def choose(
    ranking: Sequence[str],
    parts: Mapping[str, frozenset[str]],
    size_of: Callable[[frozenset[str]], ModelSize],
    budget: Budget,
) -> frozenset[str]:
    """Choose uses in order of importance, each with its parts; one that does not fit is skipped.

    Args:
        ranking: the most important first.
        parts: what a use cannot be without (see `needs`).
        size_of: the size of any set.
        budget: the limits.

    Raises:
        InputError: nothing fits.
    """
    # Greedy, and without a stop: a small field may fit after a large one did not.
    kept: frozenset[str] = frozenset()
    for name in ranking:
        wanted = kept | {name} | parts.get(name, frozenset())
        if budget.allows(size_of(wanted)):
            kept = wanted
    if not kept:
        alone = [frozenset({name}) | parts.get(name, frozenset()) for name in ranking]
        raise InputError(
            f"{budget}: not even one field fits; the smallest model takes "
            f"{min(size_of(each).bytes for each in alone):,} bytes, so give more"
        )
    return kept
