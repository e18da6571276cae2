"""The systems of the published table, and ours, each within a budget of `rows` × DIM numbers a field, all tables counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from multi_hash_parts.learning import Recipe
from multi_hash_parts.tables import DIM
from training.models.multi_hash.settings import MultiHashSettings
from training.models.multi_hash.size import MultiHashSize, size

CHUNKS = 4
"""Chunks of the published QR-like system."""


@dataclass(frozen=True)
class Plan:
    """How one field is stored.

    Attributes:
        ids: how many ids it has.
        settings: of its small tables; None: a row for every id.
        own: how many of the most frequent ids keep rows of their own.
    """

    ids: int
    settings: MultiHashSettings | None
    own: int = 0

    @property
    def size(self) -> MultiHashSize | None:
        """The size stated up front; None for a full table."""
        return size(self.settings, DIM, self.ids, self.own) if self.settings else None

    @property
    def numbers(self) -> int:
        """How many numbers its tables hold."""
        return self.size.bytes // 4 if self.size else self.ids * DIM


@dataclass(frozen=True)
class System:
    """Both fields' plans and how the system is learned."""

    user: Plan
    item: Plan
    recipe: Recipe = field(default_factory=Recipe)


def system(name: str, rows: int, users: int, items: int) -> System:
    """Return a system by its name (see `SYSTEMS`) and budget."""
    plan, recipe = _MADE[name]
    made = System(plan(users, rows), plan(items, rows), recipe)
    weighted = any(
        p.settings is not None and p.settings.combine == "weighted" for p in (made.user, made.item)
    )
    return replace(made, recipe=replace(recipe, learning_rate=_WEIGHTED_RATE)) if weighted else made


def _full(ids: int, rows: int) -> Plan:
    return Plan(ids, None)


def _hash_trick(ids: int, rows: int) -> Plan:
    return Plan(ids, MultiHashSettings(hashes=1, rows=rows))


def _chunks(ids: int, rows: int) -> Plan:
    """Concatenated chunks from independent hashes."""
    return Plan(ids, MultiHashSettings(hashes=CHUNKS, rows=CHUNKS * rows, combine="concat"))


def _remainders(ids: int, rows: int) -> Plan:
    """Concatenated chunks by the remainders of the dense index: as few ids meet in a row as can be, and none in all chunks."""
    return Plan(
        ids,
        MultiHashSettings(
            kind="remainders", ids=ids, hashes=CHUNKS, rows=CHUNKS * rows, combine="concat"
        ),
    )


def _hash_embeddings(ids: int, rows: int) -> Plan:
    """Two hashes into one table and two weights of its own for every id; where they take most of the budget, hashed ones."""
    budget = rows * DIM
    own_weights = _HASHES * ids <= _MOST_WEIGHTS * budget
    weights = ids if own_weights else budget // 2 // _HASHES
    left = (budget - _HASHES * weights) // DIM
    told = {"ids": ids} if own_weights else {"weight_rows": weights}
    return Plan(
        ids, MultiHashSettings(hashes=_HASHES, rows=left, shared=True, combine="weighted", **told)
    )


def _ours(ids: int, rows: int) -> Plan:
    """What validation chose: all ids if they fit, remainders where a row is for two ids at most, else few weights for each.

    A sum of k rows with an id's own k weights is a factorisation of rank k: no two ids are the same to the model. Half of the
    rank that there is room for goes to every id, and what is left to rows of their own for the most frequent ones.
    """
    budget, room = rows * DIM, rows * DIM // (ids + DIM)
    if ids <= rows:
        return Plan(ids, MultiHashSettings(kind="remainders", ids=ids, hashes=1, rows=ids))
    if ids <= 2 * rows or not room:
        return _remainders(ids, rows)
    rank = max(1, room // 2)
    settings = MultiHashSettings(ids=ids, hashes=rank, rows=rank, combine="weighted")
    return Plan(ids, settings, own=(budget - rank * (ids + DIM)) // DIM)


_HASHES, _MOST_WEIGHTS = 2, 0.8
_WEIGHTED_RATE = 3e-3  # of AdamW; the published 1e-3 is too slow for weighted sums within 30 passes
_MADE: Mapping[str, tuple[Callable[[int, int], Plan], Recipe]] = {
    "full": (_full, Recipe()),
    "hash_trick": (_hash_trick, Recipe()),
    "concat_4": (_chunks, Recipe()),
    "remainders_4": (_remainders, Recipe()),
    "hash_embeddings": (_hash_embeddings, Recipe(epochs=15)),
    "ours": (_ours, Recipe()),
}

SYSTEMS = tuple(_MADE)
"""Names of the systems, `full` first."""

PUBLISHED: Mapping[str, Mapping[int, tuple[float, float]]] = {
    "full": {4096: (0.871, 0.876), 512: (0.871, 0.876)},
    "hash_trick": {4096: (0.720, 0.817), 512: (0.647, 0.661)},
    "concat_4": {4096: (0.857, 0.863), 512: (0.768, 0.779)},
    "remainders_4": {4096: (0.857, 0.863), 512: (0.768, 0.779)},
    "hash_embeddings": {4096: (0.827, 0.836), 512: (0.814, 0.819)},
}
"""Lowest and highest of three seeds' best passes, by rows (github.com/thomasahle/cce, results/ml-1m-30e)."""
