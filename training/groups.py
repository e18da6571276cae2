"""Which fields share a table and a width. Plain data, free of TensorFlow and NumPy, so that a configuration can be checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from features.errors import InputError
from training.layout import Layout
from training.settings import ModelSettings, Pooling

DEFAULT = ""
"""Name of the group of the fields that no other names."""


@dataclass(frozen=True)
class Group:
    """Fields whose rows lie in one table, are of one width, and enter the deep part in one way.

    Attributes:
        name: as in the YAML; `DEFAULT` of the fields that no group names.
        layout: of its fields alone, in the order of the whole model's, without numbers and relations.
        dim: width of its deep rows.
        pooling: how its fields' vectors are laid side by side (`concat`), or become one vector.
        l21: group lasso on its deep rows; None: that of `model.deep`.
    """

    name: str
    layout: Layout
    dim: int
    pooling: Pooling = "concat"
    l21: float | None = None

    def slab(self, own: str) -> str:
        """Return a slab's name in the model, `group/slab`, from the one in the group's table; of `DEFAULT` they are the same."""
        return f"{self.name}/{own}" if self.name else own

    def widths(self) -> list[tuple[str, int]]:
        """Names and widths of what it gives the deep part: a block a field, or one for all of a pooled group."""
        if self.pooling == "concat":
            return [(f"field:{name}", self.dim) for name in self.layout.keyed]
        return [(f"group:{self.name}", self.dim)]


def groups_of(layout: Layout, settings: ModelSettings) -> tuple[Group, ...]:
    """Return a model's groups: `DEFAULT` first, unless every field is in another, then as in the YAML.

    Raises:
        InputError: a group names what is no id field of the schema.
    """
    named = {field: group.name for group in settings.groups for field in group.fields}
    unknown = sorted(set(named) - set(layout.keyed))
    if unknown:
        raise InputError(f"model.groups names {unknown}: the schema's id fields are {list(layout.keyed)}")
    others = [Group(g.name, _only(layout, g.fields), g.dim, g.pooling, g.l21) for g in settings.groups]
    rest = Group(DEFAULT, _only(layout, [name for name in layout.keyed if name not in named]), settings.dim)
    return (rest, *others) if rest.layout.keyed or not others else tuple(others)


def own_slab(slab: str) -> tuple[str, str]:
    """Return the group's name and the slab's name in its table, from the slab's name in the model."""
    group, _, own = slab.rpartition("/")
    return group, own


def of_member(kind: str, slab: str) -> str:
    """Return what a fusion calls a slab of one of its members: `<kind>_<slab>`, in the same group."""
    group, own = own_slab(slab)
    return f"{group}/{kind}_{own}" if group else f"{kind}_{own}"


def _only(layout: Layout, fields: Sequence[str]) -> Layout:
    singles, lists = (tuple(n for n in names if n in fields) for names in (layout.singles, layout.lists))
    return Layout(singles, lists, (), ())
