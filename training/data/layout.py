"""How the fields of a schema enter a model: their order, their groups, and the model's description.

Plain data without TensorFlow and NumPy, so that a configuration can be checked quickly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from features.errors import InputError
from features.schema import Categorical, MultiValued, Relation, Schema, is_pooled
from training.settings import ModelSettings, Pooling

DEFAULT_GROUP = ""
"""Name of the group of the fields that `model.groups` does not name."""


@dataclass(frozen=True)
class FieldLayout:
    """Names of the fields by the way they enter the model, each in the schema's order.

    Attributes:
        singles: id fields with one key per impression, including crosses.
        lists: id fields with several keys, which are pooled: multi-valued and multi-hash fields.
        dense: numeric fields that enter as a standardised number and a flag.
        relations: names of the relations whose p_uv enters as a number.
        chunks: the lists whose deep vector is concatenated from several rows, with their number.
    """

    singles: tuple[str, ...]
    lists: tuple[str, ...]
    dense: tuple[str, ...]
    relations: tuple[str, ...]
    chunks: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, schema: Schema, relations: Sequence[Relation] = ()) -> Self:
        """Return the layout of a schema.

        Raises:
            InputError: a relation names a field that is not a single-valued id field.
        """
        keyed = schema.key_fields()
        single_valued = [f.name for f in keyed if not isinstance(f, MultiValued)]
        unknown = {name for r in relations for name in (r.left, r.right)} - set(single_valued)
        if unknown:
            raise InputError(
                f"relations name {sorted(unknown)}, which are no single-valued id fields of the "
                f"schema ({single_valued}): correct them"
            )
        hashed = [(f.name, f.multi_hash) for f in keyed if isinstance(f, Categorical)]
        return cls(
            singles=tuple(f.name for f in keyed if not is_pooled(f)),
            lists=tuple(f.name for f in keyed if is_pooled(f)),
            dense=tuple(f.name for f in schema.dense_fields()),
            relations=tuple(r.name for r in relations),
            chunks=tuple((name, m.hashes) for name, m in hashed if m and m.combine == "concat"),
        )

    @property
    def keyed(self) -> tuple[str, ...]:
        """Id fields in the order of the model's [b, F, d] inputs: singles, then lists."""
        return self.singles + self.lists

    def only(self, fields: Sequence[str]) -> FieldLayout:
        """Return the layout of some of the id fields, without numbers and relations."""
        return FieldLayout(
            tuple(name for name in self.singles if name in fields),
            tuple(name for name in self.lists if name in fields),
            (),
            (),
            tuple((name, hashes) for name, hashes in self.chunks if name in fields),
        )


@dataclass(frozen=True)
class Group:
    """Fields that share a table and a width, and enter the deep part in the same way.

    Attributes:
        name: as in the YAML, or `DEFAULT_GROUP`.
        layout: of its fields alone, in the order of the model's layout.
        dim: width of its fields' deep vectors.
        pooling: concatenate its fields' vectors, or take their mean or sum.
        l21: group lasso on its deep rows; None: that of `model.deep`.
    """

    name: str
    layout: FieldLayout
    dim: int
    pooling: Pooling = "concat"
    l21: float | None = None

    @property
    def chunks(self) -> int:
        """Rows that are concatenated to a field's deep vector; 1 if it is one row or a mean."""
        if not self.layout.chunks or self.name == DEFAULT_GROUP:
            return 1
        return max(hashes for _, hashes in self.layout.chunks)

    @property
    def row_dim(self) -> int:
        """Width of a deep row."""
        return self.dim // self.chunks

    def slab(self, name: str) -> str:
        """Return the name in the model of a slab of the group's table."""
        return slab_of(self.name, name)

    def widths(self) -> list[tuple[str, int]]:
        """Names and widths of its inputs to the deep part: one per field, or one if pooled."""
        if self.pooling == "concat":
            return [(f"field:{name}", self.dim) for name in self.layout.keyed]
        return [(f"group:{self.name}", self.dim)]


