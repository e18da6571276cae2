"""What is compared: sets of fields and declared crosses, with or without a relation network. Plain data, no TensorFlow."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from frappe_peers.data import FIELDS

from features.schema import Categorical, Cross, Schema, Timestamp
from training.settings import (
    AdmissionSettings,
    ModelSettings,
    RelationNetworkSettings,
    TrainingSettings,
)

Pair = tuple[str, str]

CONTEXT = FIELDS[2:]
_BY_ID = tuple((one, other) for one in FIELDS[:2] for other in CONTEXT)


@dataclass(frozen=True)
class Arm:
    """One model's inputs.

    Attributes:
        fields: of `FIELDS`, in their order.
        crosses: pairs of them, each an id of its own.
        relations: the relation network, or None.
        min_count: occurrences that give a value of a cross its row; they count on over the passes.
    """

    fields: tuple[str, ...] = FIELDS
    crosses: tuple[Pair, ...] = ()
    relations: RelationNetworkSettings | None = None
    min_count: int = 1

    def schema(self) -> Schema:
        """Return the schema of the ten columns, or those of them that are left, and of the crosses."""
        columns = [Categorical(name=own_name(name), column=name) for name in self.fields]
        crosses = [
            Cross(name=cross_name(pair), of=tuple(own_name(part) for part in pair))
            for pair in self.crosses
        ]
        timestamp = Timestamp(column="absent")
        return Schema(
            label="label",
            user="user",
            item="item",
            timestamp=timestamp,
            fields=(*columns, *crosses),
        )

    def model(self, base: ModelSettings) -> ModelSettings:
        """Return the model's settings with this arm's relation network."""
        return base.model_copy(update={"relations": self.relations})

    def training(self, batch: int, seed: int, rows: int) -> TrainingSettings:
        """Return the settings of learning `rows` impressions, shuffled as a whole."""
        counts = {cross_name(pair): self.min_count for pair in self.crosses}
        return TrainingSettings(
            batch_size=batch,
            seed=seed,
            shuffle_block=rows,
            admission=AdmissionSettings(min_counts=counts),
        )

    def keeping(self, kept: Collection[str]) -> Arm:
        """Return the arm with the uses of these names alone (see `own_name`, `cross_name`)."""
        fields = tuple(name for name in self.fields if own_name(name) in kept)
        return replace(
            self,
            fields=fields,
            crosses=tuple(pair for pair in self.crosses if cross_name(pair) in kept),
        )

    def described(self) -> Mapping[str, Any]:
        """Return all of it as data for JSON."""
        relations = self.relations.model_dump(mode="json") if self.relations else None
        return {
            "fields": self.fields,
            "crosses": self.crosses,
            "relations": relations,
            "min_count": self.min_count,
        }


def own_name(field: str) -> str:
    """Return a field's name in the schema, where `user` and `item` are taken."""
    return f"frappe_{field}"


def cross_name(pair: Pair) -> str:
    """Return a cross's name in the schema."""
    return f"{pair[0]}_x_{pair[1]}"


def arms(min_count: int, rank: int) -> dict[str, Arm]:
    """Return the arms by name.

    `crosses` are user and item with each context field: what a user would declare. User with item is left out there: two
    thirds of the validation rows have a pair that was not learned. `crosses_all` has all 45 pairs.

    Args:
        min_count: of `crosses_admitted`.
        rank: of `relations_vector`.
    """
    return {
        "neither": Arm(),
        "crosses": Arm(crosses=_BY_ID),
        "crosses_admitted": Arm(crosses=_BY_ID, min_count=min_count),
        "crosses_all": Arm(crosses=tuple(combinations(FIELDS, 2))),
        "relations": Arm(relations=RelationNetworkSettings()),
        "relations_vector": Arm(relations=RelationNetworkSettings(form="vector", rank=rank)),
    }
