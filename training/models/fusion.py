"""Several models in one: the mean of their logits, each learned as if it were alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from features.schema import Relation, Schema
from training.data.arrays import Arrays
from training.data.field_groups import groups_of, of_member
from training.data.layout import Layout
from training.models.blocks import Blocks, Weights, load_weights
from training.models.ctr import CtrModel
from training.settings import ModelSettings


class FusionModel(tf.Module):
    """Mean of the members' logits; what a production team calls its multi-model bucket.

    Members share ids, groups and indices and nothing else: each has slabs (`<kind>_<slab>`) and weights (`<kind>/<weight>`) of
    its own. While learning, `forward` gives each member's logits, and each is learned by its own loss.
    """

    def __init__(
        self,
        schema: Schema,
        settings: ModelSettings,
        relations: Sequence[Relation] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(name="fusion")
        self.layout = Layout.of(schema, relations)
        self.groups = groups_of(self.layout, settings)
        self.settings = settings
        self.members = {
            kind: CtrModel(schema, settings.of_member(kind), relations, seed + number)
            for number, kind in enumerate(settings.members)
        }

    @property
    def slabs(self) -> dict[str, int]:
        """Names and widths of the slabs whose rows `forward` takes."""
        return {
            of_member(kind, slab): width
            for kind, member in self.members.items()
            for slab, width in member.slabs.items()
        }

    def blocks(self) -> dict[str, Blocks]:
        """Which rows of which weight belong to which input (see `training.models.blocks`)."""
        return {
            f"{kind}/{name}": value
            for kind, member in self.members.items()
            for name, value in member.blocks().items()
        }

    def variables_by_name(self) -> dict[str, tf.Variable]:
        """The dense weights that a gradient changes, for the optimizer."""
        named = {kind: member.variables_by_name() for kind, member in self.members.items()}
        return {
            f"{kind}/{name}": variable
            for kind, variables in named.items()
            for name, variable in variables.items()
        }

    def weights(self) -> Arrays:
        """Return all dense weights by name, as float32 arrays."""
        return {
            f"{kind}/{name}": value
            for kind, member in self.members.items()
            for name, value in member.weights().items()
        }

    def load(self, weights: Weights) -> None:
        """Set all dense weights.

        Raises:
            InputError: a weight is missing, unknown, or of another shape.
        """
        load_weights(self.all_variables(), weights)

    def all_variables(self) -> dict[str, tf.Variable]:
        """The dense weights of all members, learned or not, as `load` sets them."""
        return {
            f"{kind}/{name}": v
            for kind, member in self.members.items()
            for name, v in member.all_variables().items()
        }

    def start_at(self, logit: float) -> None:
        """Set every member's bias."""
        for member in self.members.values():
            member.start_at(logit)

    def forward(
        self,
        vectors: Mapping[str, tf.Tensor],
        dense: tf.Tensor,
        cross: tf.Tensor,
        dropout_seed: tf.Tensor | None = None,
        weights: Mapping[str, Any] | None = None,
    ) -> tf.Tensor:
        """Return the mean of the members' logits, float32 [b]; while learning, each one's, float32 [b, members].

        Arguments are those of `CtrModel.forward`, with the slabs of all members.
        """
        read = weights or self.all_variables()
        each = [
            member.forward(
                {slab: vectors[of_member(kind, slab)] for slab in member.slabs},
                dense,
                cross,
                dropout_seed,
                _own(read, kind),
            )
            for kind, member in self.members.items()
        ]
        return tf.add_n(each) / len(each) if dropout_seed is None else tf.stack(each, axis=1)


def _own(weights: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """A member's weights, by the names that it gives them."""
    return {
        name.removeprefix(f"{kind}/"): weight
        for name, weight in weights.items()
        if name.startswith(f"{kind}/")
    }
