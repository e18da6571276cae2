"""Which fields share a table and a width. Plain data, free of TensorFlow and NumPy, so that a configuration can be checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from features.errors import InputError
from training.data.layout import Layout
from training.settings import ModelSettings, Pooling

DEFAULT = ""
"""Name of the group of the fields that no other names."""


@dataclass(frozen=True)
class Group:
    """Fields whose rows lie in one table, are of one width, and enter the deep part in one way.

    Attributes:
        name: as in the YAML; `DEFAULT` of the fields that no group names.
        layout: of its fields alone, in the order of the whole model's, without numbers and relations.
        dim: width of its fields' deep vectors.
        pooling: how its fields' vectors are laid side by side (`concat`), or become one vector.
        l21: group lasso on its deep rows; None: that of `model.deep`.
    """

    name: str
    layout: Layout
    dim: int
    pooling: Pooling = "concat"
    l21: float | None = None

    @property
    def chunks(self) -> int:
        """Rows that a field's deep vector is laid together from; 1: it is one row, or the mean of several."""
        return (
            max(hashes for _, hashes in self.layout.chunks)
            if self.layout.chunks and self.name
            else 1
        )

    @property
    def row_dim(self) -> int:
        """Width of a deep row."""
        return self.dim // self.chunks

    def slab(self, own: str) -> str:
        """Return a slab's name in the model from the one in the group's table."""
        return slab_of(self.name, own)

    def widths(self) -> list[tuple[str, int]]:
        """Names and widths of what it gives the deep part: a block a field, or one for all of a pooled group."""
        if self.pooling == "concat":
            return [(f"field:{name}", self.dim) for name in self.layout.keyed]
        return [(f"group:{self.name}", self.dim)]


def groups_of(layout: Layout, settings: ModelSettings) -> tuple[Group, ...]:
    """Return a model's groups: `DEFAULT` first, unless every field is in another, then as in the YAML.

    Raises:
        InputError: a group names what is no id field of the schema, or a multi-hash field with `combine: concat` is in a group
            that has no place for its narrow rows.
    """
    named = {field: group.name for group in settings.groups for field in group.fields}
    unknown = sorted(set(named) - set(layout.keyed))
    if unknown:
        raise InputError(
            f"model.groups names {unknown}: the schema's id fields are {list(layout.keyed)}"
        )
    others = [
        Group(g.name, _only(layout, g.fields), g.dim, g.pooling, g.l21) for g in settings.groups
    ]
    rest = Group(
        DEFAULT, _only(layout, [name for name in layout.keyed if name not in named]), settings.dim
    )
    if (
        settings.kind != "logistic_regression"
    ):  # it reads the width-1 rows alone, which are pooled in any group
        _refuse_chunks_outside(rest)
    for group in others:
        _refuse_mixed_chunks(group)
    return (rest, *others) if rest.layout.keyed or not others else tuple(others)


def slab_of(group: str, own: str) -> str:
    """Return a slab's name in the model, `group/slab`, from the one in the group's table; of `DEFAULT` they are the same."""
    return f"{group}/{own}" if group else own


def own_slab(slab: str) -> tuple[str, str]:
    """Return the group's name and the slab's name in its table, from the slab's name in the model."""
    group, _, own = slab.rpartition("/")
    return group, own


def of_member(kind: str, slab: str) -> str:
    """Return what a fusion calls a slab of one of its members: `<kind>_<slab>`, in the same group."""
    group, own = own_slab(slab)
    return slab_of(group, f"{kind}_{own}")


def _only(layout: Layout, fields: Sequence[str]) -> Layout:
    singles, lists = (
        tuple(n for n in names if n in fields) for names in (layout.singles, layout.lists)
    )
    return Layout(
        singles,
        lists,
        (),
        (),
        tuple((name, hashes) for name, hashes in layout.chunks if name in fields),
    )


def _refuse_chunks_outside(rest: Group) -> None:
    if rest.layout.chunks:
        name, hashes = rest.layout.chunks[0]
        raise InputError(
            f"field {name!r} has multi_hash.combine: concat, whose rows are narrower than other fields', but no group: add "
            f"{{name: {name}_rows, fields: [{name}], dim: {_multiple(rest.dim, hashes)}}} to model.groups, or choose combine: sum"
        )


def _refuse_mixed_chunks(group: Group) -> None:
    if not group.layout.chunks:
        return
    made_of = dict(group.layout.chunks)
    name, hashes = group.layout.chunks[0]
    others = [field for field in group.layout.keyed if made_of.get(field) != hashes]
    if others:
        raise InputError(
            f"model.groups: group {group.name!r} has field {name!r}, whose multi_hash (combine: concat, hashes: {hashes}) makes "
            f"rows 1/{hashes} of dim wide, beside {others}: move these to another group, or give them the same combine and hashes"
        )
    if group.dim % hashes:
        raise InputError(
            f"model.groups: group {group.name!r} has dim {group.dim}, which field {name!r} (multi_hash.combine: concat) cannot "
            f"lay together from {hashes} rows: set dim to a multiple of {hashes}, such as {_multiple(group.dim, hashes)}"
        )


def _multiple(dim: int, hashes: int) -> int:
    """The least multiple of `hashes` that is not below `dim`."""
    return -(-dim // hashes) * hashes
