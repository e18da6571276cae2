"""Where each key of a batch belongs: from the fields of a model to the tables of its groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.field_groups import Group
from training.data.layout import Layout


@dataclass(frozen=True)
class Routing:
    """Sends each key of a batch to its field's group.

    Attributes:
        names: of the groups.
        owner: int16 [F], by field code: its group's place in `names`.
        place: int16 [F], by field code: its code within the group.
    """

    names: tuple[str, ...]
    owner: NDArray[np.int16]
    place: NDArray[np.int16]

    @classmethod
    def of(cls, layout: Layout, groups: Sequence[Group]) -> Routing:
        """Return the routing of a model, whose field codes are places in `layout.keyed`."""
        at = {
            name: (number, place)
            for number, g in enumerate(groups)
            for place, name in enumerate(g.layout.keyed)
        }
        owner, place = np.array([at[name] for name in layout.keyed], np.int16).reshape(-1, 2).T
        return cls(tuple(group.name for group in groups), owner, place)

    def split(
        self, keys: NDArray[np.int64], fields: NDArray[np.int16]
    ) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.int16]]]:
        """Yield each group's name, its keys int64 [m] in the order they had, and their field codes within it, int16 [m].

        Args:
            keys: int64 [n], as `Inputs.flat_keys` gives them.
            fields: int16 [n], as `Inputs.flat_fields` gives them.
        """
        owner = self.owner[fields]
        for number, name in enumerate(self.names):
            chosen = owner == number
            yield name, keys[chosen], self.place[fields[chosen]]
