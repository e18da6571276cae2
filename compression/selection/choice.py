"""Which fields stay: those of the highest importance that fit a budget, each with what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from compression.selection.complexity import Size
from features.errors import InputError
from features.schema import Cross, Relation, Schema
from training.settings import GroupSettings


@dataclass(frozen=True)
class Budget:
    """What may not be exceeded; None: no limit.

    Attributes:
        keep: uses of fields.
        bytes: of a model that answers (`Footprint`).
        cost: values handled per impression.
    """

    keep: int | None = None
    bytes: int | None = None
    cost: float | None = None

    def allows(self, size: Size) -> bool:
        """Return whether a set of this size is within every limit."""
        limits = ((self.keep, size.count), (self.bytes, size.bytes), (self.cost, size.cost))
        return all(limit is None or value <= limit for limit, value in limits)


def needs(
    schema: Schema, relations: Sequence[Relation], groups: Sequence[GroupSettings] = ()
) -> dict[str, frozenset[str]]:
    """Return by use the fields it cannot be without: a cross's parts; a relation's two sides; its group; and what these need."""
    crosses = {f.name: frozenset(f.of) for f in schema.fields if isinstance(f, Cross)}
    sides = {r.name: frozenset((r.left, r.right)) for r in relations}
    parts = crosses | sides
    for group in groups:
        parts |= {
            name: parts.get(name, frozenset()) | (set(group.fields) - {name})
            for name in group.fields
        }
    return {name: _closure(name, parts) for name in parts}


def _closure(name: str, parts: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """What a use needs, and what that needs."""
    found, waiting = {name}, [name]
    while waiting:
        more = parts.get(waiting.pop(), frozenset()) - found
        found |= more
        waiting += more
    return frozenset(found - {name})


def choose(
    ranking: Sequence[str],
    parts: Mapping[str, frozenset[str]],
    size_of: Callable[[frozenset[str]], Size],
    budget: Budget,
) -> frozenset[str]:
    """Take the uses in order of importance, each with its parts, as long as they fit; one that does not is passed over.

    Args:
        ranking: the most important first.
        parts: what a use cannot be without (see `needs`).
        size_of: the size of any set.
        budget: the limits.

    Raises:
        InputError: nothing fits.
    """
    kept: frozenset[str] = frozenset()
    for name in ranking:
        wanted = kept | {name} | parts.get(name, frozenset())
        if budget.allows(size_of(wanted)):
            kept = wanted
    if not kept:
        least = min(
            size_of(frozenset({name}) | parts.get(name, frozenset())).bytes for name in ranking
        )
        raise InputError(
            f"{budget}: not even one field fits; the smallest model takes {least:,} bytes, so give more"
        )
    return kept