@dataclass(frozen=True)
class ModelSpec:
    """The description of a model: what it reads and how it is built.

    Create it once and pass it on; `layout` and `groups` are computed and checked once.
    """

    schema: Schema
    model: ModelSettings
    relations: tuple[Relation, ...] = ()

    @cached_property
    def layout(self) -> FieldLayout:
        """The layout of all fields; see `FieldLayout.of` for its errors."""
        return FieldLayout.of(self.schema, self.relations)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups of the fields; see `groups_of` for their errors."""
        return groups_of(self.layout, self.model)


def groups_of(layout: FieldLayout, settings: ModelSettings) -> tuple[Group, ...]:
    """Return a model's groups: `DEFAULT_GROUP` first, unless it is empty, then as in the YAML.

    Raises:
        InputError: a group names a field that is no id field of the schema, or a multi-hash field
            with `combine: concat` is in a group whose rows do not have its width.
    """
    named = {field for group in settings.groups for field in group.fields}
    unknown = sorted(named - set(layout.keyed))
    if unknown:
        raise InputError(
            f"model.groups names {unknown}: the schema's id fields are {list(layout.keyed)}"
        )
    # 1. The named groups, and a group of all other fields.
    others = tuple(
        Group(g.name, layout.only(g.fields), g.dim, g.pooling, g.l21) for g in settings.groups
    )
    rest = layout.only([name for name in layout.keyed if name not in named])
    # 2. Check that every group has rows of one width.
    #    A logistic regression reads only rows of width 1, which are pooled in any group.
    if rest.chunks and settings.kind != "logistic_regression":
        name, hashes = rest.chunks[0]
        raise InputError(
            f"field {name!r} has multi_hash.combine: concat, whose rows are narrower than other "
            f"fields', but no group: add {{name: {name}_rows, fields: [{name}], "
            f"dim: {_multiple(settings.dim, hashes)}}} to model.groups, or choose combine: sum"
        )
    for group in others:
        _check_chunks(group)
    # The default group stays if there are no others: a model needs at least one table.
    if others and not rest.keyed:
        return others
    return (Group(DEFAULT_GROUP, rest, settings.dim), *others)


def slab_of(group: str, slab: str) -> str:
    """Return the name in the model of a slab of a group's table: `group/slab`.

    Slabs of `DEFAULT_GROUP` have the same name in the model as in the table. This and
    `split_slab` are the only places that know this rule.
    """
    return slab if group == DEFAULT_GROUP else f"{group}/{slab}"


def split_slab(slab: str) -> tuple[str, str]:
    """Return the group and the slab's name in its table, from the slab's name in the model."""
    group, _, name = slab.rpartition("/")
    return group, name


def _check_chunks(group: Group) -> None:
    """Check that all fields of a group are concatenated from equally many rows, if any is."""
    if not group.layout.chunks:
        return
    hashes_of = dict(group.layout.chunks)
    name, hashes = group.layout.chunks[0]
    others = [field for field in group.layout.keyed if hashes_of.get(field) != hashes]
    if others:
        raise InputError(
            f"model.groups: group {group.name!r} has field {name!r}, whose multi_hash (combine: "
            f"concat, hashes: {hashes}) makes rows 1/{hashes} of dim wide, together with {others}: "
            "move these to another group, or give them the same combine and hashes"
        )
    if group.dim % hashes:
        raise InputError(
            f"model.groups: group {group.name!r} has dim {group.dim}, which field {name!r} "
            f"(multi_hash.combine: concat) cannot concatenate from {hashes} rows: set dim to a "
            f"multiple of {hashes}, such as {_multiple(group.dim, hashes)}"
        )


def _multiple(dim: int, hashes: int) -> int:
    """Return the least multiple of `hashes` that is at least `dim`."""
    return -(-dim // hashes) * hashes
